//! Sources against the carriers' own libraries: the daemon accepts what they sign and rejects what they reject, and they
//! accept what `smsbridge simulate` sends.
//!
//! `carriers/oracle.py` and `carriers/oracle.js` run all cases of all libraries in one process. Each reads a task
//! `{"public_url", "daemon", "seed", "count", "keys": {SOURCE: …}}` and answers with
//! `{SOURCE: {"accepted", "refused", "stored": [[ID, TEXT]], "complaints"}}`. With `"simulated": {SOURCE: [REQUEST]}` in the
//! task it verifies these requests instead, and answers with `{SOURCE: {"simulated", "complaints"}}`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::bridge::{Bridge, head};
use crate::pages::root;
use crate::promises::rng::Rng;
use crate::servers::recorder::{Received, Recorder, Reply};

const PUBLIC_URL: &str = "https://sms.example.com";

/// The cases of each library and source.
const CASES: usize = 200;

/// The messages that are simulated for each source, and how often each.
const TEXTS: usize = 10;
const COPIES: usize = CASES / TEXTS;

const TOPIC: &str = "arn:aws:sns:us-east-1:123456789012:inbound-sms";
const CERTIFICATE: &str = "SimpleNotificationService-1111111111111111111111.pem";

/// The sources, their secrets, and their configurations with `KEY` for the secret.
const SOURCES: &[(&str, &str, &str)] = &[
    (
        "twilio",
        "12345678901234567890123456789012",
        "kind = 'twilio'\nauth_token = 'KEY'",
    ),
    (
        "twilio-shared",
        "abcdefghijklmnopqrstuvwxyzabcdef",
        "kind = 'twilio'\nshared_keys = { webhooks_sharedkey_01 = 'KEY' }",
    ),
    (
        "signalwire",
        "PSK_0123456789abcdef0123456789abcdef",
        "kind = 'signalwire'\nsigning_key = 'KEY'\nbasic_auth = { username = 'u', password = 'p:@/ x' }",
    ),
    (
        "plivo",
        "MAXXXXXXXXXXXXXXXXXXauthtoken0123456789a",
        "kind = 'plivo'\nauth_token = 'KEY'",
    ),
    // The public key belongs to the private key that the libraries get.
    (
        "telnyx",
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        "kind = 'telnyx'\npublic_key = 'A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg='",
    ),
    (
        "vonage-messages",
        "signature_secret_abcdefghijklmnop",
        "kind = 'vonage'\napi = 'messages'\nsignature_secret = 'KEY'",
    ),
    ("vonage-hmac-md5", "signature_secret_abcdefghijklmnop", VONAGE_SMS),
    (
        "vonage-hmac-sha1",
        "signature_secret_abcdefghijklmnop",
        VONAGE_SMS,
    ),
    (
        "vonage-hmac-sha256",
        "signature_secret_abcdefghijklmnop",
        VONAGE_SMS,
    ),
    (
        "vonage-hmac-sha512",
        "signature_secret_abcdefghijklmnop",
        VONAGE_SMS,
    ),
    (
        "sinch",
        "sinch_app_secret_0123456789",
        "kind = 'sinch'\nsecret = 'KEY'",
    ),
    (
        "bird",
        "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        "kind = 'generic'\npreset = 'bird'\nsecret = 'KEY'",
    ),
    (
        "aws",
        "",
        "kind = 'aws-sns'\ntopic_arn = 'TOPIC'\napi_url = 'CARRIER'",
    ),
];

const VONAGE_SMS: &str =
    "kind = 'vonage'\napi = 'sms'\nsignature_method = 'METHOD'\nsignature_secret = 'KEY'";

/// The sources whose requests only the carrier can sign.
const NOT_SIMULATED: &[&str] = &["aws", "telnyx"];

/// The sources that JavaScript libraries verify, too. `aws-sns` has a library only there.
const IN_NODE: &[&str] = &[
    "aws",
    "plivo",
    "signalwire",
    "telnyx",
    "twilio",
    "vonage-messages",
];

