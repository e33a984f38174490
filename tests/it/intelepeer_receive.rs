//! The IntelePeer source against recorded requests, and against random ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use proptest::prelude::*;
use serde::Deserialize;
use smsbridge::model::message::Media;
use smsbridge::model::setting::from_toml;
use smsbridge::resolver::Resolver;
use smsbridge::source::intelepeer::Config;
use smsbridge::source::intelepeer::hmac::Signed;
use smsbridge::source::{Access, Context, Endpoint, Incoming, Refusal, Request, Settings};

const REFID: &str = "ABCDEF1234567890ABCDEF1234567890";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    source: toml::Table,
    #[serde(default)]
    access: toml::Table,
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    client: Option<IpAddr>,
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
    body_hex: Option<String>,
    expect: Expect,
}

/// Missing fields are not compared.
#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Expect {
    Refused {
        status: u16,
        /// A part of the message.
        error: String,
    },
    Accepted {
        text: String,
        provider_id: Option<String>,
        from: Option<String>,
        to: Option<String>,
        /// The sender as it is displayed.
        shown: Option<String>,
        media: Option<Vec<Media>>,
        extra: Option<BTreeMap<String, String>>,
    },
}

fn build(config: &Config) -> Endpoint {
    guarded(config, Access::default())
}

fn guarded(config: &Config, access: Access) -> Endpoint {
    let settings = Settings {
        access,
        ..Settings::default()
    };
    let context = Context {
        name: &"carrier".parse().unwrap(),
        path: "/inbound/carrier",
        public_url: None,
        settings: &settings,
        resolver: &Resolver::default(),
    };
    Endpoint::build(config, &context).unwrap()
}

fn receive(
    source: &Endpoint,
    client: Option<IpAddr>,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Incoming, Refusal> {
    let client = client.unwrap_or_else(|| [192, 0, 2, 1].into());
    let mut events = source.receive(&Request::post(client, headers, &body))?;
    assert_eq!(
        (events.messages.len(), events.statuses, events.ignored),
        (1, 0, 0)
    );
    Ok(events.messages.remove(0))
}

fn run(source: &Endpoint, case: Case) {
    let headers: HeaderMap = case
        .headers
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
        .collect();
    let body = case
        .body_hex
        .map_or_else(|| case.body.into_bytes(), |hex| hex::decode(hex).unwrap());
    let name = case.name;
    match (receive(source, case.client, &headers, body.into()), case.expect) {
        (Err(refusal), Expect::Refused { status, error }) => {
            assert_eq!(refusal.status.as_u16(), status, "{name}: {refusal:?}");
            assert!(refusal.error.contains(&error), "{name}: {refusal:?}");
            assert!(
                !refusal.error.contains("canary"),
                "{name} repeats what was sent: {refusal:?}"
            );
            let reason = match status {
                401 => "unauthorized",
                403 => "forbidden",
                415 => "media_type",
                _ => "malformed",
            };
            assert_eq!(refusal.reason, reason, "{name}");
        }
        (
            Ok(incoming),
            Expect::Accepted {
                text,
                provider_id,
                from,
                to,
                shown,
                media,
                extra,
            },
        ) => {
            assert_eq!(incoming.text, text, "{name}");
            assert_eq!(
                incoming.provider_id,
                provider_id.unwrap_or_else(|| incoming.provider_id.clone()),
                "{name}"
            );
            assert_eq!(
                incoming.from.normal(),
                from.as_deref().unwrap_or(incoming.from.normal()),
                "{name}"
            );
            assert_eq!(
                incoming.to.normal(),
                to.as_deref().unwrap_or(incoming.to.normal()),
                "{name}"
            );
            assert_eq!(
                incoming.from.shown(),
                shown.as_deref().unwrap_or(&incoming.from.shown()),
                "{name}"
            );
            assert_eq!(
                incoming.media,
                media.unwrap_or_else(|| incoming.media.clone()),
                "{name}"
            );
            assert!(!incoming.extra.contains_key("signature"), "{name}");
            assert_eq!(
                incoming.extra,
                extra.unwrap_or_else(|| incoming.extra.clone()),
                "{name}"
            );
        }
        (outcome, _) => panic!("{name}: {outcome:?}"),
    }
}

#[test]
fn every_recorded_request_has_the_recorded_outcome() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/intelepeer/receive");
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let fixture: Fixture = toml::from_str(&fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let source = guarded(
            &from_toml(&fixture.source.to_string()).unwrap(),
            from_toml(&fixture.access.to_string()).unwrap(),
        );
        for case in fixture.case {
            assert!(
                names.insert((path.clone(), case.name.clone())),
                "{}: {} twice",
                path.display(),
                case.name
            );
            run(&source, case);
        }
    }
    assert!(names.len() >= 120, "only {} cases were found", names.len());
}

