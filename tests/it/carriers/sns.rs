//! The AWS source: its calls to the SNS host, which are answered from `tests/fixtures/sns`.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use bytes::Bytes;
use http::HeaderMap;
use smsbridge::model::message::Timestamp;
use smsbridge::source::Request;

use super::{carrier, fixture, folder, plan};
use crate::bridge::{Bridge, head, http, wait_for};
use crate::servers::recorder::{Recorder, Reply};

const HOST: &str = "https://sns.us-east-1.amazonaws.com";

/// A request of SNS, signed now.
fn of_sns(kind: &str, message: &str) -> String {
    of_sns_at(jiff::Timestamp::now(), kind, message)
}

/// A request of SNS, signed with the key of the fixtures.
fn of_sns_at(at: jiff::Timestamp, kind: &str, message: &str) -> String {
    let pem = fs::read_to_string(folder().join("../sns/key.pem")).unwrap();
    let lines = pem.lines().filter(|line| !line.starts_with("-----"));
    let base64 = base64::prelude::BASE64_STANDARD;
    let key = base64.decode(lines.collect::<String>()).unwrap();
    let key = ring::signature::RsaKeyPair::from_pkcs8(&key).unwrap();
    let topic = "arn:aws:sns:us-east-1:123456789012:inbound-sms";
    let link = format!("{HOST}/?Action=ConfirmSubscription&TopicArn={topic}&Token=secret-token");
    let (at, is_control) = (at.to_string(), kind != "Notification");
    let mut fields = vec![("Message", message), ("MessageId", "1")];
    if is_control {
        fields.push(("SubscribeURL", link.as_str()));
    }
    fields.push(("Timestamp", at.as_str()));
    if is_control {
        fields.push(("Token", "secret-token"));
    }
    fields.extend([("TopicArn", topic), ("Type", kind)]);
    let signed: String = fields
        .iter()
        .map(|(name, value)| format!("{name}\n{value}\n"))
        .collect();
    let mut signature = vec![0; key.public().modulus_len()];
    let random = ring::rand::SystemRandom::new();
    key.sign(
        &ring::signature::RSA_PKCS1_SHA256,
        &random,
        signed.as_bytes(),
        &mut signature,
    )
    .unwrap();
    let (signature, certificate) = (
        base64.encode(signature),
        format!("{HOST}/SimpleNotificationService-1111111111111111111111.pem"),
    );
    fields.extend([
        ("SigningCertURL", certificate.as_str()),
        ("SignatureVersion", "2"),
        ("Signature", signature.as_str()),
    ]);
    serde_json::to_string(&fields.into_iter().collect::<BTreeMap<_, _>>()).unwrap()
}

/// The certificate fetch fails once and the confirmation fails once; then both succeed.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_confirmed_before_it_is_acknowledged() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let carrier = Recorder::start(move |request| {
        let file = folder().join("../sns").join(request.path.trim_start_matches('/'));
        match (count.fetch_add(1, Ordering::SeqCst), fs::read_to_string(file)) {
            (0 | 2, _) => Reply::new(500, ""),
            (_, Ok(certificate)) => Reply::new(200, &certificate),
            (_, Err(_)) => Reply::new(200, "<ConfirmSubscriptionResponse/>"),
        }
    })
    .await;
    let text = head()
        + "[source.aws]\nkind = \"aws-sns\"\ntopic_arn = \"arn:aws:sns:us-east-1:123456789012:inbound-sms\"\n"
        + &format!("api_url = \"{}\"\n", carrier.url(""))
        + "[destination.screen]\nkind = \"console\"\n[routing]\nunmatched = [\"screen\"]\n";
    let bridge = tokio::task::spawn_blocking(move || {
        let mut bridge = Bridge::configured("");
        fs::write(bridge.folder().join("config.toml"), text).unwrap();
        bridge.run();
        let url = bridge.url("/inbound/aws");
        let post = |body: &str| http("POST", &url, &[("content-type", "text/plain; charset=UTF-8")], body);
        let subscription = of_sns("SubscriptionConfirmation", "You have chosen to subscribe.");
        let (status, head, body) = post(&subscription);
        assert_eq!(status, 503, "no certificate: {body}");
        assert!(head.to_lowercase().contains("\r\nretry-after: "), "{head}");
        // Unverified requests do not cause another call to the carrier.
        assert_eq!(post(&subscription).0, 503);
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert_eq!(post(&subscription).0, 503, "not confirmed");
        let (status, _, body) = post(&subscription);
        assert_eq!((status, body.as_str()), (200, "{\"status\":\"ignored\"}\n"));
        let message = r#"{"originationNumber":"+14255550182","destinationNumber":"+12125550101","messageBody":"Hi SNS","inboundMessageId":"1"}"#;
        let (status, _, body) = post(&of_sns("Notification", message));
        assert_eq!(status, 200, "{body}");
        assert_eq!(post(&of_sns("Notification", message).replace("Hi", "Ho")).0, 403);
        wait_for("the message on the console", || {
            bridge.console().iter().find(|line| line.ends_with("Hi SNS")).cloned()
        });
        let metrics = bridge.metrics();
        for line in [
            "smsbridge_requests_rejected_total{source=\"aws\",reason=\"carrier\"} 3",
            "smsbridge_requests_rejected_total{source=\"aws\",reason=\"forbidden\"} 1",
            "smsbridge_messages_accepted_total{source=\"aws\"} 1",
            // The confirmation that failed is not counted.
            "smsbridge_events_ignored_total{source=\"aws\",event=\"other\"} 1",
        ] {
            assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
        }
        bridge
    })
    .await
    .unwrap();
    let paths: Vec<String> = carrier
        .received()
        .into_iter()
        .map(|request| request.path)
        .collect();
    assert_eq!(asked.load(Ordering::SeqCst), 4, "{paths:?}");
    assert!(paths[3].ends_with("&Token=secret-token"), "{paths:?}");
    let is_logged = bridge.log().iter().any(|line| line.contains("secret-token"));
    assert!(!is_logged, "the token is a secret");
}

