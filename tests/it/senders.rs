//! Alphanumeric senders and other unusual webhooks, from the webhook to every list and destination.

use serde_json::{Value, json};

use crate::bridge::refid;
use crate::bridge::{Bridge, CODE, wait_for};

const CONFIG: &str = "[destination.screen]\nkind = \"console\"\n[destination.rest]\nkind = \"console\"\n\
     template = \"rest {{ from }} → {{ to }}: {{ text }}\"\n\
     [contacts]\n\"AT&T\" = \"The phone company\"\n\
     [[route]]\nname = \"codes\"\nfrom = [\"GOOGLE\", \"приват*\", \"*&t\"]\ndeliver = [\"screen\"]\n\
     [routing]\nunmatched = [\"rest\"]\n";

/// Posts a body with these fields and the right signature; the answer must be a success.
fn post(bridge: &Bridge, number: usize, fields: Value) -> String {
    let mut body = json!({ "refid": refid(number), "to": "+13038675309", "signature": CODE });
    let given = fields.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(given);
    let (status, answer) = bridge.post(&body.to_string(), "application/json");
    assert_eq!(
        (status, &answer["status"]),
        (200, &json!("accepted")),
        "{fields}: {answer}"
    );
    answer["id"].as_str().unwrap().to_owned()
}

fn message(bridge: &Bridge, id: &str) -> Value {
    let (status, message) = bridge.admin("GET", &format!("/messages/{id}"), "").unwrap();
    assert_eq!(status, 200, "{message}");
    message
}

fn found(bridge: &Bridge, query: &str) -> usize {
    let (status, page) = bridge.admin("GET", &format!("/messages?{query}"), "").unwrap();
    assert_eq!(status, 200, "{query}: {page}");
    page["items"].as_array().unwrap().len()
}

#[test]
fn a_sender_may_be_any_name() {
    let bridge = Bridge::start(CONFIG);
    for (number, (from, shown, route)) in [
        ("Google", "Google", "codes"),
        ("AT&T", "AT&T", "codes"),
        ("Приват Банк", "Приват Банк", "codes"),
        ("Bank\u{202e}\u{1b}[31m of\tX", "Bank[31m of X", ""),
        ("N".repeat(5_000).as_str(), &"N".repeat(64), ""),
        ("+12", "+12", ""),
        ("", "unknown", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let id = post(
            &bridge,
            number,
            json!({ "from": from, "message": format!("text {number}") }),
        );
        let message = message(&bridge, &id);
        assert_eq!(message["from"], shown);
        assert_eq!(
            message["routes"]
                .as_array()
                .unwrap()
                .first()
                .map_or("", |name| name.as_str().unwrap()),
            route
        );
        let query: String = url::form_urlencoded::byte_serialize(shown.as_bytes()).collect();
        assert_eq!(found(&bridge, &format!("from={query}")), 1, "{shown}");
        let said = format!("text {number}");
        let line = wait_for("the console's line", || {
            bridge.console().into_iter().find(|line| line.ends_with(&said))
        });
        assert!(
            !line.contains(|c: char| c.is_control() || c == '\u{202e}'),
            "{line:?}"
        );
        let name = if from == "AT&T" {
            "The phone company"
        } else {
            shown
        };
        assert!(line.contains(name), "{line}");
    }
    assert_eq!(found(&bridge, "from=gOOgle"), 1);
    assert_eq!(found(&bridge, "from=*oogle"), 1);
    let log = bridge.log();
    assert!(log.iter().any(|line| line.contains("accepted")), "{log:?}");
    for line in log {
        assert!(
            !line.contains("oogle") && !line.contains("Приват") && !line.contains("NNNN"),
            "{line}"
        );
    }
}

#[test]
fn the_commands_take_names() {
    let bridge = Bridge::start(CONFIG);
    let run = |arguments: &[&str]| {
        let (code, out, err) = bridge.command(arguments);
        assert_eq!(code, 0, "{arguments:?}: {out}{err}");
        out
    };
    let told = run(&[
        "simulate",
        "--url",
        &bridge.url("/inbound/intelepeer"),
        "--from",
        "Google",
        "--to",
        "Shop",
        "--message",
        "7",
    ]);
    assert!(told.contains("accepted"), "{told}");
    let listed = run(&["message", "list", "--from", "google"]);
    assert!(listed.contains("Google") && listed.contains("Shop"), "{listed}");
    let explained = run(&["route", "--from", "google", "--to", "Shop", "--message", "x"]);
    assert!(explained.contains("route codes  matched"), "{explained}");
    let explained = run(&["route", "--from", "Other", "--to", "Shop", "--message", "x"]);
    assert!(explained.contains("no route matched"), "{explained}");
}

#[test]
fn an_unusual_webhook_is_logged_without_its_content() {
    let bridge = Bridge::start(CONFIG);
    let id = post(&bridge, 1, json!({ "to": null, "body": "canary" }));
    let message = message(&bridge, &id);
    assert_eq!(
        (&message["from"], &message["to"], &message["text"]),
        (&json!("unknown"), &json!("unknown"), &json!(""))
    );
    assert_eq!(message["extra"], json!({ "body": "\"canary\"" }));
    let (_, shown, _) = bridge.command(&["message", "show", &id]);
    assert!(shown.contains("body: \"canary\""), "{shown}");
    let line = bridge.logged("accepted an incomplete message");
    assert!(
        line.contains("no `from`; no `to`; no `message`") && line.contains(&id),
        "{line}"
    );
    assert!(!bridge.log().iter().any(|line| line.contains("canary")));
}

#[test]
fn a_known_refid_with_other_content_is_a_duplicate_and_a_warning() {
    let bridge = Bridge::start(CONFIG);
    let first = Bridge::body(&refid(1), "+13035550100", "canary one");
    let (status, answer) = bridge.post(&first.to_string(), "application/json");
    assert_eq!((status, &answer["status"]), (200, &json!("accepted")));
    let id = answer["id"].clone();
    let mut same = first.clone();
    (same["from"], same["try"]) = ("+1 (303) 555-0100".into(), 2.into());
    let mut other_sender = first.clone();
    other_sender["from"] = "+13035550101".into();
    let mut other_text = first.clone();
    other_text["message"] = "canary two".into();
    for (body, differing) in [(&first, 0), (&same, 0), (&other_text, 1), (&other_sender, 2)] {
        let (status, answer) = bridge.post(&body.to_string(), "application/json");
        assert_eq!(
            (status, &answer["status"], &answer["id"]),
            (200, &json!("duplicate"), &id),
            "{body}"
        );
        let metrics = bridge.metrics();
        let counted =
            format!("smsbridge_messages_duplicate_differing_total{{source=\"intelepeer\"}} {differing}\n");
        assert!(metrics.contains(&counted), "{counted}{metrics}");
    }
    let warnings: Vec<String> = bridge
        .log()
        .into_iter()
        .filter(|line| line.contains("\"WARN\""))
        .collect();
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(
        warnings[0].contains(id.as_str().unwrap()) && warnings[0].contains("different content"),
        "{warnings:#?}"
    );
    assert!(
        !bridge
            .log()
            .iter()
            .any(|line| line.contains("canary") || line.contains("5550101"))
    );
}
