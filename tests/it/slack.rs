//! Slack, against a server that behaves as Slack documents it.

use std::time::Duration;

use serde_json::json;
use smsbridge::destination::{Failure, Scope};
use smsbridge::model::message::Media;
use smsbridge::template::Template;

use crate::fixtures::{build, build_within, class, message, outbound};
use crate::servers::fake_slack::FakeSlack;
use crate::servers::recorder::Reply;

#[tokio::test]
async fn a_slack_webhook_gets_plain_text_blocks() {
    let slack = FakeSlack::start().await;
    let destination = build("slack", slack.webhook(), None).unwrap();
    let mut message = message("a *b* <!channel> & c");
    message.media.push(Media {
        link: "https://example.com/a.jpg".to_owned(),
        content_type: Some("image/jpeg".to_owned()),
        filename: None,
    });
    let delivered = destination.deliver(&outbound(&message)).await.unwrap();
    assert_eq!(delivered.thread, None);
    assert_eq!(
        slack.payloads(),
        [json!({
            "text": "Front door (+13035550100) → +13038675309\na *b* &lt;!channel&gt; &amp; c",
            "mrkdwn": false,
            "unfurl_links": false,
            "unfurl_media": false,
            "blocks": [
                { "type": "context", "elements": [
                    { "type": "plain_text", "text": "Front door (+13035550100) → +13038675309", "emoji": false },
                ] },
                { "type": "section", "text":
                    { "type": "plain_text", "text": "a *b* &lt;!channel&gt; &amp; c", "emoji": false } },
                { "type": "context", "elements": [
                    { "type": "plain_text", "text": "image/jpeg", "emoji": false },
                    { "type": "mrkdwn", "text": "<https://example.com/a.jpg>", "verbatim": true },
                ] },
            ],
        })]
    );
    assert_eq!(
        slack.received()[0].header("content-type"),
        "application/json; charset=utf-8"
    );
}

#[tokio::test]
async fn a_conversation_keeps_one_thread() {
    let slack = FakeSlack::start().await;
    let destination = build("slack", slack.token(), None).unwrap();
    let message = message("hello");
    let first = destination.deliver(&outbound(&message)).await.unwrap();
    let root = first.thread.expect("the first message begins the thread");
    let mut second = outbound(&message);
    second.thread = Some(&root);
    assert_eq!(destination.deliver(&second).await.unwrap().thread, None);
    let payloads = slack.payloads();
    assert!(payloads[0].get("thread_ts").is_none());
    assert_eq!(payloads[1]["thread_ts"], json!(root));
}

#[tokio::test]
async fn a_deleted_thread_is_started_again() {
    let slack = FakeSlack::start().await;
    let destination = build("slack", slack.token(), None).unwrap();
    let message = message("hello");
    let mut late = outbound(&message);
    late.thread = Some("1.000000");
    let delivered = destination.deliver(&late).await.unwrap();
    assert!(delivered.thread.is_some_and(|root| root != "1.000000"));
    assert_eq!(slack.payloads().len(), 2);
}

#[tokio::test]
async fn threads_false_starts_and_follows_no_thread() {
    let slack = FakeSlack::start().await;
    let mut config = slack.token();
    config["threads"] = json!(false);
    let destination = build("slack", config, None).unwrap();
    let message = message("hello");
    let mut outbound = outbound(&message);
    outbound.thread = Some("1.000000");
    assert_eq!(destination.deliver(&outbound).await.unwrap().thread, None);
    assert!(slack.payloads()[0].get("thread_ts").is_none());
}

#[tokio::test]
async fn every_attempt_carries_the_same_client_id() {
    let slack = FakeSlack::start().await;
    let destination = build("slack", slack.token(), None).unwrap();
    let message = message("hello");
    for _ in 0..2 {
        destination.deliver(&outbound(&message)).await.unwrap();
    }
    let ids: Vec<_> = slack
        .payloads()
        .iter()
        .map(|payload| payload["client_msg_id"].clone())
        .collect();
    assert!(ids[0].is_string() && ids[0] == ids[1], "{ids:?}");
}

#[tokio::test]
async fn refused_blocks_are_sent_once_more_as_plain_text() {
    let slack = FakeSlack::start().await;
    slack.script(Reply::new(400, "invalid_blocks"));
    let destination = build("slack", slack.webhook(), None).unwrap();
    destination
        .deliver(&outbound(&message("hello <b>")))
        .await
        .unwrap();
    let plain = &slack.payloads()[1];
    assert!(plain.get("blocks").is_none());
    assert_eq!(
        plain["text"],
        "Front door (+13035550100) → +13038675309\nhello &lt;b&gt;"
    );
    assert_eq!(plain["mrkdwn"], false);

    slack.script(Reply::new(400, "invalid_payload"));
    slack.script(Reply::new(400, "invalid_payload"));
    let failure = destination.deliver(&outbound(&message("x"))).await.unwrap_err();
    assert_eq!(class(&failure), "permanent");
    assert_eq!(slack.payloads().len(), 4);
}