/// `SigningCertURL` is not covered by a signature that is not checked yet, so anyone who knows the topic can choose it.
#[tokio::test(flavor = "multi_thread")]
async fn certificate_urls_of_a_stranger_prevent_no_genuine_request() {
    let carrier = carrier().await;
    let plan = plan(&fixture(&folder().join("aws-sns.toml")), &carrier.url(""));
    let source = &plan.sources.get("sns").unwrap().source;
    let message = r#"{"originationNumber":"+14255550182","messageBody":"Hi","inboundMessageId":"1"}"#;
    let genuine = of_sns("Notification", message);
    let headers = HeaderMap::new();
    let certificate = format!("{HOST}/SimpleNotificationService-1111111111111111111111.pem");
    for name in 0..300 {
        for url in [
            format!("{HOST}/{name}.pem"),
            format!("{HOST}/SimpleNotificationService-{name:x}.pem"),
        ] {
            let forged = Bytes::from(genuine.replace(&certificate, &url));
            let request = Request::post([192, 0, 2, 1].into(), &headers, &forged);
            let prepared = source.prepare(&request).await;
            assert!(prepared.is_err() || source.receive(&request).is_err());
        }
    }
    let genuine = Bytes::from(genuine);
    let request = Request {
        now: Timestamp(jiff::Timestamp::now().as_millisecond()),
        ..Request::post([192, 0, 2, 2].into(), &headers, &genuine)
    };
    source.prepare(&request).await.unwrap();
    assert_eq!(source.receive(&request).unwrap().messages[0].text, "Hi");
    let fetched = carrier.received().len();
    assert!(fetched < 15, "{fetched} certificates were fetched");
}

/// The problem about the subscription in the status.
fn problem(bridge: &Bridge) -> Option<serde_json::Value> {
    let status = bridge.status();
    let mut problems = status["problems"].as_array().unwrap().iter();
    problems
        .find(|problem| problem["kind"] == "subscription")
        .cloned()
}

/// Every message would be lost without any other symptom. A reload keeps the problem, and the certificate.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_was_deleted_is_a_problem_until_it_is_active_again() {
    let carrier = Recorder::start(|request| {
        let file = folder().join("../sns").join(request.path.trim_start_matches('/'));
        Reply::new(200, &fs::read_to_string(file).unwrap_or_default())
    })
    .await;
    let rest =
        "[source.aws]\nkind = \"aws-sns\"\ntopic_arn = \"arn:aws:sns:us-east-1:123456789012:inbound-sms\"\n"
            .to_owned()
            + &format!("api_url = \"{}\"\n", carrier.url(""))
            + "[destination.screen]\nkind = \"console\"\n[routing]\nunmatched = [\"screen\"]\n";
    tokio::task::spawn_blocking(move || {
        let bridge = Bridge::start(&rest);
        let url = bridge.url("/inbound/aws");
        let post = |body: &str| assert_eq!(http("POST", &url, &[], body).0, 200, "{body}");
        let ended = jiff::Timestamp::now();
        let (before, after) = (ended - jiff::Span::new().minutes(1), ended + jiff::Span::new().seconds(1));
        let message = |id: u8| format!(r#"{{"originationNumber":"+14255550182","messageBody":"Hi","inboundMessageId":"{id}"}}"#);
        let words = "the subscription of source aws to topic arn:aws:sns:us-east-1:123456789012:inbound-sms was deleted, so no \
                     messages arrive; create it again in the AWS console";
        assert_eq!(problem(&bridge), None);
        post(&of_sns_at(ended, "UnsubscribeConfirmation", "You have chosen to deactivate it."));
        bridge.logged(words);
        let found = problem(&bridge).expect("a problem");
        assert_eq!((&found["severity"], &found["message"]), (&"error".into(), &words.into()));
        let since: jiff::Timestamp = found["since"].as_str().unwrap().parse().unwrap();
        assert_eq!(since.as_millisecond(), ended.as_millisecond());
        let (_, out, _) = bridge.command(&["status"]);
        assert!(out.contains("was deleted, so no messages arrive"), "{out}");

        bridge.configure(&(rest + "[contacts]\n\"+13035550100\" = \"Front door\"\n"));
        let (status, changes) = bridge.admin("POST", "/reload", "").unwrap();
        assert_eq!(status, 200, "{changes}");
        assert!(changes.to_string().contains("contacts"), "{changes}");
        assert_eq!(problem(&bridge), Some(found.clone()), "after a reload");
        // SNS repeats a message that was published before the end.
        post(&of_sns_at(before, "Notification", &message(1)));
        assert_eq!(problem(&bridge), Some(found));
        post(&of_sns_at(after, "Notification", &message(2)));
        assert_eq!(problem(&bridge), None);
        bridge.logged("source aws receives from topic");

        post(&of_sns_at(after + jiff::Span::new().seconds(1), "UnsubscribeConfirmation", ""));
        assert!(problem(&bridge).is_some());
        post(&of_sns_at(after + jiff::Span::new().seconds(2), "SubscriptionConfirmation", ""));
        assert_eq!(problem(&bridge), None);
    })
    .await
    .unwrap();
    let received = carrier.received();
    let certificates = received.iter().filter(|request| request.path.ends_with(".pem"));
    assert_eq!(certificates.count(), 1, "the reload keeps the certificate");
}
