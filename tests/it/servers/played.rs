//! Every service that a destination can post to, as its documents describe it: where it listens, what it checks in a
//! request, and how it refuses.

use serde_json::{Value, json};

use super::recorder::{Received, Reply};

/// A kind of destination with a service that it posts to.
pub struct Played {
    /// The kind, and which of its ways to connect.
    pub kind: &'static str,
    pub way: &'static str,
    /// The configuration for a service at this address.
    pub config: fn(&str) -> Value,
    /// The service: the answer to a request, after checking it.
    pub answer: fn(&Received) -> Reply,
    /// How it limits, and the pause in seconds that this asks for.
    pub limited: fn() -> Reply,
    pub pause: u64,
    /// How it refuses every message.
    pub parked: fn() -> Reply,
    /// How it refuses one message.
    pub refused: fn() -> Reply,
    /// What people read of a payload.
    pub shown: fn(&Value) -> Vec<String>,
}

/// Everything except the console and e-mail, which have tests of their own.
pub const PLAYED: &[Played] = &[
    Played {
        kind: "slack",
        way: "webhook",
        config: |base| json!({ "webhook_url": format!("{base}/services/T0/B0/key") }),
        answer: |request| super::slack::answer(request, &mut Vec::new()),
        limited: || Reply::new(429, "").with("retry-after", "7"),
        pause: 7,
        parked: || Reply::new(404, "no_service"),
        refused: || Reply::new(400, "too_many_attachments"),
        shown: |payload| vec![text(&payload["blocks"][1]["text"]["text"])],
    },
    Played {
        kind: "matrix",
        way: "room",
        config: |base| json!({ "homeserver": base, "room": "!a:m.example", "access_token": "matrix-token" }),
        answer: matrix,
        limited: || Reply::new(429, r#"{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":7000}"#),
        pause: 7,
        parked: || Reply::new(401, r#"{"errcode":"M_UNKNOWN_TOKEN"}"#),
        refused: || Reply::new(413, r#"{"errcode":"M_TOO_LARGE"}"#),
        shown: |payload| vec![text(&payload["body"])],
    },
    Played {
        kind: "webhook",
        way: "",
        config: |base| json!({ "url": format!("{base}/sms") }),
        answer: |request| {
            demand(
                request.path == "/sms" && request.json()["text"].is_string(),
                Reply::new(204, ""),
            )
        },
        limited: || Reply::new(429, "").with("retry-after", "7"),
        pause: 7,
        parked: || Reply::new(401, ""),
        refused: || Reply::new(422, ""),
        shown: |payload| vec![text(&payload["text"])],
    },
    Played {
        kind: "teams",
        way: "",
        config: |base| json!({ "webhook_url": format!("{base}/workflows/a1b2c3/triggers/manual/paths/invoke?sig=a-signature") }),
        answer: teams,
        limited: || Reply::new(429, "").with("retry-after", "7"),
        pause: 7,
        parked: || {
            Reply::new(
                400,
                r#"{"error":{"code":"WorkflowTriggerIsNotEnabled","message":"off"}}"#,
            )
        },
        refused: || Reply::new(413, ""),
        shown: |payload| {
            let blocks = payload["attachments"][0]["content"]["body"].as_array().unwrap();
            blocks
                .iter()
                .map(|block| text(&block["inlines"][0]["text"]))
                .collect()
        },
    },
    Played {
        kind: "telegram",
        way: "",
        config: |base| json!({ "token": "123456:telegram-token", "chat_id": "-1001234567890", "api_url": base }),
        answer: |request| {
            telegram(request).unwrap_or_else(|description| {
            let body = json!({ "ok": false, "error_code": 400, "description": format!("Bad Request: {description}") });
            Reply::new(400, &body.to_string())
        })
        },
        limited: || {
            Reply::new(
                429,
                r#"{"ok":false,"error_code":429,"description":"Too Many Requests: retry after 7","parameters":{"retry_after":7}}"#,
            )
        },
        pause: 7,
        parked: || {
            Reply::new(
                403,
                r#"{"ok":false,"error_code":403,"description":"Forbidden: bot was kicked from the group chat"}"#,
            )
        },
        refused: || {
            Reply::new(
                400,
                r#"{"ok":false,"error_code":400,"description":"Bad Request: message is too long"}"#,
            )
        },
        shown: |payload| vec![text(&payload["text"])],
    },
    Played {
        kind: "discord",
        way: "",
        config: |base| json!({ "webhook_url": format!("{base}/api/webhooks/123456/discord-token"), "thread_id": "987" }),
        answer: discord,
        limited: || {
            Reply::new(
                429,
                r#"{"message":"You are being rate limited.","retry_after":6.5,"global":false}"#,
            )
            .with("retry-after", "7")
        },
        pause: 6,
        parked: || Reply::new(404, r#"{"message":"Unknown Webhook","code":10015}"#),
        refused: || Reply::new(400, r#"{"message":"Invalid Form Body","code":50035}"#),
        shown: |payload| vec![text(&payload["content"])],
    },
    Played {
        kind: "ntfy",
        way: "",
        config: |base| json!({ "url": base, "topic": "sms", "token": "tk_ntfy-token", "priority": 4 }),
        answer: ntfy,
        limited: || {
            Reply::new(
                429,
                r#"{"code":42901,"http":429,"error":"limit reached: too many requests"}"#,
            )
            .with("retry-after", "7")
        },
        pause: 7,
        parked: || Reply::new(403, r#"{"code":40301,"http":403,"error":"forbidden"}"#),
        refused: || Reply::new(413, r#"{"code":41301,"http":413,"error":"attachment too large"}"#),
        shown: |payload| vec![text(&payload["title"]), text(&payload["message"])],
    },
    Played {
        kind: "pagerduty",
        way: "",
        config: |base| json!({ "routing_key": "0123456789abcdef0123456789abcdef", "severity": "warning", "api_url": base }),
        answer: pagerduty,
        limited: || Reply::new(429, "").with("retry-after", "7"),
        pause: 7,
        parked: || invalid_event("Length of 'routing_key' is incorrect (should be 32 characters)"),
        refused: || invalid_event("'payload.summary' is missing or blank"),
        shown: |payload| {
            vec![
                text(&payload["payload"]["summary"]),
                text(&payload["payload"]["custom_details"]["text"]),
            ]
        },
    },
    Played {
        kind: "mattermost",
        way: "webhook",
        config: |base| json!({ "webhook_url": format!("{base}/hooks/mattermost-key") }),
        answer: |request| match request.path.as_str() {
            "/hooks/mattermost-key" => demand(
                request.json()["text"]
                    .as_str()
                    .is_some_and(|text| (1..=16_383).contains(&text.chars().count())),
                Reply::new(200, "ok"),
            ),
            _ => Reply::new(404, ""),
        },
        limited: || Reply::new(429, "limit exceeded").with("x-ratelimit-reset", "7"),
        pause: 7,
        parked: || {
            Reply::new(
                400,
                r#"{"id":"web.incoming_webhook.invalid.app_error","message":"Invalid webhook.","status_code":400}"#,
            )
        },
        refused: || {
            Reply::new(
                400,
                r#"{"id":"web.incoming_webhook.text.app_error","message":"No text specified.","status_code":400}"#,
            )
        },
        shown: |payload| vec![text(&payload["text"])],
    },
    Played {
        kind: "mattermost",
        way: "token",
        config: |base| json!({ "url": base, "token": "mattermost-token", "channel_id": "abcdefghijklmnopqrstuvwxyz" }),
        answer: mattermost,
        limited: || Reply::new(429, "limit exceeded").with("x-ratelimit-reset", "7"),
        pause: 7,
        parked: || {
            Reply::new(
                403,
                r#"{"id":"api.context.permissions.app_error","message":"You do not have the appropriate permissions."}"#,
            )
        },
        refused: || {
            Reply::new(
                400,
                r#"{"id":"api.context.invalid_body_param.app_error","message":"Invalid post."}"#,
            )
        },
        shown: |payload| vec![text(&payload["message"])],
    },
    Played {
        kind: "google-chat",
        way: "",
        config: |base| json!({ "webhook_url": format!("{base}/v1/spaces/AAA/messages?key=google-key&token=google-token") }),
        answer: google_chat,
        limited: || {
            Reply::new(
                429,
                r#"{"error":{"code":429,"message":"Quota exceeded","status":"RESOURCE_EXHAUSTED"}}"#,
            )
        },
        pause: 0,
        parked: || {
            Reply::new(
                404,
                r#"{"error":{"code":404,"message":"Space not found","status":"NOT_FOUND"}}"#,
            )
        },
        refused: || {
            Reply::new(
                400,
                r#"{"error":{"code":400,"message":"Invalid JSON payload","status":"INVALID_ARGUMENT"}}"#,
            )
        },
        shown: |payload| vec![text(&payload["text"])],
    },
    Played {
        kind: "pushover",
        way: "",
        config: |base| json!({ "token": "pushover-token", "user": "pushover-user", "priority": 2, "api_url": base }),
        answer: pushover,
        // Far away: the pause is at most a day.
        limited: || Reply::new(429, r#"{"status":0}"#).with("x-limit-app-reset", "4102444800"),
        pause: 24 * 60 * 60,
        parked: || {
            Reply::new(
                400,
                r#"{"user":"invalid","errors":["user identifier is invalid"],"status":0}"#,
            )
        },
        refused: || {
            Reply::new(
                400,
                r#"{"message":"cannot be blank","errors":["message cannot be blank"],"status":0}"#,
            )
        },
        shown: |payload| vec![text(&payload["title"]), text(&payload["message"])],
    },
    Played {
        kind: "gotify",
        way: "",
        config: |base| json!({ "url": base, "token": "gotify-token", "priority": 0 }),
        answer: gotify,
        limited: || Reply::new(429, "").with("retry-after", "7"),
        pause: 7,
        parked: || {
            Reply::new(
                401,
                r#"{"error":"Unauthorized","errorCode":401,"errorDescription":"you need to provide a valid access token"}"#,
            )
        },
        refused: || {
            Reply::new(
                400,
                r#"{"error":"Bad Request","errorCode":400,"errorDescription":"Field 'message' is required"}"#,
            )
        },
        shown: |payload| vec![text(&payload["title"]), text(&payload["message"])],
    },
];

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no text: {value}"))
        .to_owned()
}

fn demand(holds: bool, reply: Reply) -> Reply {
    if holds {
        reply
    } else {
        Reply::new(400, "the service does not accept this request")
    }
}

fn matrix(request: &Received) -> Reply {
    if request.header("authorization") != "Bearer matrix-token" {
        return Reply::new(401, r#"{"errcode":"M_UNKNOWN_TOKEN"}"#);
    }
    if request.path.contains("/state/") {
        return Reply::new(404, r#"{"errcode":"M_NOT_FOUND"}"#);
    }
    demand(
        request.path.contains("/rooms/!a:m.example/send/m.room.message/") && request.body.len() <= 65_536,
        Reply::new(200, r#"{"event_id":"$event"}"#),
    )
}

fn teams(request: &Received) -> Reply {
    if request.path != "/workflows/a1b2c3/triggers/manual/paths/invoke?sig=a-signature" {
        return Reply::new(
            401,
            r#"{"error":{"code":"DirectApiAuthorizationRequired","message":"no"}}"#,
        );
    }
    let payload = request.json();
    let card = &payload["attachments"][0]["content"];
    let runs = |block: &Value| {
        block["type"] == "RichTextBlock"
            && block["inlines"].as_array().is_some_and(|runs| {
                runs.iter().all(|run| {
                    run["type"] == "TextRun" && run["text"].as_str().is_some_and(|text| !text.is_empty())
                })
            })
    };
    let holds = payload["type"] == "message"
        && payload["attachments"][0]["contentType"] == "application/vnd.microsoft.card.adaptive"
        && card["type"] == "AdaptiveCard"
        && card["version"] == "1.4"
        && card["body"]
            .as_array()
            .is_some_and(|blocks| !blocks.is_empty() && blocks.iter().all(runs))
        && request.body.len() <= 20 * 1024;
    demand(holds, Reply::new(202, ""))
}

fn telegram(request: &Received) -> Result<Reply, &'static str> {
    let payload = request.json();
    let Some(method) = request.path.strip_prefix("/bot123456:telegram-token/") else {
        return Ok(Reply::new(
            401,
            r#"{"ok":false,"error_code":401,"description":"Unauthorized"}"#,
        ));
    };
    if payload["chat_id"] != "-1001234567890" {
        return Err("chat not found");
    }
    match method {
        "sendMessage" => {
            let text = payload["text"].as_str().unwrap_or_default();
            if text.trim().is_empty() {
                return Err("message text is empty");
            }
            if text.encode_utf16().count() > 4_096 {
                return Err("message is too long");
            }
            if payload["message_thread_id"]
                .as_i64()
                .is_some_and(|topic| topic != 5)
            {
                return Err("message thread not found");
            }
            Ok(Reply::new(200, r#"{"ok":true,"result":{"message_id":1}}"#))
        }
        "createForumTopic" => {
            let name = payload["name"].as_str().unwrap_or_default();
            match (1..=128).contains(&name.encode_utf16().count()) {
                true => Ok(Reply::new(
                    200,
                    r#"{"ok":true,"result":{"message_thread_id":5,"name":"x"}}"#,
                )),
                false => Err("topic name is invalid"),
            }
        }
        _ => Ok(Reply::new(
            404,
            r#"{"ok":false,"error_code":404,"description":"Not Found"}"#,
        )),
    }
}

fn discord(request: &Received) -> Reply {
    if request.path != "/api/webhooks/123456/discord-token?wait=true&thread_id=987" {
        return Reply::new(404, r#"{"message":"Unknown Webhook","code":10015}"#);
    }
    let payload = request.json();
    let length = payload["content"].as_str().unwrap_or_default().chars().count();
    let quiet = payload["allowed_mentions"] == json!({ "parse": [] });
    demand(
        (1..=2_000).contains(&length) && quiet && payload["flags"] == 4,
        Reply::new(200, r#"{"id":"1"}"#),
    )
}

fn ntfy(request: &Received) -> Reply {
    if request.header("authorization") != "Bearer tk_ntfy-token" {
        return Reply::new(401, r#"{"code":40101,"http":401,"error":"unauthorized"}"#);
    }
    let payload = request.json();
    let message = payload["message"].as_str().unwrap_or_default();
    let holds = request.path == "/" && payload["topic"] == "sms" && (1..=4_096).contains(&message.len());
    demand(
        holds && (1..=5).contains(&payload["priority"].as_i64().unwrap()) && payload["markdown"] == false,
        Reply::new(200, r#"{"id":"hwQ2YpKdmg","event":"message"}"#),
    )
}

fn invalid_event(error: &str) -> Reply {
    let body = json!({ "status": "invalid event", "message": "Event object is invalid", "errors": [error] });
    Reply::new(400, &body.to_string())
}

fn pagerduty(request: &Received) -> Reply {
    let event = request.json();
    if event["routing_key"].as_str().is_none_or(|key| key.len() != 32) {
        return invalid_event("Length of 'routing_key' is incorrect (should be 32 characters)");
    }
    let summary = event["payload"]["summary"].as_str().unwrap_or_default();
    if !(1..=1_024).contains(&summary.chars().count()) {
        return invalid_event("'payload.summary' is missing or blank");
    }
    let holds = request.path == "/v2/enqueue"
        && event["event_action"] == "trigger"
        && event["dedup_key"].as_str().is_some_and(|key| key.len() <= 255)
        && event["payload"]["source"].is_string()
        && ["critical", "error", "warning", "info"].contains(&event["payload"]["severity"].as_str().unwrap())
        && request.body.len() <= 512_000;
    demand(
        holds,
        Reply::new(
            202,
            r#"{"status":"success","message":"Event processed","dedup_key":"k"}"#,
        ),
    )
}

fn mattermost(request: &Received) -> Reply {
    if request.header("authorization") != "Bearer mattermost-token" {
        return Reply::new(
            401,
            r#"{"id":"api.context.session_expired.app_error","message":"Invalid or expired session."}"#,
        );
    }
    let post = request.json();
    if post["root_id"].as_str().is_some_and(|root| root != "post") {
        return Reply::new(
            400,
            r#"{"id":"api.post.create_post.root_id.app_error","message":"Invalid RootId parameter."}"#,
        );
    }
    let length = post["message"].as_str().unwrap_or_default().chars().count();
    demand(
        request.path == "/api/v4/posts"
            && post["channel_id"] == "abcdefghijklmnopqrstuvwxyz"
            && post["pending_post_id"].is_string()
            && (1..=16_383).contains(&length),
        Reply::new(201, r#"{"id":"post","message":"x"}"#),
    )
}

fn google_chat(request: &Received) -> Reply {
    let query = "key=google-key&token=google-token&messageReplyOption=REPLY_MESSAGE_FALLBACK_TO_NEW_THREAD";
    let payload = request.json();
    let length = payload["text"].as_str().unwrap_or_default().len();
    demand(
        request.path == format!("/v1/spaces/AAA/messages?{query}")
            && (1..=4_096).contains(&length)
            && payload["thread"]["threadKey"].is_string(),
        Reply::new(200, r#"{"name":"spaces/AAA/messages/B","text":"x"}"#),
    )
}

/// Its form as JSON.
pub fn form(body: &str) -> Value {
    let pairs = url::form_urlencoded::parse(body.as_bytes());
    pairs
        .map(|(name, value)| (name.into_owned(), Value::from(value.into_owned())))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn pushover(request: &Received) -> Reply {
    let form = form(&request.body);
    for (name, value) in [("token", "pushover-token"), ("user", "pushover-user")] {
        if form[name] != value {
            let body = json!({ name: "invalid", "errors": [format!("{name} is invalid")], "status": 0 });
            return Reply::new(400, &body.to_string());
        }
    }
    let length = |name: &str| form[name].as_str().unwrap_or_default().chars().count();
    demand(
        request.path == "/1/messages.json"
            && (1..=1_024).contains(&length("message"))
            && length("title") <= 250
            && form["retry"].as_str().unwrap().parse::<u32>().unwrap() >= 30
            && form["expire"].as_str().unwrap().parse::<u32>().unwrap() <= 10_800,
        Reply::new(200, r#"{"status":1,"request":"r"}"#),
    )
}

fn gotify(request: &Received) -> Reply {
    if request.header("x-gotify-key") != "gotify-token" {
        return Reply::new(401, r#"{"error":"Unauthorized","errorCode":401}"#);
    }
    let payload = request.json();
    demand(
        request.path == "/message"
            && payload["message"]
                .as_str()
                .is_some_and(|message| !message.is_empty())
            && payload["extras"]["client::display"]["contentType"] == "text/plain",
        Reply::new(200, r#"{"id":25,"appid":1}"#),
    )
}
