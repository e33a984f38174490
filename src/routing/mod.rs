//! Where a text belongs: ordered routes over its numbers, its source and its words.

use std::collections::{BTreeMap, HashMap};

use regex::Regex;

use crate::message::Name;
use crate::number::{Number, Pattern};
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
    /// The text.
    pub message: Option<Regex>,
}

/// One route, compiled.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name.
    pub name: Name,
    /// When it matches.
    pub when: Conditions,
    /// When it does not match nevertheless.
    pub unless: Option<Conditions>,
    /// Whom it tells; nobody when empty.
    pub deliver: Vec<Name>,
    /// Whether later routes are tried after this one matched.
    pub proceed: bool,
    /// Its own template.
    pub template: Option<Template>,
}

/// What routing looks at.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The source it came from.
    pub source: &'a Name,
    /// Sender.
    pub from: &'a Number,
    /// Receiver.
    pub to: &'a Number,
    /// The text.
    pub text: &'a str,
}

/// Where a text goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The routes that matched, in order; empty when it goes to `unmatched`.
    pub routes: Vec<Name>,
    /// Each destination once, with the first route that asked for it.
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
    /// Takes the routes in the order they are tried.
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

    /// The route of this name, if it still exists.
    #[must_use]
    pub fn get(&self, name: &Name) -> Option<&Route> {
        self.by_name.get(name).and_then(|at| self.routes.get(*at))
    }

    /// All of them, in the order they are tried.
    #[must_use]
    pub fn all(&self) -> &[Route] {
        &self.routes
    }

    /// Who gets what no route matched.
    #[must_use]
    pub fn unmatched(&self) -> &[Name] {
        &self.unmatched
    }

    /// Decides where a text goes.
    ///
    /// Only routes that the index finds possible are looked at, in order; the first that matches and does not
    /// `continue` ends it.
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
    /// A destination that was asked for already stays with the route that asked first.
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
    /// Whether a text belongs here.
    #[must_use]
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        self.when.hold(subject) && !self.unless.as_ref().is_some_and(|unless| unless.hold(subject))
    }

    /// The named groups of its regular expression in this text. A group that took no part is left out.
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
    /// Whether all of them hold. The expression comes last: it costs the most.
    fn hold(&self, subject: &Subject<'_>) -> bool {
        any(self.source.as_deref(), |source| source == subject.source)
            && any(self.to.as_deref(), |pattern| pattern.matches(subject.to))
            && any(self.from.as_deref(), |pattern| pattern.matches(subject.from))
            && self
                .message
                .as_ref()
                .is_none_or(|expression| expression.is_match(subject.text))
    }
}

/// No list at all is no condition.
fn any<T>(list: Option<&[T]>, matches: impl Fn(&T) -> bool) -> bool {
    list.is_none_or(|list| list.iter().any(matches))
}

#[cfg(test)]
mod tests;
