//! Finds errors in a template that do not depend on a message.

use std::collections::BTreeSet;

use minijinja::value::Value;
use minijinja::{Environment, ErrorKind};

use super::{LIMIT, MEDIUM, Medium, OUTPUT_MAX, TEMPLATE, TemplateError, explain, map, run};

/// The names that a template can use, for error messages.
const NAMES: [&str; 14] = [
    "fallback",
    "from",
    "from_name",
    "keyword",
    "match",
    "media",
    "message",
    "provider_id",
    "received_at",
    "route",
    "source",
    "text",
    "to",
    "to_name",
];

/// Rejects names that can never have a value, and returns the groups that are used.
pub fn names(environment: &Environment<'_>) -> Result<BTreeSet<String>, TemplateError> {
    let template = environment
        .get_template(TEMPLATE)
        .map_err(|error| explain(&error))?;
    let functions: Vec<&str> = environment.globals().map(|(name, _)| name).collect();
    let mut groups = BTreeSet::new();
    let named: BTreeSet<String> = template.undeclared_variables(true).into_iter().collect();
    for name in named {
        match name.split_once('.') {
            None if NAMES.contains(&name.as_str()) || functions.contains(&name.as_str()) => {}
            Some(("match", group)) => {
                groups.insert(group.to_owned());
            }
            Some(("message", "id")) => {}
            Some(("message", field)) => {
                return Err(unknown(&format!("message.{field}"), "`message` has only `id`"));
            }
            Some((known, _)) if NAMES.contains(&known) => {
                return Err(unknown(&name, &format!("`{known}` has no parts of its own")));
            }
            _ => {
                return Err(unknown(
                    &name,
                    &format!("a template can name {}", NAMES.join(", ")),
                ));
            }
        }
    }
    Ok(groups)
}

fn unknown(name: &str, instead: &str) -> TemplateError {
    TemplateError {
        message: format!("`{name}` does not exist: {instead}"),
        line: None,
    }
}

/// Rejects unknown operations, and those that take too long or grow too large.
///
/// Filters, tests and functions are looked up only at run time. So this runs the template on two sample
/// messages, one with every value and one with none. Other failures depend on the message.
pub fn operations(environment: &Environment<'_>, groups: &BTreeSet<String>) -> Result<(), TemplateError> {
    for filled in [true, false] {
        let failure = run(environment, sample(filled, groups)).err();
        if let Some(error) = failure.filter(|error| depends_on_no_text(error.kind())) {
            return Err(explain(&error));
        }
    }
    Ok(())
}

fn depends_on_no_text(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::UnknownFilter
            | ErrorKind::UnknownTest
            | ErrorKind::UnknownFunction
            | ErrorKind::OutOfFuel
            | ErrorKind::WriteFailure
    )
}

fn sample(filled: bool, groups: &BTreeSet<String>) -> Value {
    let word = if filled { "1" } else { "" };
    let attachment = map([("link", word), ("content_type", word), ("filename", word)]);
    let values = NAMES.map(|name| match name {
        "message" => (name, map([("id", word)])),
        "media" => (name, filled.then_some(attachment.clone()).into_iter().collect()),
        "match" => (name, map(groups.iter().map(|group| (group.as_str(), word)))),
        _ => (name, Value::from(word)),
    });
    let formatter = [
        (MEDIUM, Value::from_object(Medium::Text)),
        (LIMIT, Value::from(OUTPUT_MAX)),
    ];
    map(values.into_iter().chain(formatter))
}