fn hmac_config() -> Config {
    from_toml("verify = 'hmac'\nsecret = 'SECRET CODE'").unwrap()
}

fn body_of(text: &str, signature: &str) -> Vec<u8> {
    serde_json::json!({ "refid": REFID, "from": "+17708675309", "to": "+13038675309", "message": text, "signature": signature })
        .to_string()
        .into_bytes()
}

#[derive(Clone, Debug)]
enum Mutation {
    Replace(usize, u8),
    Insert(usize, u8),
    Remove(usize),
    Swap(usize, usize),
    Repeat(usize, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = 0..400_usize;
    prop_oneof![
        (at.clone(), any::<u8>()).prop_map(|(at, byte)| Mutation::Replace(at, byte)),
        (at.clone(), prop::sample::select(b"{}[]\",:\\u0aZ ".to_vec()))
            .prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        at.clone().prop_map(Mutation::Remove),
        (at.clone(), at.clone()).prop_map(|(one, other)| Mutation::Swap(one, other)),
        (at, 1..60_usize).prop_map(|(at, length)| Mutation::Repeat(at, length)),
    ]
}

fn mutate(body: &mut Vec<u8>, mutation: &Mutation) {
    let length = body.len();
    match *mutation {
        _ if length == 0 => {}
        Mutation::Replace(at, byte) => body[at % length] = byte,
        Mutation::Insert(at, byte) => body.insert(at % length, byte),
        Mutation::Remove(at) => drop(body.remove(at % length)),
        Mutation::Swap(one, other) => body.swap(one % length, other % length),
        Mutation::Repeat(at, span) => {
            let at = at % length;
            let copy = body[at..(at + span).min(length)].to_vec();
            body.splice(at..at, copy);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_mutation_of_a_signed_body_is_accepted_with_another_body_or_id(
        text in "\\PC{0,40}",
        mutations in prop::collection::vec(mutation(), 1..6),
    ) {
        let config = hmac_config();
        let signature = config.sign(&Signed { refid: REFID, message: &text, ..Signed::default() }).unwrap().unwrap();
        let mut body = body_of(&text, &signature);
        let source = build(&config);
        let original = receive(&source, None, &HeaderMap::new(), body.clone().into()).unwrap();
        prop_assert_eq!(&original.text, &text);
        mutations.iter().for_each(|mutation| mutate(&mut body, mutation));
        if let Ok(incoming) = receive(&source, None, &HeaderMap::new(), body.into()) {
            prop_assert_eq!(incoming.text, text);
            prop_assert_eq!(incoming.provider_id, REFID);
        }
    }

    #[test]
    fn moving_the_border_between_id_and_body_is_never_accepted(text in "[a-zA-Z0-9]{1,40}", at in 0..72_usize) {
        let config = hmac_config();
        let signature = config.sign(&Signed { refid: REFID, message: &text, ..Signed::default() }).unwrap().unwrap();
        let all = format!("{REFID}{text}");
        let (refid, message) = all.split_at(at.min(all.len()));
        let body = serde_json::json!({ "refid": refid, "from": "1-1234", "to": "1-1234", "message": message, "signature": signature });
        let outcome = receive(&build(&config), None, &HeaderMap::new(), body.to_string().into());
        prop_assert_eq!(outcome.is_ok(), refid == REFID);
    }

    #[test]
    fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..300), kind in 0..3_usize) {
        let kind = ["application/json", "application/x-www-form-urlencoded", ""][kind];
        let headers: HeaderMap = (!kind.is_empty())
            .then(|| (http::header::CONTENT_TYPE, kind.parse().unwrap()))
            .into_iter()
            .collect();
        prop_assert!(receive(&build(&hmac_config()), None, &headers, body.into()).is_err());
    }
}

#[test]
fn kept_unknown_fields_are_bounded() {
    let mut body = serde_json::json!({ "refid": REFID, "from": "1-1234", "to": "1-1234", "message": "", "signature": "c" });
    for n in 0..500 {
        body[format!("field{n}")] = "x".repeat(n).into();
    }
    let source = build(&from_toml("secret = 'c'").unwrap());
    let incoming = receive(&source, None, &HeaderMap::new(), body.to_string().into()).unwrap();
    let size: usize = incoming
        .extra
        .iter()
        .map(|(name, json)| name.len() + json.len())
        .sum();
    assert!(
        incoming.extra.len() <= 64 && !incoming.extra.is_empty(),
        "{} fields",
        incoming.extra.len()
    );
    assert!(size <= 16 * 1024, "{size} bytes");
}
