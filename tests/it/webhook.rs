//! Webhooks, against a server that records them.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::json;
use sha2::Sha256;
use smsbridge::destination::Failure;
use smsbridge::model::message::Media;

use crate::fixtures::{build, class, message, outbound};
use crate::servers::recorder::{Received, Recorder, Reply};

const ID: &str = "00000000000000000000000000000007-1";

#[tokio::test]
async fn the_default_body_has_everything_exactly() {
    let server = Recorder::answering(Reply::new(204, "")).await;
    let destination = build("webhook", json!({ "url": server.url("/sms") }), None).unwrap();
    let mut message = message("\u{202e}\"<b>\r\n\0");
    message.media.push(Media {
        link: "javascript:x".to_owned(),
        content_type: None,
        filename: None,
    });
    let route = "urgent".parse().unwrap();
    let mut outbound = outbound(&message);
    outbound.route = Some(&route);
    destination.deliver(&outbound).await.unwrap();
    let received = &server.received()[0];
    assert_eq!(
        (received.method.as_str(), received.path.as_str()),
        ("POST", "/sms")
    );
    assert_eq!(received.header("webhook-id"), ID);
    assert_eq!(received.header("content-type"), "application/json");
    assert!(received.header("user-agent").starts_with("smsbridge/"));
    assert_eq!(
        received.json(),
        json!({
            "id": "00000000000000000000000000000007",
            "provider_id": "ABCDEF1234567890ABCDEF1234567890",
            "source": "carrier",
            "from": "+13035550100",
            "from_name": "Front door",
            "to": "+13038675309",
            "to_name": null,
            "text": "\u{202e}\"<b>\r\n\0",
            "media": [{ "link": "javascript:x", "content_type": null, "filename": null }],
            "received_at": "2026-09-21T14:13:20.000Z",
            "route": "urgent",
        })
    );
}

#[tokio::test]
async fn method_headers_and_body_are_configurable() {
    let server = Recorder::answering(Reply::new(200, "")).await;
    let config = json!({
        "url": server.url("/"),
        "method": "PUT",
        "headers": { "Authorization": "Bearer s3cret", "X-Kind": ["sms", "old"] },
        "body": r#"{"who": "{{ from }}", "what": "{{ text }}", "files": {{ media }} }"#,
        "content_type": "application/vnd.crm+json",
    });
    let destination = build("webhook", config, None).unwrap();
    destination
        .deliver(&outbound(&message("say \"hi\"\n{{7*7}}")))
        .await
        .unwrap();
    let received = &server.received()[0];
    assert_eq!(received.method.as_str(), "PUT");
    assert_eq!(received.header("authorization"), "Bearer s3cret");
    assert_eq!(received.header("x-kind"), "sms");
    assert_eq!(received.header("content-type"), "application/vnd.crm+json");
    let expected = json!({ "who": "+13035550100", "what": "say \"hi\"\n{{7*7}}", "files": [] });
    assert_eq!(received.json(), expected);
}

#[tokio::test]
async fn a_template_is_added_as_rendered() {
    let server = Recorder::answering(Reply::new(200, "")).await;
    let own = Some("{{ from_name }}: {{ text }}");
    let destination = build("webhook", json!({ "url": server.url("/") }), own).unwrap();
    destination.deliver(&outbound(&message("hi"))).await.unwrap();
    assert_eq!(server.received()[0].json()["rendered"], "Front door: hi");
}

#[tokio::test]
async fn each_secret_makes_a_signature() {
    let server = Recorder::answering(Reply::new(200, "")).await;
    let encoded = format!("whsec_{}", BASE64.encode(b"key one"));
    let config = json!({ "url": server.url("/"), "secret": [encoded, "key two"] });
    let destination = build("webhook", config, None).unwrap();
    destination.deliver(&outbound(&message("hi"))).await.unwrap();
    let received = &server.received()[0];
    let expected = format!(
        "{} {}",
        signature(received, b"key one"),
        signature(received, b"key two")
    );
    assert_eq!(received.header("webhook-signature"), expected);
    let timestamp: u64 = received.header("webhook-timestamp").parse().unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    assert!(now.as_secs().abs_diff(timestamp) < 60);
}

fn signature(received: &Received, key: &[u8]) -> String {
    let signed = format!(
        "{}.{}.{}",
        received.header("webhook-id"),
        received.header("webhook-timestamp"),
        received.body
    );
    let mac = Hmac::<Sha256>::new_from_slice(key).unwrap().chain_update(signed);
    format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()))
}

