//! P19, P20, P22 and P24: untrusted input does no harm.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use sha2::Sha256;

use super::ledger::{Receiver, deliveries, drained, nowhere, stored, unmatched};
use super::{report, rounds};
use crate::bridge::refid;
use crate::bridge::{Bridge, CODE, http, wait_for};
use crate::servers::recorder::Reply;

const JSON: (&str, &str) = ("content-type", "application/json");

/// Each poison message ends dead at its own destination, all others are delivered, and the process stays the same.
#[tokio::test(flavor = "multi_thread")]
async fn p19_a_poison_message_becomes_the_only_dead_letter() {
    let good = Receiver::good().await;
    let picky = Receiver::start(|received| match received.body.contains("poison") {
        true => Reply::new(400, "I will not have that"),
        false => Reply::new(200, "ok"),
    })
    .await;
    let tiring = "template = '{% if \"poison\" in text %}{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}{% endif %}{{ text }}'";
    let breaking = "template = '{% if \"poison\" in text %}{{ 1 // 0 }}{% endif %}{{ text }}'";
    let slack =
        |name: &str, template: &str| format!("[destination.{name}]\nkind = \"console\"\n{template}\n");
    let route = "[[route]]\nname = \"hard\"\nmessage = '(?s)^(?P<head>(a|aa|.)*)*(?P<tail>x+x+)+y?$'\ndeliver = []\ncontinue = true\n";
    let names = ["good", "picky", "tiring", "breaking"];
    let all = format!("[[route]]\nname = \"all\"\ndeliver = {names:?}\n");
    let config = good.config("good", "")
        + &picky.config("picky", "")
        + &slack("tiring", tiring)
        + &slack("breaking", breaking)
        + route
        + &all
        + &unmatched(&["good"]);
    let mut bridge = Bridge::start(&config);
    let pid = bridge.pid();
    let poisons = rounds(3, 300);
    let hard = "a".repeat(30_000) + &"x".repeat(30_000) + "poison";
    for number in 0..poisons {
        let text = if number % 3 == 1 { hard.as_str() } else { "poison" };
        assert_eq!(
            bridge.post_message(&refid(number * 2), "+13035550100", text).0,
            200
        );
        assert_eq!(
            bridge
                .post_message(&refid(number * 2 + 1), "+13035550100", "fine")
                .0,
            200
        );
    }
    drained(&bridge, Duration::from_secs(60));
    let all = stored(&bridge);
    assert_eq!(all.len(), poisons * 2);
    for message in all.values() {
        assert_eq!(deliveries(message).count(), 4, "{message}");
        let is_poison = message["text"].as_str().unwrap().contains("poison");
        for delivery in deliveries(message) {
            let destination = delivery["destination"].as_str().unwrap();
            let state = if is_poison && destination != "good" {
                "dead"
            } else {
                "delivered"
            };
            assert_eq!(delivery["state"], state, "{destination}: {delivery}");
            assert!(
                state != "dead"
                    || delivery["reason"]
                        .as_str()
                        .is_some_and(|reason| !reason.is_empty())
            );
        }
    }
    assert_eq!(bridge.pid(), pid);
    assert!(
        !bridge.log().iter().any(|line| line.contains("panick")),
        "{:#?}",
        bridge.log()
    );
    bridge.kill();
    bridge.run();
    assert_eq!(
        bridge.status()["messages"]["pending"],
        0,
        "it does not come back after a restart"
    );
    report(
        "P19",
        &format!("{poisons} poison messages: dead at three destinations, nothing else delayed"),
    );
}

