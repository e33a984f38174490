//! `[[route]]`: the conditions and destinations of one route.

use std::ops::Range;

use regex::Regex;
use serde::Deserialize;
use toml::Spanned;

use super::diagnostics::Problems;
use super::fingerprint::Fingerprint;
use super::section::Section;
use super::value;
use crate::model::message::{Keyword, Name};
use crate::model::number::Pattern;
use crate::routing::Expressions;

/// `[[route]]`
#[derive(Debug)]
pub struct Route {
    /// Its name: `name`, or else `route-N`.
    pub name: Name,
    /// The place of its header.
    pub place: Range<usize>,
    /// The conditions to match.
    pub when: Conditions,
    /// The conditions that exclude a message.
    pub unless: Option<Conditions>,
    /// The destinations.
    pub deliver: Vec<Spanned<String>>,
    /// Whether later routes are tried after this one has matched.
    pub proceed: bool,
    /// A template that replaces those of the destinations.
    pub template: Option<Spanned<String>>,
    /// Changes when the content of the table changes.
    pub fingerprint: Fingerprint,
    /// Whether all its keys were valid.
    pub is_valid: bool,
}

/// The conditions of a route, or of its `unless`.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// Patterns of senders.
    pub from: Option<Vec<Spanned<Pattern>>>,
    /// Patterns of recipients.
    pub to: Option<Vec<Spanned<Pattern>>>,
    /// Names of sources.
    pub source: Option<Vec<Spanned<String>>>,
    /// An expression that the text must match.
    pub message: Option<Regex>,
    /// Opt-out words.
    pub keyword: Option<Vec<Keyword>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteTyped {
    /// Read separately before, so that each problem can be reported under the name of the route.
    #[serde(rename = "name")]
    _name: Option<String>,
    to: Option<Spanned<Vec<Spanned<value::Numbers>>>>,
    from: Option<Spanned<Vec<Spanned<value::Numbers>>>>,
    source: Option<Spanned<Vec<Spanned<String>>>>,
    message: Option<Spanned<value::Expression>>,
    keyword: Option<Spanned<Vec<Keyword>>>,
    unless: Option<Spanned<UnlessTyped>>,
    deliver: Vec<Spanned<String>>,
    #[serde(default)]
    r#continue: bool,
    template: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnlessTyped {
    to: Option<Spanned<Vec<Spanned<value::Numbers>>>>,
    from: Option<Spanned<Vec<Spanned<value::Numbers>>>>,
    source: Option<Spanned<Vec<Spanned<String>>>>,
    message: Option<Spanned<value::Expression>>,
    keyword: Option<Spanned<Vec<Keyword>>>,
}

impl Route {
    /// Reads route `number`, counted from 1.
    pub(super) fn read(
        number: usize,
        section: &mut Section<'_>,
        expressions: &mut Expressions,
        problems: &mut Problems,
    ) -> Option<Self> {
        let name = route_name(number, section, problems);
        section.key = name
            .as_ref()
            .map_or_else(|| format!("route.route-{number}"), |name| format!("route.{name}"));
        let fingerprint = Fingerprint::of(section.value.get_ref());
        let typed = section.read_partly(&[], problems, RouteTyped::deserialize);
        let (name, (typed, is_valid)) = (name?, typed?);
        let key = section.key.as_str();
        // A list whose invalid items were removed may be empty; its items were reported already.
        let numbers = |list: Option<Spanned<Vec<Spanned<value::Numbers>>>>| {
            list.filter(|list| is_valid || !list.get_ref().is_empty())
        };
        let when = conditions(
            key,
            numbers(typed.from),
            numbers(typed.to),
            typed.source,
            typed.message.as_ref(),
            expressions,
            problems,
        );
        let keyword = typed
            .keyword
            .filter(|list| is_valid || !list.get_ref().is_empty());
        let when = Conditions {
            keyword: not_empty(key, "keyword", keyword, problems),
            ..when
        };
        let is_valid = is_valid && when.message.is_some() == typed.message.is_some();
        let unless = typed
            .unless
            .map(|unless| exceptions(key, unless, expressions, problems));
        Some(Self {
            name,
            place: section.place(),
            when,
            unless,
            deliver: typed.deliver,
            proceed: typed.r#continue,
            template: typed.template,
            fingerprint,
            is_valid,
        })
    }
}

fn route_name(number: usize, section: &Section<'_>, problems: &mut Problems) -> Option<Name> {
    let default = format!("route-{number}");
    let given = section
        .text("name")
        .unwrap_or_else(|| Spanned::new(section.place(), default));
    let wrong = |error: crate::model::message::NameError| {
        problems.error(
            &given.span(),
            format!("route.route-{number}.name"),
            error.to_string(),
        );
    };
    given.get_ref().parse().map_err(wrong).ok()
}

fn exceptions(
    key: &str,
    unless: Spanned<UnlessTyped>,
    expressions: &mut Expressions,
    problems: &mut Problems,
) -> Conditions {
    let (key, span) = (format!("{key}.unless"), unless.span());
    let unless = unless.into_inner();
    let conditions = conditions(
        &key,
        unless.from,
        unless.to,
        unless.source,
        unless.message.as_ref(),
        expressions,
        problems,
    );
    let conditions = Conditions {
        keyword: not_empty(&key, "keyword", unless.keyword, problems),
        ..conditions
    };
    // An invalid condition was reported already.
    if unless.message.is_some() {
        return conditions;
    }
    let Conditions {
        from: None,
        to: None,
        source: None,
        message: None,
        keyword: None,
    } = &conditions
    else {
        return conditions;
    };
    problems.error(&span, key, "without any condition this excludes every message");
    conditions
}

fn conditions(
    key: &str,
    from: Option<Spanned<Vec<Spanned<value::Numbers>>>>,
    to: Option<Spanned<Vec<Spanned<value::Numbers>>>>,
    source: Option<Spanned<Vec<Spanned<String>>>>,
    message: Option<&Spanned<value::Expression>>,
    expressions: &mut Expressions,
    problems: &mut Problems,
) -> Conditions {
    let mut numbers = |name: &str, list: Option<Spanned<Vec<Spanned<value::Numbers>>>>| {
        let list = not_empty(key, name, list, problems)?;
        let pattern = |numbers: Spanned<value::Numbers>| Spanned::new(numbers.span(), numbers.into_inner().0);
        Some(list.into_iter().map(pattern).collect())
    };
    Conditions {
        from: numbers("from", from),
        to: numbers("to", to),
        source: not_empty(key, "source", source, problems),
        message: message.and_then(|message| {
            let compiled = expressions.compile(&message.get_ref().0);
            compiled
                .map_err(|error| problems.error(&message.span(), format!("{key}.message"), error.to_string()))
                .ok()
        }),
        keyword: None,
    }
}

fn not_empty<T>(
    key: &str,
    name: &str,
    list: Option<Spanned<Vec<T>>>,
    problems: &mut Problems,
) -> Option<Vec<T>> {
    let list = list?;
    if list.get_ref().is_empty() {
        let message = "an empty list matches nothing: leave the key out to match everything";
        problems.error(&list.span(), format!("{key}.{name}"), message);
    }
    Some(list.into_inner())
}