#[tokio::test]
async fn a_repeat_carries_the_same_id() {
    let server = Recorder::answering(Reply::new(500, "")).await;
    let destination = build("webhook", json!({ "url": server.url("/") }), None).unwrap();
    let message = message("hi");
    for _ in 0..3 {
        destination.deliver(&outbound(&message)).await.unwrap_err();
    }
    let received = server.received();
    let ids: Vec<&str> = received
        .iter()
        .map(|received| received.header("webhook-id"))
        .collect();
    assert_eq!(ids, [ID; 3]);
}

#[tokio::test]
async fn statuses_are_classified() {
    for (status, expected) in [
        (301, "parked"),
        (307, "parked"),
        (400, "permanent"),
        (401, "parked"),
        (402, "message"),
        (403, "parked"),
        (404, "parked"),
        (405, "parked"),
        (408, "message"),
        (409, "message"),
        (410, "parked"),
        (413, "permanent"),
        (415, "permanent"),
        (422, "permanent"),
        (425, "message"),
        (429, "destination"),
        (500, "destination"),
        (502, "destination"),
        (503, "destination"),
        (504, "destination"),
    ] {
        let reply = Reply::new(status, "why")
            .with("retry-after", "9")
            .with("location", "http://127.0.0.1:9/");
        let server = Recorder::answering(reply).await;
        let destination = build("webhook", json!({ "url": server.url("/") }), None).unwrap();
        let failure = destination.deliver(&outbound(&message("hi"))).await.unwrap_err();
        assert_eq!(class(&failure), expected, "{status}: {failure:?}");
        assert!(failure.reason().shown().contains("why"), "{failure:?}");
        if let Failure::Transient { retry_after, .. } = failure {
            assert_eq!(retry_after, Some(Duration::from_secs(9)), "{status}");
        }
        assert_eq!(
            server.received().len(),
            1,
            "{status}: one request, no redirect followed"
        );
    }
}

#[tokio::test]
async fn a_failure_reason_contains_no_body_number_or_secret() {
    for echo in [
        "you sent: pin 4711 please",
        "13035550100 is unknown",
        "bad token s3cret-value",
    ] {
        let server = Recorder::answering(Reply::new(400, echo)).await;
        let config = json!({ "url": server.url("/"), "headers": { "x-token": "s3cret-value" } });
        let destination = build("webhook", config, None).unwrap();
        let failure = destination
            .deliver(&outbound(&message("pin 4711")))
            .await
            .unwrap_err();
        for private in ["4711", "13035550100", "s3cret"] {
            assert!(!failure.reason().shown().contains(private), "{failure:?}");
        }
    }
}

#[test]
fn invalid_destination_configurations_are_rejected_by_name() {
    for (config, named) in [
        (json!({ "url": "example.com" }), "`url`"),
        (json!({ "url": "http://a.example/", "method": "GET" }), "`method`"),
        (
            json!({ "url": "http://a.example/", "headers": { "Host": "b" } }),
            "`Host`",
        ),
        (
            json!({ "url": "http://a.example/", "headers": { "Content-Type": "b" } }),
            "use `content_type`",
        ),
        (
            json!({ "url": "http://a.example/", "headers": { "webhook-signature": "b" } }),
            "`webhook-signature`",
        ),
        (
            json!({ "url": "http://a.example/", "headers": { "a b": "c" } }),
            "`a b`",
        ),
        (
            json!({ "url": "http://a.example/", "headers": { "x": "c\r\nd: e" } }),
            "`x`",
        ),
        (
            json!({ "url": "http://a.example/", "secret": "whsec_!" }),
            "`secret`",
        ),
        (
            json!({ "url": "http://a.example/", "body": "{{ txet }}" }),
            "`body`",
        ),
        (
            json!({ "url": "http://a.example/", "body": "{\"a\": {{ text }} }" }),
            "does not make JSON",
        ),
        (
            json!({ "url": "http://a.example/", "body": "{\"a\": \"{{ media }}\" }" }),
            "does not make JSON",
        ),
    ] {
        let error = build("webhook", config.clone(), None).err().unwrap_or_default();
        assert!(error.contains(named), "{config}: {error}");
    }
    let form = json!({ "url": "http://a.example/", "body": "text={{ text }}", "content_type": "text/plain" });
    assert!(build("webhook", form, None).is_ok());
}