#[tokio::test]
async fn a_rate_limit_pauses_the_destination_for_the_requested_time() {
    let slack = FakeSlack::start().await;
    let body = r#"{"retry_after":1,"ok":false,"error":"rate_limited"}"#;
    slack.script(Reply::new(429, body).with("retry-after", "42"));
    let destination = build("slack", slack.webhook(), None).unwrap();
    let failure = destination.deliver(&outbound(&message("x"))).await.unwrap_err();
    let Failure::Transient {
        retry_after,
        scope: Scope::Destination,
        ..
    } = failure
    else {
        panic!("{failure:?}")
    };
    assert_eq!(retry_after, Some(Duration::from_secs(42)));
}

#[tokio::test]
async fn a_wrong_token_or_channel_parks() {
    let slack = FakeSlack::start().await;
    for (key, value, code) in [
        ("token", "xoxb-wrong", "invalid_auth"),
        ("channel", "C0", "channel_not_found"),
    ] {
        let mut config = slack.token();
        config[key] = json!(value);
        let destination = build("slack", config, None).unwrap();
        let failure = destination.deliver(&outbound(&message("x"))).await.unwrap_err();
        assert_eq!(class(&failure), "parked");
        assert!(failure.reason().shown().contains(code), "{failure:?}");
        assert!(!failure.reason().shown().contains("xoxb"), "{failure:?}");
    }
}

#[tokio::test]
async fn a_slow_answer_is_transient_and_names_no_secret() {
    let slack = FakeSlack::start().await;
    slack.script(Reply {
        delay: Duration::from_secs(5),
        ..Reply::new(200, "ok")
    });
    let destination = build_within("slack", slack.webhook(), None, Duration::from_millis(100)).unwrap();
    let failure = destination.deliver(&outbound(&message("x"))).await.unwrap_err();
    assert_eq!(class(&failure), "destination");
    assert!(
        failure.reason().shown().contains("did not answer in time"),
        "{failure:?}"
    );
    assert!(!failure.reason().shown().contains("services"), "{failure:?}");
}

#[tokio::test]
async fn a_template_is_mrkdwn_with_escaped_values() {
    let slack = FakeSlack::start().await;
    let own = "*{{ from_name }}* says {{ text }}";
    let destination = build("slack", slack.webhook(), Some(own)).unwrap();
    let message = message("<!here>");
    destination.deliver(&outbound(&message)).await.unwrap();
    let route = Template::compile(":rotating_light: {{ text }}").unwrap();
    let mut urgent = outbound(&message);
    urgent.template = Some(&route);
    destination.deliver(&urgent).await.unwrap();
    let texts: Vec<_> = slack
        .payloads()
        .iter()
        .map(|payload| payload["blocks"][0]["text"].clone())
        .collect();
    assert_eq!(
        texts,
        [
            json!({ "type": "mrkdwn", "text": "*Front door* says &lt;!here&gt;", "verbatim": true }),
            json!({ "type": "mrkdwn", "text": ":rotating_light: &lt;!here&gt;", "verbatim": true }),
        ]
    );
}

#[tokio::test]
async fn messages_of_any_length_are_accepted() {
    let slack = FakeSlack::start().await;
    let destination = build("slack", slack.token(), None).unwrap();
    let texts = [
        String::new(),
        " \n ".to_owned(),
        "a".repeat(65_536),
        "&".repeat(65_536),
        "👩".repeat(16_384),
        "a".repeat(7_000),
        "ы".repeat(670),
    ];
    for text in &texts {
        let delivered = destination.deliver(&outbound(&message(text))).await.unwrap();
        assert!(delivered.thread.is_some(), "{} bytes: no thread", text.len());
    }
    let payloads = slack.payloads();
    assert_eq!(payloads.len(), texts.len(), "none needed a second try");
    let cut = payloads[3].to_string();
    assert!(
        cut.contains("smsbridge message show 00000000000000000000000000000007"),
        "the cut says where the rest is"
    );
}

/// A posted message is not posted again, even if Slack adds fields to its answer or the connection breaks at any point.
#[tokio::test]
async fn an_answer_of_any_length_counts_as_posted() {
    for filler in [9 * 1024, 2 * 1024 * 1024] {
        let slack = FakeSlack::start().await;
        let body = format!(
            r#"{{"ok":true,"ts":"1.5","message":{{"ok":false,"text":"{}"}}}}"#,
            "x".repeat(filler)
        );
        slack.script(Reply::new(200, &body));
        slack.script(Reply::new(200, &body[..body.len() - 1]));
        let destination = build("slack", slack.token(), None).unwrap();
        for _ in 0..2 {
            let delivered = destination.deliver(&outbound(&message("x"))).await.unwrap();
            assert_eq!(delivered.thread.as_deref(), Some("1.5"), "{filler}");
        }
        let refused = format!(
            r#"{{"ok":false,"error":"not_in_channel","padding":"{}"}}"#,
            "x".repeat(filler)
        );
        slack.script(Reply::new(200, &refused));
        let failure = destination.deliver(&outbound(&message("x"))).await.unwrap_err();
        assert!(failure.reason().shown().contains("not_in_channel"), "{failure:?}");
    }
}
