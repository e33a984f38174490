//! Messages whose webhooks did not arrive are listed at the carrier and accepted once, over failures and a kill.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::bridge::{Bridge, head, http, wait_for};
use crate::servers::recorder::{Received, Recorder, Reply};

const LIST: &str = "/api/2010-04-01/Accounts/AC1/Messages.json";

/// The attachments of the message `SM3`, and the only one.
const MEDIA: &str = "/api/2010-04-01/Accounts/AC1/Messages/SM3/Media.json";
const MEDIUM: &str = "/2010-04-01/Accounts/AC1/Messages/SM3/Media/ME1.json";

/// The current responses of the carrier.
#[derive(Clone, Default)]
struct Stage {
    first: Option<Reply>,
    second: Option<Reply>,
}

/// A message of the list, sent this many seconds ago.
fn listed(sid: &str, direction: &str, text: &str, age: i64) -> Value {
    let at = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(age);
    let at = jiff::fmt::rfc2822::to_string(&at.to_zoned(jiff::tz::TimeZone::UTC)).unwrap();
    json!({
        "sid": sid, "direction": direction, "from": "+14045550123", "to": "+13038675309", "body": text,
        "num_segments": "1", "num_media": "0", "date_sent": at, "account_sid": "AC1", "status": "received",
    })
}

fn page(messages: &[Value], next: Option<&str>) -> Reply {
    Reply::new(
        200,
        &json!({ "messages": messages, "next_page_uri": next }).to_string(),
    )
}

fn items(bridge: &Bridge) -> Vec<Value> {
    let (_, found) = bridge.admin("GET", "/messages?limit=100", "").unwrap();
    found["items"].as_array().unwrap().clone()
}

fn bodies(bridge: &Bridge) -> Vec<String> {
    let items = items(bridge);
    let bodies = items
        .iter()
        .rev()
        .map(|item| item["text"].as_str().unwrap().to_owned());
    bodies.collect()
}

/// The current problem of the list.
fn problem(bridge: &Bridge, words: &str) {
    wait_for(&format!("the problem `{words}`"), || {
        let status = bridge.status();
        let mut problems = status["problems"].as_array().unwrap().iter();
        let is_it = |problem: &&Value| {
            problem["kind"] == "catch_up" && problem["message"].as_str().unwrap().contains(words)
        };
        problems.find(is_it).map(drop)
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn missed_messages_are_accepted_once_over_failures_and_a_kill() {
    let stage = Arc::new(Mutex::new(Stage::default()));
    let played = stage.clone();
    let carrier = Recorder::start(move |request: &Received| {
        let stage = played.lock().unwrap().clone();
        if request.path == MEDIA {
            return Reply::new(
                200,
                &json!({ "media_list": [{ "uri": MEDIUM, "content_type": "image/png" }] }).to_string(),
            );
        }
        let reply = match request.path.contains("PageToken") {
            true => stage.second,
            false => stage.first,
        };
        reply.unwrap_or_else(|| page(&[], None))
    })
    .await;
    let set = |first: Reply, second: Option<Reply>| {
        *stage.lock().unwrap() = Stage {
            first: Some(first),
            second,
        };
    };
    let mut bridge = Bridge::configured("");
    let config = head().replace(
        "[server]\n",
        "[server]\npublic_url = \"https://sms.example.com\"\n",
    ) + "[source.twilio]\nkind = \"twilio\"\nauth_token = \"12345678901234567890123456789012\"\n[source.twilio.catch_up]\n"
        + &format!("account_sid = \"AC1\"\napi_url = \"{}\"\n", carrier.url("/api"))
        + "[destination.screen]\nkind = \"console\"\n[routing]\nunmatched = [\"screen\"]\n";
    std::fs::write(bridge.folder().join("config.toml"), config).unwrap();
    // Before the first webhook, nothing is imported.
    set(
        page(&[listed("SM0", "inbound", "older than the setup", 600)], None),
        None,
    );
    bridge.run();
    wait_for("the first list", || {
        (!carrier.received().is_empty()).then_some(())
    });
    let url = bridge.url("/inbound/twilio");
    let simulate = [
        "simulate",
        "--source",
        "twilio",
        "--from",
        "+14045550123",
        "--to",
        "+13038675309",
    ];
    let (code, out, err) =
        bridge.command(&[&simulate[..], &["--message", "by webhook", "--url", &url]].concat());
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(bodies(&bridge), ["by webhook"]);
    let known = items(&bridge)[0]["provider_id"].as_str().unwrap().to_owned();

    bridge.kill();
    set(Reply::new(401, "{\"code\":20003,\"message\":\"canary\"}"), None);
    bridge.run();
    problem(&bridge, "HTTP 401 Unauthorized; check the credentials");

    let next = format!("{LIST}?Page=1&PageToken=PA1");
    let mut third = listed("SM3", "inbound", "third", 1);
    third["num_media"] = "1".into();
    third["subresource_uris"] = json!({ "media": MEDIA.trim_start_matches("/api") });
    let newest = [
        third,
        listed("SM9", "outbound-api", "sent by us", 2),
        listed(&known, "inbound", "by webhook", 3),
    ];
    let oldest = [
        listed("SM2", "inbound", "second", 4),
        listed("SM0", "inbound", "too old", 9000),
    ];
    let first = page(&newest, Some(&next));
    set(
        first.clone(),
        Some(Reply::new(429, "").with("retry-after", "3600")),
    );
    bridge.signal("HUP");
    problem(&bridge, "HTTP 429 Too Many Requests");
    assert!(bridge.logged("HTTP 429").contains("retrying in 1h"));
    assert_eq!(bodies(&bridge), ["by webhook"]);

    bridge.kill();
    set(first, Some(page(&oldest, None)));
    bridge.run();
    let all = ["by webhook", "second", "third"];
    wait_for("the missed messages", || (bodies(&bridge) == all).then_some(()));
    bridge.logged("accepted 2 missed messages");
    let media = json!([{
        "link": carrier.url(&format!("/api{}", MEDIUM.trim_end_matches(".json"))),
        "content_type": "image/png", "filename": null,
    }]);
    assert_eq!(items(&bridge)[0]["media"], media);
    let metrics = bridge.metrics();
    for line in [
        "smsbridge_messages_caught_up_total{source=\"twilio\"} 2",
        "smsbridge_messages_duplicate_total{source=\"twilio\"} 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
    assert_eq!(bridge.status()["problems"], json!([]));

    // A late webhook of a listed message is a duplicate, and another start accepts nothing again.
    let requests = carrier.received().len();
    bridge.kill();
    bridge.run();
    wait_for("two more pages", || {
        (carrier.received().len() >= requests + 3).then_some(())
    });
    let (status, _, _) = http("GET", &bridge.url("/readyz"), &[], "");
    assert_eq!(status, 200);
    assert_eq!(bodies(&bridge), all);

    let request = &carrier.received()[0];
    assert!(
        request
            .path
            .starts_with(&format!("{LIST}?PageSize=200&DateSent%3E=2")),
        "{}",
        request.path
    );
    let login = "Basic QUMxOjEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDEy";
    assert_eq!(request.header("authorization"), login);
    assert!(
        !bridge
            .log()
            .iter()
            .any(|line| line.contains("canary") || line.contains("12345678901234567890"))
    );
}
