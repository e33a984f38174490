//! P22: servers whose answers quote the request.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

use super::ledger::{Receiver, unmatched};
use super::report;
use crate::bridge::refid;
use crate::bridge::{Bridge, wait_for};
use crate::servers::fake_intelepeer::{Answer, FakeIntelepeer};
use crate::servers::fake_smtp::{FakeSmtp, Turn};
use crate::servers::recorder::{Received, Recorder, Reply};

/// The strings that must not appear: the body, the numbers, and every secret that a request contains.
const TEXT: &str = "canary <zebra> & \"Привет\" pin 471199";
const PRIVATE: &[&str] = &[
    "canary",
    "Canary",
    "CANARY",
    "zebra",
    "Привет",
    "471199",
    "3035550188",
    "3038675309",
];

/// How servers quote.
const QUOTINGS: &[fn(&str) -> String] = &[
    |said| said.to_owned(),
    |said| json!({ "error": said }).to_string(),
    |said| {
        said.replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('"', "&quot;")
    },
    |said| percent_encoding::utf8_percent_encode(said, percent_encoding::NON_ALPHANUMERIC).to_string(),
    |said| format!("Cannot read: {}", BASE64.encode(said)),
    |said| said.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect(),
];

/// The encodings of these values in a quotation.
fn forbidden() -> Vec<String> {
    let quoted = PRIVATE
        .iter()
        .flat_map(|private| QUOTINGS[2..].iter().map(|quote| quote(private)));
    let mut forbidden: Vec<String> = PRIVATE
        .iter()
        .map(|&private| private.to_owned())
        .chain(quoted)
        .collect();
    forbidden.retain(|word| !word.starts_with("Cannot read"));
    // The body at each offset that it can have in a group of three bytes.
    for offset in 0..3 {
        let encoded = BASE64.encode(format!("{}{TEXT}", "x".repeat(offset)));
        forbidden.push(encoded[8..24].to_owned());
    }
    forbidden
}

