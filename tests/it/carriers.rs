//! Every kind of source against requests kept as data: one file a kind in `tests/fixtures/carriers`, with signatures that
//! the carriers' own libraries made or accepted, and the exact bytes of the answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::bridge::{Bridge, head, http, wait_for};
use crate::servers::recorder::{Recorder, Reply};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method};
use serde::Deserialize;
use smsbridge::config::{Config, Outside, Purpose};
use smsbridge::model::message::{Media, MessageId, Timestamp};
use smsbridge::plan::Plan;
use smsbridge::source::{
    self, Composed, Endpoint, Events, Incoming, Outcome, Receipt, Refusal, Request, Sample, Target,
};

mod answers;
mod mutated;
mod signed_url;
mod sns;

/// Placeholder for the carrier's base URL.
const CARRIER: &str = "http://carrier.invalid";

/// Lower bound of the cases of one kind, except `intelepeer`, whose other cases are in `tests/fixtures/intelepeer`.
const CASES_MIN: usize = 8;

/// 2026-01-01T12:00:00Z, for signatures that have a time.
const NOW: Timestamp = Timestamp(1_767_268_800_000);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    /// `[source.carrier]`, several where cases need different ones.
    source: BTreeMap<String, toml::Table>,
    /// The answers to requests that are stored, duplicates, ignored, rejected or failing.
    answers: Answers,
    /// The sources whose response is not the usual one.
    #[serde(default)]
    own_answers: BTreeMap<String, Answers>,
    /// Whether `simulate` can sign.
    simulate: bool,
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answers {
    stored: Answer,
    duplicate: Answer,
    ignored: Answer,
    refused: Answer,
    failing: Answer,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Answer {
    status: u16,
    content_type: Option<String>,
    body: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// One of the fixture's sources.
    source: String,
    #[serde(default = "post")]
    method: String,
    /// The rest of the URL after the path.
    #[serde(default)]
    query: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
    /// In seconds.
    now: Option<i64>,
    expect: Expect,
}

fn post() -> String {
    "POST".to_owned()
}

/// Only the given fields of a message are compared.
#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Expect {
    Refused {
        refused: u16,
    },
    Read {
        #[serde(default)]
        messages: Vec<Message>,
        #[serde(default)]
        statuses: usize,
        #[serde(default)]
        ignored: usize,
        /// Whether the carrier must be called before the answer.
        #[serde(default)]
        confirm: bool,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    id: Option<String>,
    from: Option<String>,
    to: Option<String>,
    text: String,
    media: Option<Vec<Media>>,
    keyword: Option<String>,
    segments: Option<u32>,
    sent_at: Option<Timestamp>,
    extra: Option<BTreeMap<String, String>>,
    odd: Option<Vec<String>>,
    /// `REFERENCE NUMBER/TOTAL`
    part: Option<String>,
}

/// The sources, built from the configuration.
fn plan(fixture: &Fixture, carrier: &str) -> Plan {
    let mut table: toml::Table =
        "[server]\npublic_url = 'https://sms.example.com'\n[destination.screen]\nkind = 'console'\n\
         [routing]\nunmatched = ['screen']"
            .parse()
            .unwrap();
    let sources = fixture.source.iter();
    let sources = sources.map(|(name, keys)| (name.clone(), keys.clone().into()));
    table.insert("source".to_owned(), toml::Value::Table(sources.collect()));
    let text = toml::to_string(&table).unwrap().replace(CARRIER, carrier);
    let outside = Outside::default();
    let (config, mut problems) =
        Config::read(&text, Path::new("/nowhere/config.toml"), Purpose::Serve, &outside).unwrap();
    Plan::compile(config, None, &mut problems).unwrap_or_else(|| panic!("{problems}"))
}

/// The requests for certificates that the sources send to their carrier, answered from the fixtures.
async fn carrier() -> Recorder {
    Recorder::start(|request| {
        let file = folder().join("../sns").join(request.path.trim_start_matches('/'));
        match fs::read_to_string(file) {
            Ok(certificate) => Reply::new(200, &certificate),
            Err(_) => Reply::new(404, "no such certificate"),
        }
    })
    .await
}

async fn receive(planned: &smsbridge::plan::PlannedSource, case: &Case) -> Result<Events, Refusal> {
    let headers: HeaderMap = case
        .headers
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
        .collect();
    let method: Method = case.method.parse().unwrap();
    assert!(planned.source.methods().contains(&method), "{}", case.name);
    let target = format!("{}{}", planned.path, case.query);
    let body = Bytes::from(case.body.clone().into_bytes());
    let request = Request {
        method: &method,
        target: Target {
            public_url: Some(&"https://sms.example.com".parse().unwrap()),
            path_and_query: &target,
        },
        now: case.now.map_or(NOW, |seconds| Timestamp(seconds * 1000)),
        ..Request::post([192, 0, 2, 1].into(), &headers, &body)
    };
    let prepared = planned.source.prepare(&request).await;
    prepared.map_err(|why| Refusal::new(http::StatusCode::SERVICE_UNAVAILABLE, "carrier", why))?;
    planned.source.receive(&request)
}

fn check(name: &str, incoming: &Incoming, expected: &Message) {
    let number = |number: &smsbridge::model::number::Number| number.shown().into_owned();
    let given = |given: &Option<String>, found: String| given.clone().unwrap_or(found);
    assert_eq!(incoming.text, expected.text, "{name}");
    assert_eq!(
        incoming.provider_id,
        given(&expected.id, incoming.provider_id.clone()),
        "{name}"
    );
    assert_eq!(
        number(&incoming.from),
        given(&expected.from, number(&incoming.from)),
        "{name}"
    );
    assert_eq!(
        number(&incoming.to),
        given(&expected.to, number(&incoming.to)),
        "{name}"
    );
    let media = expected.media.as_ref().unwrap_or(&incoming.media);
    assert_eq!(&incoming.media, media, "{name}");
    let keyword = incoming.keyword.map(|keyword| keyword.as_str().to_owned());
    assert_eq!(keyword, expected.keyword, "{name}");
    assert_eq!(
        incoming.segments,
        expected.segments.or(incoming.segments),
        "{name}"
    );
    assert_eq!(incoming.sent_at, expected.sent_at.or(incoming.sent_at), "{name}");
    let extra = expected.extra.as_ref().unwrap_or(&incoming.extra);
    assert_eq!(&incoming.extra, extra, "{name}");
    let part = incoming.part.as_ref();
    let part = part.map(|part| format!("{} {}/{}", part.reference, part.number, part.total));
    assert_eq!(part, expected.part, "{name}");
    assert_eq!(incoming.odd, expected.odd.clone().unwrap_or_default(), "{name}");
}

async fn run(plan: &Plan, case: &Case) {
    let name = &case.name;
    let planned = &plan.sources[case.source.as_str()];
    match (receive(planned, case).await, &case.expect) {
        (Err(refusal), Expect::Refused { refused }) => {
            assert_eq!(refusal.status.as_u16(), *refused, "{name}: {refusal:?}");
            assert!(smsbridge::metrics::REASONS.contains(&refusal.reason), "{name}");
        }
        (
            Ok(events),
            Expect::Read {
                messages,
                statuses,
                ignored,
                confirm,
            },
        ) => {
            assert_eq!(events.confirm.is_some(), *confirm, "{name}: {events:?}");
            assert_eq!(
                (events.statuses, events.ignored),
                (*statuses, *ignored),
                "{name}: {events:?}"
            );
            assert_eq!(events.messages.len(), messages.len(), "{name}: {events:?}");
            for (incoming, expected) in events.messages.iter().zip(messages) {
                check(name, incoming, expected);
            }
        }
        (outcome, _) => panic!("{name}: {outcome:?}"),
    }
}

fn check_answers(endpoint: &Endpoint, answers: &Answers, file: &str) {
    let id: MessageId = "00000000000000000000000000000007".parse().unwrap();
    let receipts = [false, true].map(|duplicate| [Receipt { id, duplicate }]);
    let refusal = Refusal::forbidden();
    for (outcome, expected) in [
        (Outcome::Stored(&receipts[0]), &answers.stored),
        (Outcome::Stored(&receipts[1]), &answers.duplicate),
        (Outcome::Stored(&[]), &answers.ignored),
        (Outcome::Refused(&refusal), &answers.refused),
        (Outcome::Failing("again"), &answers.failing),
    ] {
        let reply = endpoint.reply(&outcome);
        let answer = Answer {
            status: reply.status.as_u16(),
            content_type: reply.content_type.map(str::to_owned),
            body: String::from_utf8(reply.body.to_vec()).unwrap(),
        };
        assert_eq!(&answer, expected, "{file}: {outcome:?}");
    }
}

/// A request of `simulate` is accepted by its source, and by no other source of the same kind.
fn check_simulation(endpoint: &Endpoint, path: &str, others: &[&Endpoint], file: &str) {
    let sample = Sample {
        provider_id: "ABCDEF1234567890ABCDEF1234567890",
        from: "+14045550123",
        to: "+13038675309",
        text: "Hello & café=1\n",
        now: NOW,
        part: None,
    };
    let Composed {
        method,
        query,
        headers,
        body,
    } = endpoint
        .compose(&sample)
        .unwrap_or_else(|error| panic!("{file}: {error}"));
    let target = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let request = Request {
        method: &method,
        target: Target {
            public_url: Some(&"https://sms.example.com".parse().unwrap()),
            path_and_query: &target,
        },
        now: NOW,
        ..Request::post([192, 0, 2, 1].into(), &headers, &body)
    };
    let events = endpoint
        .receive(&request)
        .unwrap_or_else(|error| panic!("{file}: {error:?}"));
    let message = &events.messages[0];
    assert_eq!(message.text, sample.text, "{file}");
    let is_digest = message.provider_id.starts_with("sha256:");
    assert!(
        message.provider_id == sample.provider_id || is_digest,
        "{file}: {message:?}"
    );
    assert_eq!(message.from.normal(), sample.from, "{file}");
    for other in others {
        assert!(
            other.receive(&request).is_err(),
            "{file}: another source accepts it"
        );
    }
}

fn fixture(path: &Path) -> Fixture {
    let text = fs::read_to_string(path).unwrap();
    toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/carriers")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_request_of_every_kind_has_the_recorded_outcome() {
    let carrier = carrier().await;
    let (mut names, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let fixture = fixture(&path);
        let plan = plan(&fixture, &carrier.url(""));
        let (count, min) = (
            fixture.case.len(),
            if file == "intelepeer" { 1 } else { CASES_MIN },
        );
        assert!(count >= min, "{file}: only {count} cases");
        kinds.extend(plan.sources.values().map(|planned| planned.kind));
        for case in &fixture.case {
            assert!(
                names.insert(format!("{file}: {}", case.name)),
                "{file}: {} twice",
                case.name
            );
            run(&plan, case).await;
        }
        for (name, planned) in &plan.sources {
            let own = fixture.own_answers.get(name.as_str());
            check_answers(&planned.source, own.unwrap_or(&fixture.answers), &file);
            let others = plan.sources.iter().filter(|(other, _)| *other != name);
            let others: Vec<&Endpoint> = others.map(|(_, other)| &other.source).collect();
            if fixture.simulate {
                check_simulation(&planned.source, &planned.path, &others, &file);
            }
        }
    }
    let fetched: Vec<String> = carrier
        .received()
        .into_iter()
        .map(|request| request.path)
        .collect();
    assert_eq!(
        fetched.len(),
        4,
        "each source fetches a certificate once: {fetched:?}"
    );
    let known: BTreeSet<&str> = source::KINDS.iter().map(|kind| kind.name).collect();
    assert_eq!(kinds, known, "each kind of source needs a file of cases");
}

#[test]
fn every_preset_of_the_generic_source_has_recorded_requests_and_answers() {
    let presets = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/source/generic/presets.toml");
    let presets: toml::Table = fs::read_to_string(presets).unwrap().parse().unwrap();
    let Fixture { source, case, .. } = fixture(&folder().join("generic.toml"));
    let used: BTreeSet<&str> = case.iter().map(|case| case.source.as_str()).collect();
    let sources = source.iter().filter(|(name, _)| used.contains(name.as_str()));
    let tried: BTreeSet<&str> = sources
        .filter_map(|(_, keys)| keys.get("preset")?.as_str())
        .collect();
    assert_eq!(tried, presets.keys().map(String::as_str).collect());
}
