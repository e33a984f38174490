//! `smsbridge intelepeer`, against a fake provider.

use std::path::Path;

use serde_json::{Value, json};

use super::{TWO, assert_harmless, complaint, run, run_json};
use crate::bridge::{Bridge, CODE, head};
use crate::servers::fake_intelepeer::{Answer, FakeIntelepeer, Seen};

/// The provider's API with one number for each outcome.
struct Provider {
    server: FakeIntelepeer,
    bridge: Bridge,
}

const GOOD: &str = "+12161110001";
const AWAY: &str = "+12161110002";
const FOREIGN: &str = "+12161110003";
const STUBBORN: &str = "+12161110004";

impl Provider {
    /// Knows `GOOD`, which points here; `AWAY`, which does not; `STUBBORN`, which cannot be set; not `FOREIGN`.
    async fn start(numbers: &[&str]) -> Self {
        let server = FakeIntelepeer::start(provider()).await;
        let bridge = Bridge::configured("");
        let text = head().replace(
            "[server]\n",
            "[server]\npublic_url = \"https://sms.example.com\"\n",
        ) + &format!(
            "basic_auth = {{ username = \"carrier\", password = \"canary-password\" }}\n\
                 [source.intelepeer.api]\nusername = \"bridge\"\npassword = \"canary-portal\"\n\
                 api_url = \"{url}\"\nauth_url = \"{url}\"\nnumbers = {numbers:?}\n\
                 [destination.far]\nkind = \"slack\"\nwebhook_url = {{ credential = \"not-here\" }}\n\
                 [routing]\nunmatched = [\"far\"]\n",
            url = server.url()
        );
        std::fs::write(bridge.folder().join("config.toml"), text).unwrap();
        Self { server, bridge }
    }

    /// No output may contain a secret.
    #[track_caller]
    fn run(&self, status: i32, arguments: &[&str]) -> (String, String) {
        let (code, out, err) = self.bridge.command(&[&["intelepeer"], arguments].concat());
        assert_eq!(code, status, "{arguments:?}: {out}{err}");
        assert!(
            !out.contains("canary") && !err.contains("canary"),
            "{arguments:?}: {out}{err}"
        );
        self.server.assert_no_surprise("");
        (out, err)
    }

