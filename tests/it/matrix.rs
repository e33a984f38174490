//! Matrix, against servers that answer as a homeserver and matrix-hookshot do; `tests/system` has a real homeserver.

use serde_json::json;

use crate::fixtures::{build, class, message, outbound};
use crate::servers::recorder::{Recorder, Reply};

#[tokio::test]
async fn hookshot_gets_text_and_html() {
    let server = Recorder::answering(Reply::new(202, r#"{"ok":true}"#)).await;
    let config = json!({ "webhook_url": server.url("/webhook/abc"), "username": "SMS" });
    let destination = build("matrix", config, None).unwrap();
    let delivered = destination
        .deliver(&outbound(&message("**hi** <i>")))
        .await
        .unwrap();
    assert_eq!(delivered.thread, None);
    assert_eq!(
        server.received()[0].json(),
        json!({
            "text": "Front door (+13035550100) → +13038675309\n**hi** <i>",
            "html": "<strong>Front door</strong> (+13035550100) → +13038675309<br>**hi** &lt;i&gt;",
            "username": "SMS",
        })
    );
}

#[tokio::test]
async fn answers_of_hookshot_are_classified() {
    for (status, expected) in [
        (400, "permanent"),
        (403, "parked"),
        (404, "parked"),
        (429, "destination"),
        (500, "destination"),
        (302, "parked"),
    ] {
        let server = Recorder::answering(Reply::new(status, "")).await;
        let destination = build(
            "matrix",
            json!({ "webhook_url": server.url("/webhook/abc") }),
            None,
        )
        .unwrap();
        let failure = destination.deliver(&outbound(&message("hi"))).await.unwrap_err();
        assert_eq!(class(&failure), expected, "{status}: {failure:?}");
        assert!(!failure.reason().shown().contains("webhook/abc"), "{failure:?}");
    }
}

/// A room on many servers has a long list of names, and a server may add fields to any answer.
#[tokio::test]
async fn answers_of_any_length_are_parsed() {
    let servers: Vec<String> = (0..600)
        .map(|n| format!("server-{n}.matrix.example.com"))
        .collect();
    for (servers_first, padding) in [(true, 0), (false, 0), (false, 2 * 1024 * 1024)] {
        let padding = "x".repeat(padding);
        let alias = json!(servers).to_string();
        let alias = match servers_first {
            true => format!(r#"{{"servers":{alias},"room_id":"!a:b.example"}}"#),
            false => format!(r#"{{"room_id":"!a:b.example","servers":{alias},"x":"{padding}"}}"#),
        };
        let sent = format!(r#"{{"event_id":"$1","x":"{padding}"}}"#);
        let server = Recorder::start(move |request| match request.path.as_str() {
            path if path.contains("/directory/room/") => Reply::new(200, &alias),
            path if path.contains("/send/") => Reply::new(200, &sent),
            _ => Reply::new(404, r#"{"errcode":"M_NOT_FOUND"}"#),
        })
        .await;
        let config = json!({ "homeserver": server.url("/"), "room": "#a:b.example", "access_token": "t" });
        let destination = build("matrix", config, None).unwrap();
        let delivered = destination.deliver(&outbound(&message("hi"))).await.unwrap();
        assert_eq!(delivered.thread.as_deref(), Some("$1"));
        assert!(server.received()[1].path.contains("/rooms/!a:b.example/send/"));
    }
}
