//! Classifies the responses of Slack: [incoming webhooks][1] respond with a word, the [Web API][2] with `ok` and
//! `error`.
//!
//! [1]: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks/#handling_errors
//! [2]: https://docs.slack.dev/reference/methods/chat.postMessage/#errors

use std::time::Duration;

use http::StatusCode;

use super::super::Failure;
use super::super::http::Answer;
use crate::retry;

/// The part to omit so that Slack accepts the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The blocks: send only the text.
    Plain,
    /// The thread, which no longer exists.
    Unthreaded,
    /// `client_msg_id`, which Slack could not resolve.
    WithoutClientId,
}

/// Errors that concern every message, and what the operator should do.
const MISCONFIGURED: &[(&str, &str)] = &[
    (
        "account_inactive",
        "the app or its workspace is gone: install the app again and replace `token`",
    ),
    (
        "action_prohibited",
        "an administrator restricts posting here: ask them to allow the app",
    ),
    (
        "channel_is_archived",
        "unarchive the channel or choose another one",
    ),
    (
        "channel_not_found",
        "check `channel` (the id, not the name) and invite the app to it",
    ),
    (
        "ekm_access_denied",
        "an administrator suspended posting: ask them",
    ),
    ("invalid_auth", "replace `token`"),
    (
        "invalid_token",
        "the webhook was revoked: make a new one and replace `webhook_url`",
    ),
    ("is_archived", "unarchive the channel or choose another one"),
    (
        "missing_scope",
        "give the app the scope `chat:write` and install it again",
    ),
    (
        "no_active_hooks",
        "the webhook was switched off: make a new one and replace `webhook_url`",
    ),
    (
        "no_permission",
        "give the app the scope `chat:write` and install it again",
    ),
    (
        "no_service",
        "the webhook was removed: make a new one and replace `webhook_url`",
    ),
    ("no_service_id", "`webhook_url` is incomplete: copy it again"),
    ("no_team", "the workspace is gone: replace `webhook_url`"),
    ("not_allowed_token_type", "`token` must be a bot token (`xoxb-…`)"),
    ("not_authed", "replace `token`"),
    ("not_in_channel", "invite the app to the channel: `/invite @APP`"),
    (
        "org_login_required",
        "the workspace is being moved: ask its administrator",
    ),
    (
        "posting_to_general_channel_denied",
        "choose another channel: posting to #general is restricted",
    ),
    (
        "restricted_action",
        "an administrator restricts posting here: ask them to allow the app",
    ),
    (
        "team_access_not_granted",
        "install the app in the workspace of the channel",
    ),
    (
        "team_disabled",
        "the workspace is disabled: ask its administrator",
    ),
    ("token_expired", "replace `token`"),
    ("token_revoked", "replace `token`"),
    (
        "user_not_found",
        "the webhook's user is gone: make a new one and replace `webhook_url`",
    ),
];

const LIMITED: &[&str] = &["message_limit_exceeded", "rate_limited", "ratelimited"];

/// Errors of Slack itself.
const FAILING: &[&str] = &[
    "fatal_error",
    "internal_error",
    "request_timeout",
    "rollup_error",
    "service_unavailable",
    "team_added_to_org",
];

/// Errors that blocks can cause but plain text cannot.
const NEEDS_PLAIN: &[&str] = &[
    "invalid_attachments",
    "invalid_blocks",
    "invalid_blocks_format",
    "invalid_payload",
    "msg_blocks_too_long",
    "msg_too_long",
    "no_text",
];

const NEEDS_NO_THREAD: &[&str] = &[
    "cannot_reply_to_message",
    "invalid_thread_ts",
    "message_not_found",
    "restricted_action_thread_locked",
    "thread_not_found",
];

const NEEDS_NO_CLIENT_ID: &[&str] = &["duplicate_channel_not_found", "duplicate_message_not_found"];

