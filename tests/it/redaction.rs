//! Redacted messages: which data remains, and which actions are rejected.

use crate::bridge::refid;
use crate::bridge::{Bridge, wait_for};
use crate::servers::recorder::webhook;
use crate::servers::recorder::{Recorder, Reply};

/// Configures the daemon to redact immediately.
fn redact(bridge: &mut Bridge) {
    bridge.stop();
    let path = bridge.folder().join("config.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        config.replace("[store]\n", "[store]\nredact_after = \"1ms\"\n"),
    )
    .unwrap();
    bridge.run();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redacted_message_is_not_resent() {
    let receiver = Recorder::start(|_| Reply::new(422, "not wanted")).await;
    let mut bridge = Bridge::start(&(webhook("crm", &receiver, "") + "[routing]\nunmatched = [\"crm\"]\n"));
    let (status, answer) = bridge.post_message(&refid(1), "+13035550100", "secret words");
    assert_eq!(status, 200);
    let id = answer["id"].as_str().unwrap().to_owned();
    let message = |bridge: &Bridge| bridge.admin("GET", &format!("/messages/{id}"), "").unwrap().1;
    wait_for("the refusal", || {
        (message(&bridge)["state"] == "dead").then_some(())
    });
    redact(&mut bridge);
    wait_for("the redaction", || {
        message(&bridge)["redacted_at"].is_string().then_some(())
    });

    let delivery = format!("{id}-1");
    let (code, _, err) = bridge.command(&["delivery", "retry", &delivery]);
    assert_eq!(code, 2, "{err}");
    assert!(
        err.contains(&delivery) && err.contains("store.redact_after"),
        "{err}"
    );
    let asked = format!("{{\"ids\":[\"{delivery}\"]}}");
    let (status, answer) = bridge.admin("POST", "/deliveries/retry", &asked).unwrap();
    assert_eq!(status, 400, "{answer}");
    let (code, out, err) = bridge.command(&["delivery", "retry", "--destination", "crm", "--yes"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(
        out,
        "1 delivery skipped: the content of its message was removed (store.redact_after)\n"
    );
    let asked = "{\"destination\":\"crm\",\"state\":\"dead\"}";
    let (status, answer) = bridge.admin("POST", "/deliveries/retry", asked).unwrap();
    assert_eq!(
        (status, answer),
        (
            200,
            serde_json::json!({ "deliveries": 0, "already_due": 0, "attempting": 0, "redacted": 1, "results": [] })
        )
    );
    assert_eq!(message(&bridge)["state"], "dead");
    assert_eq!(receiver.received().len(), 1);
}
