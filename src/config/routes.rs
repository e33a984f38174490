//! `[[route]]`: the conditions and destinations of one route.

use std::ops::Range;

use deserr::Deserr;
use regex::Regex;
use toml::Spanned;

use super::diagnostics::Problems;
use super::fingerprint::Fingerprint;
use super::section::Section;
use crate::model::message::{Keyword, Name};
use crate::model::number::Pattern;
use crate::model::setting::{Errors, Placed};
use crate::model::units::{Expression, Numbers};
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
    /// The time intervals in which it matches; if empty, always.
    pub active: Vec<Spanned<String>>,
    /// The time intervals in which it does not match.
    pub muted: Vec<Spanned<String>>,
    /// Whether its deliveries pass `hold_during`.
    pub urgent: bool,
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
    /// An expression that the message body must match.
    pub message: Option<Regex>,
    /// Opt-out words.
    pub keyword: Option<Vec<Keyword>>,
}

impl Conditions {
    fn is_empty(&self) -> bool {
        let Self {
            from,
            to,
            source,
            message,
            keyword,
        } = self;
        from.is_none() && to.is_none() && source.is_none() && message.is_none() && keyword.is_none()
    }
}

#[derive(Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
struct RouteTyped {
    /// Read separately before, so that each problem can be reported under the name of the route.
    #[deserr(rename = "name", default)]
    _name: Option<String>,
    #[deserr(default)]
    to: Option<Placed<Vec<Placed<Numbers>>>>,
    #[deserr(default)]
    from: Option<Placed<Vec<Placed<Numbers>>>>,
    #[deserr(default)]
    source: Option<Placed<Vec<Placed<String>>>>,
    #[deserr(default)]
    message: Option<Placed<Expression>>,
    #[deserr(default)]
    keyword: Option<Placed<Vec<Keyword>>>,
    #[deserr(default)]
    unless: Option<Placed<Written>>,
    #[deserr(default)]
    active: Vec<Placed<String>>,
    #[deserr(default)]
    muted: Vec<Placed<String>>,
    #[deserr(default)]
    urgent: bool,
    deliver: Vec<Placed<String>>,
    #[deserr(rename = "continue", default)]
    proceed: bool,
    #[deserr(default)]
    template: Option<Placed<String>>,
}

/// The conditions as written, in `unless` or in the route itself.
#[derive(Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
struct Written {
    #[deserr(default)]
    to: Option<Placed<Vec<Placed<Numbers>>>>,
    #[deserr(default)]
    from: Option<Placed<Vec<Placed<Numbers>>>>,
    #[deserr(default)]
    source: Option<Placed<Vec<Placed<String>>>>,
    #[deserr(default)]
    message: Option<Placed<Expression>>,
    #[deserr(default)]
    keyword: Option<Placed<Vec<Keyword>>>,
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
        let typed = section.read_partly::<RouteTyped>(problems);
        let (name, (typed, is_complete)) = (name?, typed?);
        let mut reading = Reading {
            section,
            expressions,
            problems,
            is_complete,
        };
        let is_limited = typed.message.is_some();
        let when = reading.conditions(
            &section.key,
            Written {
                to: typed.to,
                from: typed.from,
                source: typed.source,
                message: typed.message,
                keyword: typed.keyword,
            },
        );
        let is_valid = is_complete && when.message.is_some() == is_limited;
        let unless = typed.unless.map(|unless| reading.exceptions(unless));
        let spanned = |placed| section.spanned(placed);
        Some(Self {
            name,
            place: section.place(),
            when,
            unless,
            active: typed.active.into_iter().map(spanned).collect(),
            muted: typed.muted.into_iter().map(spanned).collect(),
            urgent: typed.urgent,
            deliver: typed.deliver.into_iter().map(spanned).collect(),
            proceed: typed.proceed,
            template: typed.template.map(spanned),
            fingerprint,
            is_valid,
        })
    }
}

/// The conditions of one route while they are read.
struct Reading<'r, 't> {
    section: &'r Section<'t>,
    expressions: &'r mut Expressions,
    problems: &'r mut Problems,
    /// Whether all keys of the route were valid.
    is_complete: bool,
}

impl Reading<'_, '_> {
    fn exceptions(&mut self, unless: Placed<Written>) -> Conditions {
        let key = format!("{}.unless", self.section.key);
        let place = self.section.place_of(&unless.path);
        // An invalid condition was reported already.
        let is_limited = unless.value.message.is_some();
        let conditions = self.conditions(&key, unless.value);
        if !is_limited && conditions.is_empty() {
            let message = "without any condition this excludes every message";
            self.problems.error(&place, key, message);
        }
        conditions
    }

    fn conditions(&mut self, key: &str, written: Written) -> Conditions {
        Conditions {
            from: self.numbers(key, "from", written.from),
            to: self.numbers(key, "to", written.to),
            source: self.list(key, "source", written.source).map(|sources| {
                let spanned = |source| self.section.spanned(source);
                sources.into_iter().map(spanned).collect()
            }),
            message: written.message.and_then(|message| self.expression(key, message)),
            keyword: self.list(key, "keyword", written.keyword),
        }
    }

    fn numbers(
        &mut self,
        key: &str,
        name: &str,
        list: Option<Placed<Vec<Placed<Numbers>>>>,
    ) -> Option<Vec<Spanned<Pattern>>> {
        let list = self.list(key, name, list)?;
        let pattern =
            |Placed { path, value }: Placed<Numbers>| Spanned::new(self.section.place_of(&path), value.0);
        Some(list.into_iter().map(pattern).collect())
    }

    fn expression(&mut self, key: &str, message: Placed<Expression>) -> Option<Regex> {
        let compiled = self.expressions.compile(&message.value.0);
        let place = self.section.place_of(&message.path);
        compiled
            .map_err(|error| {
                self.problems
                    .error(&place, format!("{key}.message"), error.to_string());
            })
            .ok()
    }

    fn list<T>(&mut self, key: &str, name: &str, list: Option<Placed<Vec<T>>>) -> Option<Vec<T>> {
        let Placed { path, value } = list?;
        if value.is_empty() {
            // If invalid items were left out, they were reported already.
            if !self.is_complete {
                return None;
            }
            let message = "an empty list matches nothing: leave the key out to match everything";
            let place = self.section.place_of(&path);
            self.problems.error(&place, format!("{key}.{name}"), message);
        }
        Some(value)
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
