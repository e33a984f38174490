//! Fallbacks get each message once, with a note that names the original destination.

use serde_json::json;
use smsbridge::destination::Fallback;

use crate::bridge::refid;
use crate::bridge::{Bridge, wait_for};
use crate::fixtures::{build, message, outbound};
use crate::servers::recorder::webhook;
use crate::servers::recorder::{Recorder, Reply};

#[tokio::test(flavor = "multi_thread")]
async fn a_fallback_names_the_original_destination_and_gets_each_message_once() {
    let refusing = Recorder::answering(Reply::new(422, "unknown <sender>")).await;
    let taking = Recorder::answering(Reply::new(200, "ok")).await;
    let config = webhook("crm", &refusing, "fallback = \"desk\"") + &webhook("desk", &taking, "");
    let both = "[[route]]\nname = \"both\"\nmessage = \"both\"\ndeliver = [\"crm\", \"desk\"]\n";
    let bridge = Bridge::start(&format!("{config}{both}[routing]\nunmatched = [\"crm\"]\n"));
    bridge.post_message(&refid(1), "+13035550100", "both");
    bridge.post_message(&refid(2), "+13035550101", "only crm");
    wait_for("two dead ones", || {
        let messages = &bridge.status()["messages"];
        let dead = ["dead", "acknowledged"].map(|kind| messages[kind].as_u64().unwrap());
        (dead[0] + dead[1] == 2).then_some(())
    });
    wait_for("the fallback", || (taking.received().len() == 2).then_some(()));
    let status = wait_for("the end of all", || {
        let status = bridge.status();
        (status["messages"]["pending"] == 0).then_some(status)
    });
    assert_eq!(status["messages"]["delivered"], 2, "{status}");
    let mut received: Vec<(String, serde_json::Value)> = taking
        .received()
        .iter()
        .map(|received| {
            let body = received.json();
            (
                body["text"].as_str().unwrap().to_owned(),
                body["fallback"].clone(),
            )
        })
        .collect();
    received.sort_by_key(|(text, _)| text.clone());
    let note = json!({
        "destination": "crm",
        "reason": "HTTP 422 Unprocessable Entity: unknown <sender>",
    });
    assert_eq!(
        received,
        [("both".to_owned(), json!(null)), ("only crm".to_owned(), note)]
    );
}

#[test]
fn every_kind_shows_the_fallback_note_with_any_template() {
    let configs = [
        ("console", json!({})),
        ("slack", json!({ "webhook_url": "https://slack.example/x" })),
        ("matrix", json!({ "webhook_url": "https://hookshot.example/x" })),
        ("webhook", json!({ "url": "https://hook.example/x" })),
    ];
    let message = message("hello");
    let crm = "crm".parse().unwrap();
    for (kind, config) in configs {
        for template in [None, Some("own: {{ text }}")] {
            let destination = build(kind, config.clone(), template).unwrap();
            let with = |reason| {
                let mut outbound = outbound(&message);
                outbound.fallback = Some(Fallback {
                    destination: &crm,
                    reason,
                });
                destination.render(&outbound).unwrap()
            };
            let without = destination.render(&outbound(&message)).unwrap();
            assert!(!without.contains("crm"), "{kind}: {without}");
            let note = with("HTTP 400 Bad Request");
            let is_noted = match kind {
                "webhook" => note.contains("\"fallback\"") && note.contains("\"crm\""),
                _ => note.contains("Fallback for destination crm: HTTP 400 Bad Request"),
            };
            assert!(is_noted, "{kind}, {template:?}: {note}");
            let hostile = with("<!channel> <b>\r\nBcc: x");
            let is_harmless = match kind {
                "slack" => !hostile.contains("<!channel>"),
                "matrix" => !hostile.contains("<b>\r") && hostile.contains("&lt;b&gt;"),
                "console" => !hostile.contains('\n'),
                _ => true,
            };
            assert!(is_harmless, "{kind}, {template:?}: {hostile}");
        }
    }
}

#[test]
fn the_body_of_a_webhook_can_contain_the_note() {
    let body = r#"{"text": "{{ text }}", "note": "{{ fallback }}"}"#;
    let config = json!({ "url": "https://hook.example/x", "body": body });
    let destination = build("webhook", config, None).unwrap();
    let (message, crm) = (message("hello"), "crm".parse().unwrap());
    let note = |reason: Option<&str>| {
        let mut outbound = outbound(&message);
        outbound.fallback = reason.map(|reason| Fallback {
            destination: &crm,
            reason,
        });
        let rendered = destination.render(&outbound).unwrap();
        let body: serde_json::Value = serde_json::from_str(&rendered).unwrap();
        body["note"].as_str().unwrap().to_owned()
    };
    assert_eq!(note(None), "");
    assert_eq!(
        note(Some("said \"no\"\nand more")),
        "Fallback for destination crm: said \"no\" and more"
    );
}
