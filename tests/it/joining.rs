//! Long messages that a carrier sends part by part: they are delivered once and complete, even across a kill and a
//! restart.

use std::fs;

use crate::bridge::{Bridge, http, wait_for};
use crate::promises::clock::{Machine, daemon};

const CONFIG: &str = "[source.vonage]\nkind = \"vonage\"\napi = \"sms\"\nallow_from = [\"127.0.0.1\"]\n\
     [destination.screen]\nkind = \"console\"\ntemplate = \"{{ text }}\"\n[routing]\nunmatched = [\"screen\"]\n";

const MINUTE: i64 = 60_000;

/// Posts a part as Vonage does: `ID SENDER REF NUMBER/TOTAL TEXT`. Returns the answer.
fn post(url: &str, words: &str) -> serde_json::Value {
    let words: Vec<&str> = words.splitn(5, ' ').collect();
    let (number, total) = words[3].split_once('/').unwrap();
    let form = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([
            ("messageId", words[0]),
            ("msisdn", words[1]),
            ("to", "447700900000"),
            ("type", "text"),
            ("text", words[4]),
            ("concat", "true"),
            ("concat-ref", words[2]),
            ("concat-total", total),
            ("concat-part", number),
        ])
        .finish();
    let fields = [("content-type", "application/x-www-form-urlencoded")];
    let (status, _, body) = http("POST", url, &fields, &form);
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// The messages in the store that are no parts, oldest first: state, body, and the missing parts.
fn messages(page: &serde_json::Value) -> Vec<(String, String, String)> {
    let items = page["items"].as_array().unwrap().iter().rev();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    items
        .filter(|item| item["extra"]["part"].is_null())
        .map(|item| {
            let missing = text(&item["extra"]["missing_parts"]);
            (text(&item["state"]), text(&item["text"]), missing)
        })
        .collect()
}

fn listed(bridge: &Bridge) -> Vec<(String, String, String)> {
    messages(&bridge.admin("GET", "/messages?limit=100", "").unwrap().1)
}

fn delivered(text: &str) -> (String, String, String) {
    ("delivered".to_owned(), text.to_owned(), String::new())
}

#[test]
fn a_simulated_long_message_arrives_in_parts_and_is_joined() {
    let bridge = Bridge::start(CONFIG);
    let body = "One message, 5 € each. ".repeat(20);
    let numbers = ["--from", "+447700900001", "--to", "+447700900000"];
    let arguments = ["simulate", "--source", "vonage", "--message", &body, "--url"];
    let url = bridge.url("/inbound/vonage");
    let (code, out, err) = bridge.command(&[&arguments[..], &[&url], &numbers].concat());
    assert_eq!((code, out.lines().count()), (0, 4), "{out}{err}");
    wait_for("the message", || {
        (listed(&bridge) == [delivered(&body)]).then_some(())
    });
}

#[test]
fn parts_become_one_message_over_a_kill_whatever_their_order() {
    let mut bridge = Bridge::start(CONFIG);
    let url = |bridge: &Bridge| bridge.url("/inbound/vonage");
    // Two senders with the same reference, in both orders, and each part twice.
    for part in [
        "A1 447700900001 7 1/3 Hel",
        "B3 447700900002 7 3/3 now",
        "A2 447700900001 7 2/3 lo ",
    ] {
        assert_eq!(post(&url(&bridge), part)["status"], "accepted");
        assert_eq!(post(&url(&bridge), part)["status"], "duplicate");
    }
    assert_eq!(listed(&bridge), []);
    bridge.kill();
    bridge.run();
    for part in [
        "A3 447700900001 7 3/3 you",
        "B2 447700900002 7 2/3 me ",
        "B1 447700900002 7 1/3 Call ",
    ] {
        assert_eq!(post(&url(&bridge), part)["status"], "accepted");
        assert_eq!(post(&url(&bridge), part)["status"], "duplicate");
    }
    let both = [delivered("Hello you"), delivered("Call me now")];
    wait_for("both messages", || (listed(&bridge) == both).then_some(()));
    wait_for("both on the console", || {
        let console = bridge.console();
        let has = |text: &str| console.iter().any(|line| line.ends_with(text));
        (has("Hello you") && has("Call me now")).then_some(())
    });
    let metrics = bridge.metrics();
    for line in [
        "smsbridge_messages_accepted_total{source=\"vonage\"} 2",
        "smsbridge_messages_unrouted_total 2",
        "smsbridge_messages_kept_total 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
    // A start joins stored parts again, but nothing is delivered twice, even if the reference is used again.
    bridge.kill();
    bridge.run();
    for part in [
        "C1 447700900001 7 1/2 And ",
        "C2 447700900001 7 2/2 again",
        "A1 447700900001 7 1/3 Hel",
    ] {
        post(&url(&bridge), part);
    }
    let all = [&both[..], &[delivered("And again")]].concat();
    wait_for("the third message", || (listed(&bridge) == all).then_some(()));
    assert_eq!(bridge.console().len(), 1, "{:?}", bridge.console());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_message_is_delivered_after_ten_minutes_and_marked() {
    let bridge = Bridge::configured(CONFIG);
    let path = bridge.folder().join("config.toml");
    let text = fs::read_to_string(&path).unwrap();
    // Although it is shorter than the ten minutes, parts keep their content and ids.
    let short = "[store]\nretain = \"3m\"\nredact_after = \"2m\"\ndedup_window = \"1m\"\n";
    fs::write(&path, text.replace("[store]\n", short)).unwrap();
    let machine = Machine::off_by(0);
    let run = async |parts: &[&str]| {
        let (daemon, store) = daemon(bridge.folder(), machine.clock()).await;
        let url = format!("http://{}/inbound/vonage", daemon.public_addresses()[0]);
        for part in parts {
            post(&url, part);
        }
        // Joining at start has ended when no problem mentions it.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(2);
        let mut found = Vec::new();
        while std::time::Instant::now() < deadline {
            let query = smsbridge::store::Query {
                limit: 100,
                ..Default::default()
            };
            let page = daemon.control().messages(&query).await.unwrap();
            found = messages(&serde_json::to_value(&page).unwrap());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        daemon.stop().await.unwrap();
        drop(store);
        found
    };
    let parts = ["A1 447700900001 7 1/3 See", "A3 447700900001 7 3/3 you"];
    assert_eq!(run(&parts).await, []);
    machine.pass(9 * MINUTE);
    assert_eq!(run(&[]).await, [], "the time is not over");
    machine.pass(2 * MINUTE);
    let text = "See [part 2 of 3 is missing] you".to_owned();
    let incomplete = [("delivered".to_owned(), text, "[2]".to_owned())];
    assert_eq!(run(&[]).await, incomplete);
    assert_eq!(run(&[]).await, incomplete, "only once");
    // A part that arrives later is a separate message.
    machine.pass(MINUTE);
    assert_eq!(run(&["A2 447700900001 7 2/3 later"]).await.len(), 1);
    machine.pass(12 * MINUTE);
    let found = run(&[]).await;
    let text = "[part 1 of 3 is missing] later [part 3 of 3 is missing]";
    assert_eq!(
        found.last().map(|(_, text, _)| text.as_str()),
        Some(text),
        "{found:?}"
    );
}
