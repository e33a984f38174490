//! The client of IntelePeer's management API against recorded exchanges.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use smsbridge::model::secret::Secret;
use smsbridge::model::setting::from_toml;
use smsbridge::source::intelepeer::api::{Client, Config, Outcome};

use crate::servers::fake_intelepeer::{Answer, Exchange, FakeIntelepeer, Seen};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    #[expect(dead_code, reason = "documents the file")]
    about: String,
    config: toml::Table,
    exchanges: Vec<Exchange>,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Step {
    Get {
        get: Vec<String>,
        expect: Vec<Expected>,
    },
    Set {
        set: Vec<String>,
        webhook: String,
        expect: Vec<Expected>,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    endpoint: String,
    outcome: String,
    webhook: Option<String>,
    state: Option<String>,
    /// A part of the message.
    #[serde(default)]
    words: String,
}

fn client(server: &FakeIntelepeer, config: Config) -> Client {
    // The process has one TLS provider; another test may have set it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = Config {
        api_url: Some(server.url()),
        auth_url: Some(server.url()),
        ..config
    };
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    Client::new(&config, http)
        .unwrap()
        .with_backoff(Duration::from_millis(1))
}

fn login() -> Config {
    Config {
        username: Some("bridge".to_owned()),
        password: Some(Secret::new("p")),
        ..Config::default()
    }
}

fn check(name: &str, outcomes: Vec<(String, Outcome)>, expected: Vec<Expected>) {
    assert_eq!(outcomes.len(), expected.len(), "{name}: {outcomes:?}");
    for ((endpoint, outcome), expected) in outcomes.into_iter().zip(expected) {
        assert_eq!(endpoint, expected.endpoint, "{name}");
        let (kind, words) = match &outcome {
            Outcome::Known(webhook) => {
                assert_eq!(webhook.url, expected.webhook, "{name}");
                let state = webhook.state.as_ref().map(ToString::to_string);
                assert_eq!(state, expected.state, "{name}");
                ("known", "")
            }
            Outcome::Invalid(words) => ("invalid", words.shown()),
            Outcome::Unauthorized(words) => ("unauthorized", words.shown()),
            Outcome::NotOurs(words) => ("not_ours", words.shown()),
            Outcome::Failed(words) => ("failed", words.shown()),
        };
        assert_eq!(kind, expected.outcome, "{name}: {outcome:?}");
        assert!(words.contains(&expected.words), "{name}: {words}");
        assert!(
            !words.contains("canary") && !words.contains("portal password"),
            "{name}: {words}"
        );
        assert_eq!(outcome.problem().is_none(), kind == "known", "{name}");
    }
}

async fn run(name: &str, fixture: Fixture) {
    let server = FakeIntelepeer::play(fixture.exchanges).await;
    let client = client(&server, from_toml(&fixture.config.to_string()).unwrap());
    for step in fixture.steps {
        let (outcomes, expected) = match step {
            Step::Get { get, expect } => (client.get(&get).await, expect),
            Step::Set { set, webhook, expect } => (client.set(&set, &Secret::new(webhook)).await, expect),
        };
        server.assert_no_surprise(name);
        check(name, outcomes, expected);
    }
    server.assert_played(name);
}

#[tokio::test]
async fn every_recorded_exchange_ends_as_recorded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/intelepeer/api");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let fixture = serde_json::from_str(&fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        run(&path.file_name().unwrap().to_string_lossy(), fixture).await;
        count += 1;
    }
    assert!(count >= 25, "only {count} exchanges were found");
}

/// An API that knows every number and takes each token for three requests.
fn forgetful() -> impl FnMut(&Seen) -> Answer {
    let (mut token, mut uses) = (0, 0);
    move |seen| {
        if seen.target.ends_with("/authenticate") {
            (token, uses) = (token + 1, 0);
            return Answer {
                status: 200,
                body: Some(json!({ "token": format!("T{token}") })),
                ..Answer::default()
            };
        }
        uses += 1;
        if uses > 3 || seen.authorization != Some(format!("Bearer T{token}")) {
            return Answer {
                status: 401,
                body: Some(json!({ "code": 401 })),
                ..Answer::default()
            };
        }
        let body = seen.body.as_ref().unwrap();
        let numbers = body["endpoints"].as_array().unwrap();
        assert!(numbers.len() <= 50);
        let entry =
            |number: &Value| json!({ "status": 201, "endpoint": number, "response": { "webhook": number } });
        let endpoints: Vec<Value> = numbers.iter().rev().map(entry).collect();
        Answer {
            status: 207,
            body: Some(json!({ "code": 207, "endpoints": endpoints })),
            ..Answer::default()
        }
    }
}

#[tokio::test]
async fn many_numbers_are_split_and_joined_in_order_although_the_token_expires_midway() {
    let server = FakeIntelepeer::start(forgetful()).await;
    let numbers: Vec<String> = (0..430).map(|n| format!("+1216111{n:04}")).collect();
    let outcomes = client(&server, login())
        .set(&numbers, &Secret::new("https://a.example/"))
        .await;
    assert_eq!(outcomes.len(), numbers.len());
    for (number, (endpoint, outcome)) in numbers.iter().zip(outcomes) {
        assert_eq!(*number, endpoint);
        assert!(matches!(outcome, Outcome::Known(webhook) if webhook.url.as_ref() == Some(number)));
    }
}

#[tokio::test]
async fn a_token_is_not_used_after_it_expires() {
    let server = FakeIntelepeer::start(forgetful()).await;
    let client = client(&server, login());
    assert_eq!(client.token().await.unwrap().reveal(), "T1");
    assert_eq!(client.token().await.unwrap().reveal(), "T1");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(24 * 60 * 60)).await;
    tokio::time::resume();
    assert_eq!(client.token().await.unwrap().reveal(), "T2");
}

#[tokio::test]
async fn a_refused_connection_is_reported_without_secrets() {
    let server = FakeIntelepeer::start(forgetful()).await;
    let client = client(&server, login());
    drop(server);
    tokio::task::yield_now().await;
    let outcomes = client.get(&["+12161112222".to_owned()]).await;
    let Outcome::Failed(words) = &outcomes[0].1 else {
        panic!("{outcomes:?}")
    };
    let words = words.shown();
    assert!(
        words.contains("4 attempts") && words.to_lowercase().contains("refused"),
        "{words}"
    );
    assert!(!format!("{client:?}").contains("\"p\""));
}

#[tokio::test]
async fn a_retry_after_of_zero_keeps_the_backoff() {
    for asked in ["0", "Sun, 06 Nov 1994 08:49:37 GMT"] {
        let busy = Answer {
            status: 503,
            headers: [("retry-after".to_owned(), asked.to_owned())].into(),
            ..Answer::default()
        };
        let server = FakeIntelepeer::start(move |_| busy.clone()).await;
        let client = client(&server, login()).with_backoff(Duration::from_millis(50));
        let began = std::time::Instant::now();
        client.token().await.unwrap_err();
        assert!(
            began.elapsed() >= Duration::from_millis(350),
            "{asked}: {:?}",
            began.elapsed()
        );
    }
}
