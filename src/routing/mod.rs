//! Where a message goes: ordered routes with conditions on its numbers, source, body, keyword and time.

use std::collections::{BTreeMap, HashMap};

use regex::Regex;

use crate::model::message::{Keyword, Name, Timestamp};
use crate::model::number::{Number, Pattern};
use crate::model::time_interval::TimeInterval;
use crate::template::Template;

mod cover;
mod expressions;
mod index;
mod trial;

pub use cover::shadowed;
pub use expressions::{ExpressionError, Expressions};
pub use trial::{Outcome, Tried};

/// Conditions that must all hold; within one list, any.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// Senders.
    pub from: Option<Vec<Pattern>>,
    /// Receivers.
    pub to: Option<Vec<Pattern>>,
    /// Sources.
    pub source: Option<Vec<Name>>,
    /// The expression that must match a part of the message body.
    pub message: Option<Regex>,
    /// Opt-out words.
    pub keyword: Option<Vec<Keyword>>,
}

/// A compiled route.
#[derive(Clone, Debug)]
pub struct Route {
    /// The name.
    pub name: Name,
    /// The conditions.
    pub when: Conditions,
    /// The exceptions.
    pub unless: Option<Conditions>,
    /// The time intervals in which it matches; if empty, always.
    pub active: Vec<TimeInterval>,
    /// The time intervals in which it does not match.
    pub muted: Vec<TimeInterval>,
    /// Whether its deliveries pass `hold_during`.
    pub urgent: bool,
    /// The destinations; if empty, the message is kept and not delivered.
    pub deliver: Vec<Name>,
    /// Whether later routes are tried after a match.
    pub proceed: bool,
    /// The template of this route.
    pub template: Option<Template>,
}

/// The properties of a message that routing uses.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The source that received the message.
    pub source: &'a Name,
    /// Sender.
    pub from: &'a Number,
    /// Receiver.
    pub to: &'a Number,
    /// The body.
    pub text: &'a str,
    /// The opt-out word that the message is.
    pub keyword: Option<Keyword>,
    /// When it was received.
    pub at: Timestamp,
}

/// The result of routing a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The routes that matched, in order; empty if the message goes to `unmatched`.
    pub routes: Vec<Name>,
    /// Each destination once, with the first route that named it.
    pub deliveries: Vec<(Name, Option<Name>)>,
}

/// All routes in order.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    routes: Vec<Route>,
    unmatched: Vec<Name>,
    by_name: HashMap<Name, usize>,
    index: index::Index,
}

impl Routes {
    /// Creates the table from routes in the order in which they are tried.
    #[must_use]
    pub fn new(routes: Vec<Route>, unmatched: Vec<Name>) -> Self {
        let by_name = routes
            .iter()
            .enumerate()
            .map(|(at, route)| (route.name.clone(), at))
            .collect();
        let index = index::Index::over(&routes);
        Self {
            routes,
            unmatched,
            by_name,
            index,
        }
    }

    /// The route with this name, if it still exists.
    #[must_use]
    pub fn get(&self, name: &Name) -> Option<&Route> {
        self.by_name.get(name).and_then(|at| self.routes.get(*at))
    }

    /// All routes, in the order in which they are tried.
    #[must_use]
    pub fn all(&self) -> &[Route] {
        &self.routes
    }

    /// The destinations of messages that no route matched.
    #[must_use]
    pub fn unmatched(&self) -> &[Name] {
        &self.unmatched
    }

    /// Decides where a message goes.
    ///
    /// Evaluates only the candidates of the index, in order; the first match without `continue` ends the
    /// search.
    #[must_use]
    pub fn decide(&self, subject: &Subject<'_>) -> Decision {
        self.decide_among(self.index.candidates(subject), subject)
    }

    fn decide_among(&self, candidates: impl Iterator<Item = usize>, subject: &Subject<'_>) -> Decision {
        let mut decision = Decision::default();
        for route in candidates.filter_map(|at| self.routes.get(at)) {
            if !route.matches(subject) {
                continue;
            }
            decision.add(route);
            if !route.proceed {
                return decision;
            }
        }
        if decision.routes.is_empty() {
            decision.deliveries = self.unmatched.iter().map(|name| (name.clone(), None)).collect();
        }
        decision
    }
}

impl Decision {
    /// If several routes name a destination, it belongs to the first of them.
    fn add(&mut self, route: &Route) {
        self.routes.push(route.name.clone());
        for destination in &route.deliver {
            if !self.deliveries.iter().any(|(name, _)| name == destination) {
                self.deliveries
                    .push((destination.clone(), Some(route.name.clone())));
            }
        }
    }
}

impl Route {
    /// Returns true if the route matches.
    #[must_use]
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        self.when.hold(subject)
            && !self.unless.as_ref().is_some_and(|unless| unless.hold(subject))
            && (self.active.is_empty() || contains(&self.active, subject.at).is_some())
            && contains(&self.muted, subject.at).is_none()
    }

    /// The named groups of the expression in this body, without those that took no part in the match.
    #[must_use]
    pub fn groups(&self, text: &str) -> BTreeMap<String, String> {
        let Some(expression) = &self.when.message else {
            return BTreeMap::new();
        };
        if expression.captures_len() == 1 {
            return BTreeMap::new();
        }
        let Some(captures) = expression.captures(text) else {
            return BTreeMap::new();
        };
        let named = expression.capture_names().flatten();
        let found =
            named.filter_map(|name| Some((name.to_owned(), captures.name(name)?.as_str().to_owned())));
        found.collect()
    }
}

impl Conditions {
    /// Returns true if all conditions hold. The expression is evaluated last because it costs the most.
    fn hold(&self, subject: &Subject<'_>) -> bool {
        any(self.source.as_deref(), |source| source == subject.source)
            && any(self.to.as_deref(), |pattern| pattern.matches(subject.to))
            && any(self.from.as_deref(), |pattern| pattern.matches(subject.from))
            && any(self.keyword.as_deref(), |keyword| {
                Some(*keyword) == subject.keyword
            })
            && self
                .message
                .as_ref()
                .is_none_or(|expression| expression.is_match(subject.text))
    }
}

/// The first of these intervals that contains the time.
fn contains(intervals: &[TimeInterval], at: Timestamp) -> Option<&TimeInterval> {
    intervals.iter().find(|interval| interval.when.contains(at))
}

/// A missing list is no restriction.
fn any<T>(list: Option<&[T]>, matches: impl Fn(&T) -> bool) -> bool {
    list.is_none_or(|list| list.iter().any(matches))
}

#[cfg(test)]
mod tests;
