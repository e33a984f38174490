//! No text pings, links, formats or controls anything, in any service.

use proptest::prelude::*;
use serde_json::{Value, json};
use smsbridge::destination::KINDS;
use smsbridge::destination::http::Client;
use smsbridge::template::safe_link;

use super::OTHERS;
use crate::fixtures::{TIMEOUT, build_with, message, outbound};
use crate::servers::played::PLAYED;

/// A kind, and a check of what its payload must not have.
type Harmless = (&'static str, fn(&Value));

/// What a payload must not have, for each kind. `hostile` has further ones for the first three.
const HARMLESS: &[Harmless] = &[
    ("slack", |payload| assert!(!payload.to_string().contains('<'))),
    ("matrix", |payload| assert_eq!(payload["m.mentions"], json!({}))),
    ("webhook", |payload| assert!(payload["text"].is_string())),
    ("teams", |payload| {
        let card = &payload["attachments"][0]["content"];
        assert_eq!(card["msteams"], json!({ "width": "full" }));
        for block in card["body"].as_array().unwrap() {
            assert_eq!(block["type"], "RichTextBlock");
            assert!(
                block["inlines"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|run| run["type"] == "TextRun" && run.get("selectAction").is_none())
            );
        }
    }),
    ("telegram", |payload| {
        assert!(payload.get("parse_mode").is_none() && payload.get("entities").is_none());
        assert_eq!(payload["link_preview_options"], json!({ "is_disabled": true }));
        every(&payload["text"], '@', |next| next == JOINER);
    }),
    ("discord", |payload| {
        assert_eq!(payload["allowed_mentions"], json!({ "parse": [] }));
        assert_eq!(payload["flags"], 4);
        escaped(&payload["content"], "`*_~|[](){}<>#+-.:/!@=");
    }),
    ("mattermost", |payload| {
        let text = payload.get("text").or(payload.get("message")).unwrap();
        let bare = without_safe_links(text.as_str().unwrap());
        escaped(&json!(bare), "`*_~|[](){}>#+-.!");
        assert!(!bare.contains(":/"), "{bare:?}");
        for mark in ['@', '~', '#'] {
            every(&json!(bare), mark, |next| next == JOINER);
        }
        every(&json!(bare), '<', |next| next == JOINER || next == ' ');
        for opened in bare.split('<').skip(1) {
            let inside = opened.split_once('>').map_or("", |(inside, _)| inside);
            assert!(
                !inside.contains('@') || inside.contains(' '),
                "a link to an address: {bare:?}"
            );
        }
    }),
    ("google-chat", |payload| {
        every(&payload["text"], '<', |next| next == JOINER)
    }),
    ("ntfy", |payload| assert_eq!(payload["markdown"], false)),
    ("gotify", |payload| {
        assert_eq!(payload["extras"]["client::display"]["contentType"], "text/plain")
    }),
    ("pushover", |payload| {
        assert!(payload.get("html").is_none() && payload.get("monospace").is_none());
    }),
    ("pagerduty", |payload| {
        assert!(!payload["payload"]["summary"].as_str().unwrap().contains('\n'))
    }),
];

const JOINER: char = '\u{2060}';

/// After each `mark` comes such a character.
fn every(text: &Value, mark: char, holds: impl Fn(char) -> bool) {
    let text = text.as_str().unwrap();
    for (at, _) in text.match_indices(mark) {
        let next = text[at + mark.len_utf8()..].chars().next();
        assert!(next.is_some_and(&holds), "{text:?}");
    }
}

/// Each of the marked characters has a backslash before it.
fn escaped(text: &Value, marked: &str) {
    let text = text.as_str().unwrap();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '\\' {
            let next = characters.next();
            assert!(
                next.is_some_and(|next| next == '\\' || marked.contains(next)),
                "{text:?}"
            );
        } else {
            assert!(!marked.contains(character), "{character:?} in {text:?}");
        }
    }
}

/// Without `<https://…>` that leads where it says.
fn without_safe_links(text: &str) -> String {
    let mut parts = text.split("<http");
    let mut bare = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once('>') {
            Some((rest, after)) if safe_link(&format!("http{rest}")).is_some() => bare.push_str(after),
            _ => bare.push_str(&format!("<http{part}")),
        }
    }
    bare
}

fn strings(value: &Value) -> Vec<&str> {
    match value {
        Value::String(string) => vec![string],
        Value::Array(items) => items.iter().flat_map(strings).collect(),
        Value::Object(entries) => entries.values().flat_map(strings).collect(),
        _ => Vec::new(),
    }
}

fn check(client: &Client, text: &str, name: &str) {
    for played in PLAYED {
        let config = (played.config)("https://service.example");
        for template in [None, Some("{{ text }} {{ from_name }}")] {
            let destination = build_with(client, played.kind, config.clone(), template, TIMEOUT).unwrap();
            let message = message(text);
            let mut outbound = outbound(&message);
            outbound.from_name = Some(name);
            let payload: Value = serde_json::from_str(&destination.render(&outbound).unwrap()).unwrap();
            let (_, harmless) = HARMLESS.iter().find(|(kind, _)| *kind == played.kind).unwrap();
            harmless(&payload);
            if played.kind != "webhook" {
                for string in strings(&payload) {
                    let acts = |c: char| (c.is_control() && c != '\n' && c != '\t') || c == '\u{202e}';
                    assert!(!string.contains(acts), "{}: {string:?}", played.kind);
                }
            }
        }
    }
}

#[test]
fn every_kind_says_what_is_harmless() {
    let mut kinds: Vec<&str> = KINDS
        .iter()
        .map(|kind| kind.name)
        .filter(|kind| !OTHERS.contains(kind))
        .collect();
    let mut checked: Vec<&str> = HARMLESS.iter().map(|(kind, _)| *kind).collect();
    kinds.sort_unstable();
    checked.sort_unstable();
    assert_eq!(checked, kinds);
}

#[test]
fn p21_no_text_acts_in_any_service() {
    let client = Client::new().unwrap();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: u32::try_from(crate::promises::rounds(64, 5_000)).unwrap(),
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let piece = prop_oneof![
        8 => prop::sample::select(vec![
            "@", "all", "everyone", "<", ">", "!here", "users/all", "|", "*", "_", "~", "`", "```\n", "\n", "\t", "    ", "# ", "- ", "1. ",
            "[", "](", ")", "https://evil.example", "/start", "\\", "<at>Ann</at>", ":smile:", "\r\n", "\u{202e}", "\0", "&amp;",
        ]).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    let text = prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat());
    runner
        .run(&(text.clone(), text), |(text, name)| {
            check(&client, &text, &name);
            Ok(())
        })
        .unwrap();
    check(&client, super::HOSTILE, super::HOSTILE);
}