    fn run_json(&self, status: i32, arguments: &[&str]) -> Value {
        let (out, _) = self.run(status, &[arguments, &["--json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
    }
}

fn provider() -> impl FnMut(&Seen) -> Answer {
    let here = "https://carrier:canary-password@sms.example.com/inbound/intelepeer";
    let mut away = ("https://old.example.com/".to_owned(), "provisioned");
    let ok = |status: u16, body: Value| Answer {
        status,
        body: Some(body),
        ..Answer::default()
    };
    move |seen| {
        if seen.target.ends_with("/authenticate") {
            return ok(200, json!({ "token": "canary-token" }));
        }
        assert_eq!(seen.authorization.as_deref(), Some("Bearer canary-token"));
        let setting = seen
            .body
            .as_ref()
            .map(|body| body["webhook"].as_str().unwrap().to_owned());
        let numbers = match &seen.body {
            Some(body) => body["endpoints"]
                .as_array()
                .unwrap()
                .iter()
                .map(|n| n.as_str().unwrap().to_owned())
                .collect(),
            None => asked(&seen.target),
        };
        let mut one = |number: &str| -> (u16, Value) {
            let state = |webhook: &str, state: &str| json!({ "webhook": webhook, "provisioning": { "state": state } });
            match (number, &setting) {
                (GOOD, None) => (200, state(here, "provisioned")),
                (GOOD, Some(_)) => panic!("a number that points here was set again"),
                (AWAY, None) => {
                    let answer = state(&away.0, away.1);
                    away.1 = "provisioned";
                    (200, answer)
                }
                (AWAY, Some(url)) => {
                    away = (url.clone(), "provisioning");
                    (201, state(url, "requested"))
                }
                (STUBBORN, None) => (200, json!({ "provisioning": {} })),
                (STUBBORN, Some(_)) => (400, json!({ "error": "\u{1b}[2Jnot enabled for SMS" })),
                _ => (404, json!({ "error": "no such number" })),
            }
        };
        if let [number] = numbers.as_slice() {
            let (status, body) = one(number);
            return ok(status, body);
        }
        let entries: Vec<Value> = numbers
            .iter()
            .map(|number| {
                let (status, response) = one(number);
                json!({ "status": status, "endpoint": number, "response": response })
            })
            .collect();
        ok(207, json!({ "code": 207, "endpoints": entries }))
    }
}

fn asked(target: &str) -> Vec<String> {
    let (_, query) = target.split_once('?').unwrap();
    url::form_urlencoded::parse(query.as_bytes())
        .map(|(_, number)| number.into_owned())
        .collect()
}

fn actions(answer: &Value) -> Vec<(&str, &str)> {
    let lines = answer["numbers"].as_array().unwrap();
    lines
        .iter()
        .map(|line| (line["number"].as_str().unwrap(), line["action"].as_str().unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_webhooks_of_numbers_are_shown_without_daemon_and_passwords() {
    let provider = Provider::start(&[GOOD, AWAY]).await;
    let (out, _) = provider.run(0, &["webhook", "get"]);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 3, "{out}");
    assert!(
        lines[1].contains("https://***@sms.example.com/inbound/intelepeer") && lines[1].contains("yes"),
        "{out}"
    );
    assert!(
        lines[2].contains("https://old.example.com/") && lines[2].contains("no"),
        "{out}"
    );
    let foreign = provider.run_json(1, &["webhook", "get", FOREIGN]);
    assert!(
        foreign["numbers"][0]["problem"]
            .as_str()
            .unwrap()
            .contains("not a number of this account")
    );
    let (_, err) = provider.run(2, &["webhook", "get", "hello"]);
    assert!(err.contains("hello"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_changes_what_differs_and_reports_each_number_s_own_outcome() {
    let provider = Provider::start(&[GOOD, AWAY, FOREIGN, STUBBORN]).await;
    let would = [
        (GOOD, "unchanged"),
        (AWAY, "would_set"),
        (FOREIGN, "failed"),
        (STUBBORN, "would_set"),
    ];
    assert_eq!(
        actions(&provider.run_json(1, &["webhook", "sync", "--dry-run"])),
        would
    );

    // There is no terminal to ask for confirmation, so nothing is changed.
    let (out, err) = provider.run(2, &["webhook", "sync"]);
    assert!(
        err.contains("no longer go to the provider's own messaging platform"),
        "{err}"
    );
    assert!(err.contains("--yes") && out.contains("would set"), "{out}{err}");
    assert_eq!(
        actions(&provider.run_json(1, &["webhook", "sync", "--dry-run"])),
        would
    );

    let (out, err) = provider.run(1, &["webhook", "sync", "--yes", "--watch"]);
    assert_harmless(&out);
    assert!(
        err.contains("no longer go to the provider's own messaging platform"),
        "{err}"
    );
    assert!(err.contains("2 of 4 numbers failed"), "{err}");
    let lines: Vec<&str> = out.lines().skip(out.lines().count() - 4).collect();
    for (line, words) in lines.iter().zip([
        vec![GOOD, "provisioned", "unchanged"],
        vec![
            AWAY,
            "https://***@sms.example.com/inbound/intelepeer",
            "provisioned",
            "set",
        ],
        vec![FOREIGN, "failed", "not a number of this account"],
        vec![STUBBORN, "failed", "not enabled for SMS"],
    ]) {
        assert!(words.iter().all(|word| line.contains(word)), "{words:?}: {out}");
    }
    // The second time, the number that could be set needs no change.
    let again = provider.run_json(1, &["webhook", "sync", "--dry-run"]);
    assert_eq!(actions(&again)[1], (AWAY, "unchanged"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_is_set_to_another_url_only_after_confirmation() {
    let provider = Provider::start(&[]).await;
    let url = "https://other.example.com/in?key=canary";
    let (_, err) = provider.run(2, &["webhook", "set", AWAY, "--url", url]);
    assert!(err.contains("https://other.example.com/in?***"), "{err}");
    let set = provider.run_json(0, &["webhook", "set", AWAY, "--url", url, "--yes"]);
    assert_eq!(set["numbers"][0]["now"], "https://other.example.com/in?***");
    assert_eq!(actions(&set), [(AWAY, "set")]);
    provider.run(
        2,
        &["webhook", "set", AWAY, "--url", "ftp://u:canary@x/", "--yes"],
    );
    let (_, err) = provider.run(2, &["webhook", "sync", "--yes"]);
    assert!(err.contains("source.intelepeer.api.numbers is empty"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_fetched_and_shown_only_on_request() {
    let provider = Provider::start(&[GOOD]).await;
    let (out, _) = provider.run(0, &["token"]);
    assert!(
        out.starts_with("the provider gave a token, valid until 20") && out.contains("(in 24h)"),
        "{out}"
    );
    let answer = provider.run_json(0, &["token"]);
    assert_eq!(
        (&answer["token"], &answer["configured"]),
        (&Value::Null, &json!(false))
    );
    let shown = provider.bridge.command(&["intelepeer", "token", "--show"]);
    assert_eq!((shown.0, shown.1.as_str()), (0, "canary-token\n"));
    let (_, err) = provider.run(2, &["token", "--source", "other"]);
    assert!(err.contains("no source `other`"), "{err}");
}

#[test]
fn without_an_account_the_commands_say_what_to_add() {
    let bridge = Bridge::configured(TWO);
    assert!(complaint(&bridge, 2, &["intelepeer", "token"]).contains("[source.NAME.api]"));
    bridge.configure(&format!(
        "[source.intelepeer.api]\ntoken = {{ env = \"NOT_SET\" }}\n{TWO}"
    ));
    assert!(complaint(&bridge, 2, &["intelepeer", "token"]).contains("`NOT_SET` is not set"));
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_source_accepts_the_detected_signature_scheme() {
    let mut bridge = Bridge::configured(TWO);
    let folder = bridge.folder().to_owned();
    let key = write(&folder, "key", "the-key\n");
    // HMAC-SHA-256 with `the-key` over the refid, a bar and the message.
    let body = json!({
        "refid": "ABCDEF1234567890ABCDEF1234567890", "from": "+13035550100", "to": "+13038675309",
        "message": "Hello", "signature": hmac("the-key", "ABCDEF1234567890ABCDEF1234567890|Hello"),
    });
    let sample = write(&folder, "sample.json", &body.to_string());
    let lines = run(
        &bridge,
        0,
        &["intelepeer", "detect-signature", "--secret-file", &key, &sample],
    );
    assert!(lines.contains("over = \"{refid}|{message}\""), "{lines}");
    let schemes = run_json(
        &bridge,
        0,
        &["intelepeer", "detect-signature", "--secret-file", &key, &sample],
    );
    assert_eq!(schemes["schemes"][0]["hmac"]["algorithm"], "sha256");

    let config = head().replace(
        &format!("secret = \"{CODE}\"\n"),
        &format!("secret = \"the-key\"\n{lines}"),
    );
    std::fs::write(folder.join("config.toml"), config + TWO).unwrap();
    bridge.run();
    assert_eq!(bridge.post(&body.to_string(), "application/json").0, 200);

    let wrong = write(&folder, "wrong", "another-key\n");
    let words = complaint(
        &bridge,
        1,
        &["intelepeer", "detect-signature", "--secret-file", &wrong, &sample],
    );
    assert!(
        words.contains("no known scheme") && !words.contains("another-key"),
        "{words}"
    );
    complaint(
        &bridge,
        1,
        &["intelepeer", "detect-signature", "--secret-file", &key, &key],
    );
    complaint(
        &bridge,
        2,
        &[
            "intelepeer",
            "detect-signature",
            "--secret-file",
            "/nowhere",
            &sample,
        ],
    );
}

fn hmac(key: &str, data: &str) -> String {
    use hmac::{Hmac, KeyInit as _, Mac as _};
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(data.as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_logs_once_that_a_number_points_elsewhere() {
    let mut provider = Provider::start(&[GOOD, AWAY]).await;
    let config = provider.bridge.folder().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap().replace(
        "kind = \"slack\"\nwebhook_url = { credential = \"not-here\" }",
        "kind = \"console\"",
    );
    std::fs::write(&config, text).unwrap();
    provider.bridge.run();
    let line = provider.bridge.logged("may not arrive");
    assert!(line.contains("+1***02") && !line.contains(AWAY), "{line}");
    assert!(
        line.contains("points elsewhere") && !line.contains("old.example.com"),
        "{line}"
    );
    let (_, status, _) = provider.bridge.command(&["status"]);
    assert!(
        status.contains(AWAY)
            && status.contains("https://old.example.com/")
            && status.contains("webhook sync"),
        "{status}"
    );
    assert!(!status.contains(GOOD), "{status}");
    let (code, _, ready) = crate::bridge::http("GET", &provider.bridge.url("/readyz"), &[], "");
    assert_eq!(code, 200);
    assert!(
        ready.contains("source intelepeer: the webhooks of 1 of 2 numbers may not point here"),
        "{ready}"
    );
    assert!(!ready.contains(AWAY), "{ready}");

    provider.run(0, &["webhook", "sync", "--yes", "--watch"]);
    provider.bridge.signal("HUP");
    provider.bridge.logged("the webhook of +1***02 points here again");
    let said = provider
        .bridge
        .log()
        .iter()
        .filter(|line| line.contains("may not arrive"))
        .count();
    assert_eq!(said, 1, "one line per change, none per check");
}