/// Returns true if Slack has accepted the message: `ok` from a webhook, `ok: true` from the Web API.
pub fn accepted(answer: &Answer) -> bool {
    answer.status.is_success() && (answer.start.trim() == "ok" || answer.members.get("ok") == true)
}

/// The change that would make a rejected message acceptable.
pub fn remedy(answer: &Answer) -> Option<Remedy> {
    let code = code(answer)?;
    let code = code.as_str();
    [
        (NEEDS_PLAIN, Remedy::Plain),
        (NEEDS_NO_THREAD, Remedy::Unthreaded),
        (NEEDS_NO_CLIENT_ID, Remedy::WithoutClientId),
    ]
    .into_iter()
    .find_map(|(codes, remedy)| codes.contains(&code).then_some(remedy))
}

/// Classifies an error response. Only Slack's error code is quoted, if permitted; an unknown body could contain
/// anything.
pub fn failure(answer: &Answer, may_tell: impl Fn(&str) -> bool) -> Failure {
    let code = code(answer);
    let said = match &code {
        Some(code) if is_known(code) || may_tell(code) => {
            format!("Slack says `{code}` ({})", answer.status_line())
        }
        Some(_) => format!(
            "the answer of Slack repeats the request ({})",
            answer.status_line()
        ),
        None => format!("not an answer of Slack ({})", answer.status_line()),
    };
    let code = code.unwrap_or_default();
    if let Some((_, advice)) = MISCONFIGURED.iter().find(|(known, _)| *known == code) {
        return Failure::parked(format!("{said}: {advice}"));
    }
    if LIMITED.contains(&code.as_str()) || answer.status == StatusCode::TOO_MANY_REQUESTS {
        return busy(answer, said);
    }
    match answer.status {
        _ if FAILING.contains(&code.as_str()) => busy(answer, said),
        status if status.is_server_error() => busy(answer, said),
        status if status.is_redirection() => {
            Failure::parked(format!("{said}: redirects are not followed, check the address"))
        }
        _ if NEEDS_PLAIN.contains(&code.as_str()) => Failure::permanent(said),
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE if !code.is_empty() => {
            Failure::permanent(said)
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::GONE => {
            Failure::parked(format!("{said}: check `webhook_url`, or `token` and `channel`"))
        }
        _ => answer.odd(said),
    }
}

/// The whole destination waits: Slack may disable an app that keeps sending after a 429.
fn busy(answer: &Answer, reason: String) -> Failure {
    let in_body = || retry::pause(Duration::from_secs(answer.members.get("retry_after").as_u64()?));
    let retry_after = answer.retry_after.or_else(in_body);
    Answer {
        retry_after,
        ..answer.clone()
    }
    .busy(reason)
}

/// Returns true if this is one of Slack's own error codes, which may be quoted whatever the message contains.
fn is_known(code: &str) -> bool {
    let lists = [LIMITED, FAILING, NEEDS_PLAIN, NEEDS_NO_THREAD, NEEDS_NO_CLIENT_ID];
    lists.iter().any(|list| list.contains(&code)) || MISCONFIGURED.iter().any(|(known, _)| *known == code)
}

/// Slack's error code, from JSON or as the complete body.
fn code(answer: &Answer) -> Option<String> {
    let code = answer
        .members
        .get("error")
        .as_str()
        .unwrap_or(answer.start.trim());
    let usual = code
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    (usual && (1..=64).contains(&code.len())).then(|| code.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::Scope;

    fn answer(status: u16, body: &str) -> Answer {
        Answer::new(StatusCode::from_u16(status).unwrap(), body)
    }

    fn class(failure: &Failure) -> &'static str {
        match failure {
            Failure::Transient {
                scope: Scope::Destination,
                ..
            } => "destination",
            Failure::Transient {
                scope: Scope::Message,
                ..
            } => "message",
            Failure::Permanent { .. } => "permanent",
            Failure::Parked { .. } => "parked",
            Failure::Divided { .. } => "divided",
        }
    }

    #[test]
    fn only_ok_is_success() {
        for (status, body, expected) in [
            (200, "ok", true),
            (200, "{\"ok\":true,\"ts\":\"1.2\"}", true),
            (200, "{\"ok\":false,\"error\":\"internal_error\"}", false),
            (200, "", false),
            (200, "<html>", false),
            (500, "ok", false),
        ] {
            assert_eq!(accepted(&answer(status, body)), expected, "{status} {body}");
        }
    }

    #[test]
    fn responses_are_classified() {
        for (status, body, expected) in [
            (400, "invalid_payload", "permanent"),
            (400, "no_text", "permanent"),
            (400, "too_many_attachments", "permanent"),
            (400, "user_not_found", "parked"),
            (403, "invalid_token", "parked"),
            (403, "action_prohibited", "parked"),
            (404, "no_service", "parked"),
            (404, "channel_not_found", "parked"),
            (404, "<html>a proxy's own page</html>", "message"),
            (410, "channel_is_archived", "parked"),
            (
                429,
                "{\"retry_after\":1,\"ok\":false,\"error\":\"rate_limited\"}",
                "destination",
            ),
            (429, "", "destination"),
            (500, "rollup_error", "destination"),
            (503, "", "destination"),
            (302, "", "parked"),
            (200, "{\"ok\":false,\"error\":\"invalid_auth\"}", "parked"),
            (200, "{\"ok\":false,\"error\":\"account_inactive\"}", "parked"),
            (200, "{\"ok\":false,\"error\":\"token_revoked\"}", "parked"),
            (200, "{\"ok\":false,\"error\":\"not_in_channel\"}", "parked"),
            (200, "{\"ok\":false,\"error\":\"is_archived\"}", "parked"),
            (200, "{\"ok\":false,\"error\":\"missing_scope\"}", "parked"),
            (200, "{\"ok\":false,\"error\":\"no_permission\"}", "parked"),
            (200, "{\"ok\":false,\"error\":\"ratelimited\"}", "destination"),
            (200, "{\"ok\":false,\"error\":\"internal_error\"}", "destination"),
            (200, "{\"ok\":false,\"error\":\"fatal_error\"}", "destination"),
            (200, "{\"ok\":false,\"error\":\"msg_too_long\"}", "permanent"),
            (200, "{\"ok\":false,\"error\":\"invalid_blocks\"}", "permanent"),
            (200, "{\"ok\":false,\"error\":\"a_new_one\"}", "message"),
            (200, "", "message"),
        ] {
            let failure = failure(&answer(status, body), |_| true);
            assert_eq!(class(&failure), expected, "{status} {body}: {failure:?}");
            assert!(!failure.reason().shown().contains('<'), "{failure:?}");
        }
    }

    #[test]
    fn the_delay_is_read_from_the_header_or_the_body() {
        let body = "{\"retry_after\":7,\"ok\":false,\"error\":\"rate_limited\"}";
        let with_header = Answer {
            retry_after: Some(Duration::from_secs(30)),
            ..answer(429, body)
        };
        for (answer, seconds) in [
            (answer(429, body), Some(7)),
            (with_header, Some(30)),
            (answer(429, ""), Some(0)),
        ] {
            let Failure::Transient { retry_after, .. } = failure(&answer, |_| true) else {
                panic!("not transient")
            };
            assert_eq!(retry_after, seconds.map(Duration::from_secs));
        }
    }

    #[test]
    fn some_rejections_have_a_remedy() {
        for (body, expected) in [
            ("invalid_blocks", Some(Remedy::Plain)),
            (
                "{\"ok\":false,\"error\":\"thread_not_found\"}",
                Some(Remedy::Unthreaded),
            ),
            (
                "{\"ok\":false,\"error\":\"duplicate_message_not_found\"}",
                Some(Remedy::WithoutClientId),
            ),
            ("{\"ok\":false,\"error\":\"invalid_auth\"}", None),
            ("", None),
        ] {
            assert_eq!(remedy(&answer(200, body)), expected, "{body}");
        }
    }
}
