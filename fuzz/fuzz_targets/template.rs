//! A template compiles or reports an error; its output for a hostile message is escaped for its medium.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use smsbridge::model::message::{Message, MessageId, Timestamp};
use smsbridge::model::number::Number;
use smsbridge::template::{Medium, Template, Values};

fn message(text: &str) -> Message {
    Message {
        id: MessageId(uuid::Uuid::nil()),
        source: "carrier".parse().expect("a right name"),
        provider_id: "1".to_owned(),
        from: Number::parse("+13035550100").expect("a number"),
        to: Number::parse("+13038675309").expect("a number"),
        text: text.to_owned(),
        media: Vec::new(),
        extra: BTreeMap::new(),
        received_at: Timestamp(0),
        routes: Vec::new(),
        redacted_at: None,
    }
}

fn render(template: &Template, medium: Medium, text: &str) -> Option<String> {
    let (message, groups) = (message(text), BTreeMap::new());
    let values = Values {
        message: &message,
        from_name: None,
        to_name: Some(text),
        route: None,
        groups: &groups,
    };
    template.render(medium, &values).ok()
}

fuzz_target!(|input: (&str, &str)| {
    let (source, text) = input;
    let plain = Template::compile("{{ text }}").expect("a right template");
    let line = render(&plain, Medium::Line, text).unwrap_or_default();
    assert!(
        !line.contains(['\n', '\r', '\u{1b}', '\u{202e}']),
        "more than a line"
    );
    let html = render(&plain, Medium::Html, text).unwrap_or_default();
    assert!(!html.contains('<') && !html.contains('>'), "markup in {html:?}");
    if let Ok(template) = Template::compile(source) {
        for medium in [
            Medium::Text,
            Medium::Line,
            Medium::Html,
            Medium::Markup(str::to_owned),
            Medium::Json,
        ] {
            let _ = render(&template, medium, text);
        }
    }
});