fn names() -> BTreeSet<&'static str> {
    SOURCES.iter().map(|(name, ..)| *name).collect()
}

/// The libraries, and the sources that each of the two processes knows.
fn processes() -> [(&'static str, BTreeSet<&'static str>); 2] {
    let python = names().into_iter().filter(|name| *name != "aws").collect();
    [("python", python), ("node", IN_NODE.iter().copied().collect())]
}

fn configuration(carrier: &str) -> String {
    let mut text = head().replace("[server]\n", &format!("[server]\npublic_url = '{PUBLIC_URL}'\n"));
    for (name, key, keys) in SOURCES {
        let keys = keys
            .replace("KEY", key)
            .replace("TOPIC", TOPIC)
            .replace("CARRIER", carrier);
        let keys = keys.replace("METHOD", name.trim_start_matches("vonage-"));
        text += &format!("[source.{name}]\n{keys}\n");
    }
    text + "[routing]\nunmatched = []\n"
}

fn keys() -> Value {
    let secrets = SOURCES
        .iter()
        .map(|(name, key, _)| ((*name).to_owned(), json!(key)));
    let mut secrets: serde_json::Map<String, Value> = secrets.collect();
    let file = |name: &str| fs::read_to_string(root().join("tests/fixtures/sns").join(name)).unwrap();
    let url = format!("https://sns.us-east-1.amazonaws.com/{CERTIFICATE}");
    let sns =
        json!({ "private": file("key.pem"), "certificate": file(CERTIFICATE), "topic": TOPIC, "url": url });
    secrets.insert("aws".to_owned(), sns);
    secrets.into()
}