fn quoting(status: u16, quote: fn(&str) -> String) -> impl Fn(&Received) -> Reply + Send + Sync + 'static {
    move |received| {
        let said = format!(
            "Cannot POST {}: token {} is not known, in {}",
            received.path,
            received.header("authorization"),
            received.body
        );
        Reply::new(status, &quote(&said))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p22_an_answer_that_quotes_the_request_reveals_nothing() {
    let retry = "retry = { initial = \"10ms\", max = \"20ms\" }\n";
    let mut config = String::new();
    let mut names = Vec::new();
    let mut receivers = Vec::new();
    for status in [400, 403, 409, 429, 503] {
        for (nth, quote) in QUOTINGS.iter().enumerate() {
            let receiver = Recorder::start(quoting(status, *quote)).await;
            let name = format!("crm{status}-{nth}");
            config += &format!(
                "[destination.{name}]\nkind = \"webhook\"\nurl = \"{}?key=canary-query\"\nsecret = \"canary-signing\"\n\
                 headers = {{ authorization = \"Bearer CANARYHEADER\" }}\n{retry}",
                receiver
                    .url("/hooks/CanaryPath")
                    .replace("http://", "http://user:canary-user@")
            );
            names.push(name);
            receivers.push(receiver);
        }
    }
    let code = Receiver::start(|received| {
        let token = received
            .header("authorization")
            .trim_start_matches("Bearer ")
            .to_owned();
        Reply::new(
            403,
            &json!({ "ok": false, "error": token, "errcode": token }).to_string(),
        )
    })
    .await;
    let url = code.recorder.url("");
    config += &format!(
        "[destination.ops]\nkind = \"slack\"\napi_url = \"{url}\"\ntoken = \"canary_slack_token\"\nchannel = \"C1\"\n{retry}\
         [destination.room]\nkind = \"matrix\"\nhomeserver = \"{url}\"\nroom = \"!a:b.example\"\naccess_token = \"canary_matrix_token\"\n{retry}"
    );
    let smtp = FakeSmtp::start(&["AUTH PLAIN"], |_, _, line| {
        line.starts_with("RCPT").then_some(Turn::Say(
            "550 5.7.1 <desk@example.com>: Subject: SMS from +13035550188 to +1 (303) 867-5309 is not \
             wanted, canary <zebra>, AHVzZXIAY2FuYXJ5LXBhc3N3b3Jk is canary-password",
        ))
    })
    .await;
    config += &format!(
        "[smtp.main]\nhost = \"127.0.0.1\"\nport = {}\nsecurity = \"none\"\nusername = \"user\"\npassword = \"canary-password\"\n\
         [destination.desk]\nkind = \"email\"\nsmtp = \"main\"\nfrom = \"sms@example.com\"\nto = [\"desk@example.com\"]\n\
         subject = \"{{{{ text }}}}\"\n{retry}",
        smtp.port
    );
    let portal = FakeIntelepeer::start(|seen| Answer {
        status: 400,
        body: Some(json!({ "error": format!("Cannot read {:?}", seen.authorization) })),
        ..Answer::default()
    })
    .await;
    names.extend(["ops", "room", "desk"].map(str::to_owned));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut bridge = Bridge::configured(&(config + &unmatched(&names)));
    let path = bridge.folder().join("config.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replacen(
        "[server]\n",
        "[server]\npublic_url = \"https://sms.example.com\"\n",
        1,
    );
    let api = format!(
        "[source.intelepeer.api]\ntoken = \"canary-portal-token\"\napi_url = \"{0}\"\nauth_url = \"{0}\"\nnumbers = [\"+12161112222\"]\n",
        portal.url()
    );
    std::fs::write(&path, text + &api).unwrap();
    bridge.run_with(&["-vvv"], &[("RUST_LOG", "trace")]);
    assert_eq!(bridge.post_message(&refid(1), "+13035550188", TEXT).0, 200);
    wait_for("every destination to have failed, and the portal", || {
        let (_, deliveries) = bridge.admin("GET", "/deliveries?limit=200", "").unwrap();
        let tried = deliveries["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|one| one["attempts_made"] != 0)
            .count();
        let portal = bridge.status()["problems"].to_string().contains("+12161112222");
        (tried == names.len() && portal).then_some(())
    });
    let mut shown = vec![bridge.status().to_string()];
    for path in ["/deliveries?limit=200", "/destinations"] {
        shown.push(bridge.admin("GET", path, "").unwrap().1.to_string());
    }
    // The mail server's answer is about the first message.
    for name in names.iter().filter(|name| **name != "desk") {
        shown.push(
            bridge
                .admin("POST", &format!("/destinations/{name}/test"), "")
                .unwrap()
                .1
                .to_string(),
        );
    }
    let (_, log, _) = bridge.stop();
    let status = &shown[0];
    for private in forbidden() {
        let leak = shown.iter().find(|line| line.contains(&private));
        assert!(leak.is_none(), "{private} was shown: {leak:?}");
        let leak = log.iter().find(|line| line.contains(&private));
        assert!(leak.is_none(), "{private} was logged: {leak:?}");
    }
    // The status still shows the cause, and the log contains nothing from the answers.
    for expected in ["Cannot POST", "Cannot read"] {
        assert!(
            shown.iter().any(|line| line.contains(expected)),
            "{expected}: {shown:#?}"
        );
    }
    for expected in ["HTTP 403", "HTTP 429", "HTTP 503", "400"] {
        assert!(status.contains(expected), "{expected}: {status}");
    }
    for expected in ["HTTP 400", "HTTP 403", "HTTP 429", "HTTP 503", "550 5.7.1"] {
        assert!(
            log.iter().any(|line| line.contains(expected)),
            "{expected}: {log:#?}"
        );
    }
    for word in ["Cannot", "not known", "wanted"] {
        let leak = log.iter().find(|line| line.contains(word));
        assert!(leak.is_none(), "{word} was logged: {leak:?}");
    }
    report(
        "P22",
        &format!(
            "{} destinations and a portal that quote in {} ways: nothing revealed",
            names.len(),
            QUOTINGS.len()
        ),
    );
}