fn sign(text: &Value) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(b"hmac-secret").unwrap();
    mac.update(text["refid"].as_str().unwrap().as_bytes());
    mac.update(text["message"].as_str().unwrap().as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

/// Signed requests with one mistake each.
fn forgeries(good: &Value) -> Vec<(String, Value)> {
    let signature = good["signature"].as_str().unwrap().to_owned();
    let with = |what: &str, field: &str, value: Value| {
        let mut forged = good.clone();
        forged[field] = value;
        (what.to_owned(), forged)
    };
    let mut forged = vec![
        with("empty", "signature", json!("")),
        with("null", "signature", Value::Null),
        with("a list", "signature", json!([signature])),
        with("a number", "signature", json!(0)),
        with("longer", "signature", json!(format!("{signature}0"))),
        with("shorter", "signature", json!(signature[..signature.len() - 1])),
        with("a space", "signature", json!(format!(" {signature}"))),
        with("a NUL", "signature", json!(format!("{signature}\0"))),
        with("twice", "signature", json!(format!("{signature}{signature}"))),
        with("true", "signature", json!(true)),
    ];
    let mut missing = good.clone();
    missing.as_object_mut().unwrap().remove("signature");
    forged.push(("missing".to_owned(), missing));
    for place in 0..signature.len() {
        let mut bytes = signature.clone().into_bytes();
        bytes[place] = if bytes[place] == b'0' { b'1' } else { b'0' };
        forged.push(with(
            &format!("changed at {place}"),
            "signature",
            json!(String::from_utf8(bytes).unwrap()),
        ));
    }
    forged
}

#[tokio::test(flavor = "multi_thread")]
async fn p20_nothing_unauthenticated_is_stored_and_a_replay_delivers_nothing() {
    let receiver = Receiver::good().await;
    let sources = "[source.signed]\nkind = \"intelepeer\"\nverify = \"hmac\"\nsecret = \"hmac-secret\"\n\
         [source.basic]\nkind = \"intelepeer\"\nverify = \"none\"\nbasic_auth = { username = \"carrier\", password = \"pw\" }\n\
         [source.far]\nkind = \"intelepeer\"\nverify = \"none\"\nallow_from = [\"203.0.113.0/24\"]\n";
    let bridge = Bridge::start(&(sources.to_owned() + &receiver.config("crm", "") + &unmatched(&["crm"])));
    let post = |source: &str, fields: &[(&str, &str)], body: &Value| {
        let url = bridge.url(&format!("/inbound/{source}"));
        let mut fields = fields.to_vec();
        fields.push(JSON);
        http("POST", &url, &fields, &body.to_string()).0
    };
    let mut refused = 0;
    let mut refuse = |what: &str, status: u16| {
        assert!((400..500).contains(&status), "{what} was answered {status}");
        refused += 1;
    };

    let mut shared = Bridge::body(&refid(1), "+13035550100", "x");
    let mut signed = Bridge::body(&refid(2), "+13035550100", "x");
    signed["signature"] = sign(&signed).into();
    for (source, good) in [("intelepeer", &mut shared), ("signed", &mut signed)] {
        for (what, forged) in forgeries(good) {
            refuse(&format!("{source}: {what}"), post(source, &[], &forged));
        }
    }
    for (field, value) in [("message", "y"), ("message", ""), ("refid", &refid(3))] {
        let mut changed = signed.clone();
        changed[field] = value.into();
        refuse(
            &format!("another {field} under the same signature"),
            post("signed", &[], &changed),
        );
    }
    let mut moved = signed.clone();
    (moved["refid"], moved["message"]) = (format!("{}x", refid(2)).into(), "".into());
    refuse(
        "a character moved from the body to the id",
        post("signed", &[], &moved),
    );
    let unsigned = Bridge::body(&refid(4), "+13035550100", "x");
    for credentials in [
        "carrier:",
        "carrier:pw2",
        "carrier:p",
        "Carrier:pw",
        ":pw",
        "carrier:pw\0",
        "",
    ] {
        let field = format!("Basic {}", BASE64.encode(credentials));
        refuse(
            credentials,
            post("basic", &[("authorization", &field)], &unsigned),
        );
    }
    refuse("no credentials", post("basic", &[], &unsigned));
    refuse(
        "a bearer",
        post("basic", &[("authorization", "Bearer pw")], &unsigned),
    );
    for hop in ["203.0.113.7", "203.0.113.7, 127.0.0.1"] {
        refuse(
            "a forwarded address",
            post("far", &[("x-forwarded-for", hop)], &unsigned),
        );
    }
    assert_eq!(stored(&bridge).len(), 0, "something unauthenticated was stored");

    let basic = format!("Basic {}", BASE64.encode("carrier:pw"));
    let mut replayed = 0;
    for _ in 0..rounds(10, 500) {
        assert_eq!(post("intelepeer", &[], &shared), 200);
        assert_eq!(post("signed", &[], &signed), 200);
        assert_eq!(post("basic", &[("authorization", &basic)], &unsigned), 200);
        replayed += 3;
    }
    drained(&bridge, Duration::from_secs(20));
    assert_eq!(
        (stored(&bridge).len(), receiver.taken().len()),
        (3, 3),
        "a replay made a second message"
    );
    report(
        "P20",
        &format!("{refused} forgeries refused and none stored, {replayed} replays of 3 messages delivered 3"),
    );
}

/// Secrets in all places that accept one, and messages that fail in many ways.
#[tokio::test(flavor = "multi_thread")]
async fn p22_no_secret_body_or_number_reaches_logs_metrics_or_errors() {
    let failing = Receiver::start(|_| Reply::new(503, "later")).await;
    let refusing = Receiver::start(|_| Reply::new(400, "no")).await;
    let retry = "retry = { initial = \"10ms\", max = \"20ms\" }\n";
    let config = failing.config(
        "crm",
        &format!(
            "secret = \"canary-outbound-secret\"\nheaders = {{ authorization = \"canary-header\" }}\n{retry}"
        ),
    ) + &refusing.config("bad", "")
        + &format!(
            "[destination.ops]\nkind = \"slack\"\nwebhook_url = \"http://127.0.0.1:9/services/canary-path\"\n{retry}"
        )
        + &format!(
            "[destination.room]\nkind = \"matrix\"\nhomeserver = \"http://127.0.0.1:9\"\nroom = \"!a:b.example\"\naccess_token = \"canary-token\"\n{retry}"
        )
        + "[smtp.main]\nhost = \"127.0.0.1\"\nport = 9\nsecurity = \"none\"\nusername = \"u\"\npassword = \"canary-password\"\n"
        + &format!(
            "[destination.desk]\nkind = \"email\"\nsmtp = \"main\"\nfrom = \"sms@example.com\"\nto = [\"desk@example.com\"]\n{retry}"
        )
        + "[destination.screen]\nkind = \"console\"\n[admin]\nlisten = \"127.0.0.2:0\"\ntoken = \"canary-admin-token-long-enough\"\nsocket = \"data/admin.sock\"\n"
        + &unmatched(&["crm", "bad", "ops", "room", "desk", "screen"]);
    let formats: &[&str] = &["json", "text"];
    for format in formats {
        let mut bridge = Bridge::configured(&config);
        let path = bridge.folder().join("config.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(
            &path,
            text.replace("format = \"json\"", &format!("format = \"{format}\"")),
        )
        .unwrap();
        bridge.run_with(&["-vvv"], &[("RUST_LOG", "trace")]);
        let mut told = vec![
            bridge
                .post_message(&refid(1), "+13035550188", "canary-text")
                .1
                .to_string(),
        ];
        for body in [
            Bridge::body(&refid(2), "canary-number", "canary-text").to_string(),
            Bridge::body(&refid(3), "+13035550188", "canary-text")
                .to_string()
                .replace(CODE, "canary-guess"),
            "{\"refid\": \"canary-refid".to_owned(),
            "{\"canary-field\": 1, \"canary-field\": 2}".to_owned(),
        ] {
            told.push(bridge.post(&body, "application/json").1.to_string());
        }
        wait_for("the message and its failures", || {
            let status = bridge.status();
            let all_failed = status["destinations"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|one| one["state"] == "down")
                .count()
                == 4;
            (!bridge.console().is_empty() && all_failed && status["messages"]["dead"] == 2).then_some(())
        });
        told.push(bridge.status().to_string());
        told.push(bridge.metrics());
        told.push(bridge.admin("GET", "/deliveries", "").unwrap().1.to_string());
        std::fs::write(&path, text + "[destination.crm]\n").unwrap();
        told.push(bridge.admin("POST", "/reload", "").unwrap().1.to_string());
        let (_, log, _) = bridge.stop();
        assert!(log.len() > 20, "{log:#?}");
        told.extend(log);
        for canary in ["canary", "3035550188"] {
            let leak = told.iter().find(|line| line.contains(canary));
            assert!(leak.is_none(), "{format}: {canary} leaked: {leak:?}");
        }
    }
    let message = crate::fixtures::message("canary-text");
    let secret: smsbridge::model::secret::Secret = smsbridge::model::secret::Secret::new("canary-secret");
    let shown = format!("{message:?} {secret:?} {secret:#?}");
    assert!(
        !shown.contains("canary") && !shown.contains("3035550100"),
        "{shown}"
    );
    report(
        "P22",
        "no canary in trace logs of two formats, answers, status, metrics, deliveries, problems, Debug",
    );
}

/// Any JSON, for unknown fields.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(".{0,10}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

/// Senders in every known format and in none, and numbers without a route.
fn sender() -> impl Strategy<Value = String> {
    prop_oneof![
        ".{0,30}",
        "[A-Z][a-z&]{1,11}( [A-Z][a-z]{1,9})?",
        "\\+[1-9][0-9]{6,14}",
        "1?[2-9][0-9]{9}",
        "1-[0-9]{4,6}",
        "57-[A-Za-z]{3,11}",
        "[0-9]{3,6}",
        "\\+1 \\([0-9]{3}\\) [0-9]{3}-[0-9]{4}",
    ]
}

fn odd_text() -> impl Strategy<Value = Value> {
    let fields = prop::collection::hash_map("[a-z_]{1,12}", anything(), 0..6);
    (
        sender(),
        sender(),
        ".{0,300}",
        fields,
        prop::option::of(anything()),
    )
        .prop_map(|(from, to, text, fields, media)| {
            let mut body = json!(fields);
            if let Some(media) = media {
                body["media"] = media;
            }
            (body["from"], body["to"], body["message"]) = (from.into(), to.into(), text.into());
            body["signature"] = CODE.into();
            body
        })
}

#[tokio::test(flavor = "multi_thread")]
async fn p24_unusual_messages_are_kept_and_go_to_unmatched() {
    let receiver = Receiver::good().await;
    let route = "[[route]]\nname = \"known\"\nto = [\"+19995550100\"]\ndeliver = []\n";
    let config = receiver.config("crm", "concurrency = 8") + &nowhere("other") + route + &unmatched(&["crm"]);
    let bridge = Bridge::start(&config);
    let cases = rounds(300, 20_000);
    let mut runner = TestRunner::new(Config {
        cases: u32::try_from(cases).unwrap(),
        failure_persistence: None,
        ..Config::default()
    });
    let sent = std::cell::RefCell::new(std::collections::BTreeMap::new());
    let outcome = runner.run(&odd_text(), |mut body| {
        let refid = refid(sent.borrow().len());
        body["refid"] = refid.clone().into();
        let text = body.to_string();
        prop_assume!(text.len() < 60_000);
        let (status, answer) = bridge.post(&text, "application/json");
        prop_assert_eq!(status, 200, "{}", answer);
        prop_assert_eq!(&answer["status"], "accepted");
        sent.borrow_mut().insert(refid, body);
        Ok(())
    });
    outcome.unwrap();
    let sent = sent.into_inner();
    drained(&bridge, Duration::from_secs(120));
    let stored = stored(&bridge);
    assert_eq!(stored.len(), sent.len());
    for (refid, body) in &sent {
        let message = &stored[refid];
        assert_eq!(message["text"], body["message"], "{refid}");
        let expected: Vec<&Value> = deliveries(message)
            .map(|delivery| &delivery["destination"])
            .collect();
        assert_eq!(expected, [&json!("crm")], "{body}");
    }
    assert_eq!(receiver.taken().len(), sent.len());
    report(
        "P24",
        &format!(
            "{} unusual messages: all kept as sent, all to `unmatched`",
            sent.len()
        ),
    );
}

/// Invalid requests are rejected with the reason, and never with a 500.
#[test]
fn p24_invalid_requests_are_rejected_with_the_reason() {
    let bridge = Bridge::start(&(nowhere("crm") + &unmatched(&["crm"])));
    let good = Bridge::body(&refid(1), "+13035550100", "x").to_string();
    let mut rng = super::rng::Rng::new();
    let (mut refused, mut taken) = (0, 0);
    for _ in 0..rounds(300, 20_000) {
        let mut bytes = good.clone().into_bytes();
        for _ in 0..=rng.below(4) {
            let place = rng.below(bytes.len());
            match rng.below(3) {
                0 => bytes[place] = u8::try_from(0x20 + rng.below(0x5f)).unwrap(),
                1 => drop(bytes.remove(place)),
                _ => bytes.insert(place, b"\"{}[]:,\\x"[rng.below(9)]),
            }
        }
        let body = String::from_utf8(bytes).unwrap();
        let (status, answer) = bridge.post(&body, "application/json");
        match status {
            200 => {
                assert!(body.contains(CODE), "taken without the code: {body}");
                taken += 1;
            }
            400 | 403 => {
                assert!(
                    answer["error"].as_str().is_some_and(|error| !error.is_empty()),
                    "{body}: {answer}"
                );
                refused += 1;
            }
            other => panic!("{other} for {body}: {answer}"),
        }
    }
    assert!(
        refused > 0 && taken > 0,
        "{refused} refused, {taken} accepted: the test proves nothing"
    );
}