/// Runs one of the two processes with a task.
fn run(process: &str, task: &Value) -> BTreeMap<String, Value> {
    let environment = root().join("target/test-env");
    let file = |name: &str| root().join("tests/system/carriers").join(name);
    let mut command = match process {
        "python" => {
            let mut python = Command::new(environment.join("carriers/bin/python"));
            python.args(["-W", "ignore"]).arg(file("oracle.py"));
            python
        }
        _ => {
            let mut node = Command::new("node");
            node.arg(file("oracle.js"))
                .env("NODE_PATH", environment.join("node/node_modules"));
            node
        }
    };
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| {
        panic!("no {process} with the carriers' libraries: run tests/setup: {error}")
    });
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(task.to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{process} failed: run tests/setup if a library is missing"
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Each source has its number of cases, and no library disagrees.
fn check(process: &str, sources: &BTreeSet<&str>, answers: &BTreeMap<String, Value>, counts: &[&str]) {
    let known: BTreeSet<&str> = answers.keys().map(String::as_str).collect();
    assert_eq!(&known, sources, "{process}");
    for (source, answer) in answers {
        let figures: Vec<String> = counts
            .iter()
            .map(|count| format!("{} {count}", answer[*count]))
            .collect();
        println!("{process} {source}: {}", figures.join(", "));
        assert_eq!(answer["complaints"], json!([]), "{process} {source}");
        for count in counts {
            // `simulate` sends a long message to the SMS API of Vonage in parts.
            let is_exact = !(*count == "simulated" && source.starts_with("vonage-"));
            let figure = answer[*count].as_u64().unwrap();
            assert!(
                figure == CASES as u64 || !is_exact && figure > CASES as u64,
                "{process} {source}: {figure} {count}"
            );
        }
    }
}

/// The bodies of all stored messages by source and id.
fn stored(bridge: &Bridge) -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let (status, page) = bridge
            .admin("GET", &format!("/messages?limit=500{cursor}"), "")
            .unwrap();
        assert_eq!(status, 200, "{page}");
        for item in page["items"].as_array().unwrap() {
            let text = |name: &str| item[name].as_str().unwrap().to_owned();
            let replaced = found.insert((text("source"), text("provider_id")), text("text"));
            assert_eq!(replaced, None, "stored twice: {item}");
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the carriers' libraries: tests/run"]
async fn the_daemon_and_the_carriers_libraries_accept_the_same_requests() {
    let certificate = fs::read_to_string(root().join("tests/fixtures/sns").join(CERTIFICATE)).unwrap();
    let carrier = Recorder::answering(Reply::new(200, &certificate)).await;
    let seed = Rng::new().next();
    let url = carrier.url("");
    tokio::task::spawn_blocking(move || {
        let mut bridge = Bridge::configured("");
        fs::write(bridge.folder().join("config.toml"), configuration(&url)).unwrap();
        bridge.run();
        let task = json!({
            "public_url": PUBLIC_URL, "daemon": bridge.url(""), "seed": seed, "count": CASES, "keys": keys(),
        });
        let mut expected = BTreeMap::new();
        for (process, sources) in processes() {
            let answers = run(process, &task);
            check(process, &sources, &answers, &["accepted", "refused"]);
            for (source, answer) in answers {
                let pairs: Vec<(String, String)> = serde_json::from_value(answer["stored"].clone()).unwrap();
                expected.extend(pairs.into_iter().map(|(id, text)| ((source.clone(), id), text)));
            }
        }
        let stored = stored(&bridge);
        for (message, text) in &expected {
            assert_eq!(stored.get(message), Some(text), "{message:?}");
        }
        assert_eq!(stored.len(), expected.len(), "only what was signed is stored");
    })
    .await
    .unwrap();
}

/// The request as the library gets it.
fn request(received: &Received) -> Value {
    let headers = received.headers.iter();
    let headers: BTreeMap<&str, &str> = headers
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    json!({ "method": received.method.as_str(), "path": received.path, "headers": headers, "body": received.body })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the carriers' libraries: tests/run"]
async fn the_carriers_libraries_accept_what_simulate_sends() {
    let recorder = Recorder::answering(Reply::new(200, "")).await;
    let url = recorder.url("");
    let mut rng = Rng::new();
    tokio::task::spawn_blocking(move || {
        let bridge = Bridge::configured("");
        fs::write(bridge.folder().join("config.toml"), configuration(&url)).unwrap();
        let copies = COPIES.to_string();
        for source in names() {
            for _ in 0..TEXTS {
                let (text, url) = (random_text(&mut rng), format!("{url}/inbound/{source}"));
                let numbers = ["--from", "+14045550123", "--to", "+13038675309"];
                let message = ["--message", &text, "--url", &url, "--count", &copies];
                let (code, out, err) =
                    bridge.command(&[&["simulate", "--source", source], &numbers[..], &message].concat());
                let is_refused = err.contains("only") && err.contains("has");
                assert!(
                    code == 0 || (NOT_SIMULATED.contains(&source) && is_refused),
                    "{source}: {out}{err}"
                );
            }
        }
    })
    .await
    .unwrap();
    let mut simulated: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for received in recorder.received() {
        let source = received.path.trim_start_matches("/inbound/");
        let source = source.split_once('?').map_or(source, |(source, _)| source);
        let of_source = simulated.entry(source.to_owned()).or_default();
        of_source.push(request(&received));
    }
    let task = json!({ "public_url": PUBLIC_URL, "daemon": "", "simulated": simulated, "keys": keys() });
    let is_simulated = |name: &&str| !NOT_SIMULATED.contains(name);
    for (process, sources) in processes() {
        let mut answers = run(process, &task);
        answers.retain(|source, _| is_simulated(&source.as_str()));
        let sources = sources.into_iter().filter(is_simulated).collect();
        check(process, &sources, &answers, &["simulated"]);
    }
}

/// Letters, signs of forms, and characters of two to four bytes.
fn random_text(rng: &mut Rng) -> String {
    let signs: Vec<char> = "abc XYZ 019 +&=%?#;/\\\"'<>\n äöß €£ 中文 שלום 😀👍"
        .chars()
        .collect();
    let length = 1 + rng.below(300);
    (0..length).map(|_| signs[rng.below(signs.len())]).collect()
}
