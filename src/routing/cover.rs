//! Finds routes that can never match because an earlier route matches all their messages.
//!
//! Sound, but not complete: a reported route is really covered, but coverage by several earlier routes
//! together is not detected.

use std::collections::HashMap;

use super::index::Index;
use super::{Conditions, Route};
use crate::model::number::Pattern;

/// For each covered route: its position, and the position of the earlier route.
#[must_use]
pub fn shadowed(routes: &[Route]) -> Vec<(usize, usize)> {
    let mut by_expression: HashMap<Option<&str>, Vec<(usize, &Route)>> = HashMap::new();
    for (at, route) in routes
        .iter()
        .enumerate()
        .filter(|(_, route)| !route.proceed && route.unless.is_none())
    {
        by_expression
            .entry(route.expression())
            .or_default()
            .push((at, route));
    }
    let indices: HashMap<Option<&str>, Index> = by_expression
        .into_iter()
        .map(|(expression, routes)| (expression, Index::over_numbers(&routes)))
        .collect();
    let shadow = |at: usize, later: &Route| {
        // A route without an expression covers any other; a route with one covers only routes with the same
        // expression.
        let same = later
            .expression()
            .is_some()
            .then(|| indices.get(&later.expression()))
            .flatten();
        let earliest = |index: &Index| earliest_shadow(index, routes, at, later);
        indices
            .get(&None)
            .and_then(earliest)
            .or_else(|| same.and_then(earliest))
    };
    routes
        .iter()
        .enumerate()
        .filter_map(|(at, later)| Some((at, shadow(at, later)?)))
        .collect()
}

/// A pattern that covers another one also matches the string of that one, so the index finds it.
fn earliest_shadow(index: &Index, routes: &[Route], at: usize, later: &Route) -> Option<usize> {
    let (to, from) = (first(later.when.to.as_deref()), first(later.when.from.as_deref()));
    let mut earlier = index.possible(to, from, "").take_while(|earlier| *earlier < at);
    earlier.find(|earlier| {
        routes
            .get(*earlier)
            .is_some_and(|earlier| earlier.when.cover(&later.when) && earlier.is_active_with(later))
    })
}

fn first(list: Option<&[Pattern]>) -> &str {
    match list.and_then(<[Pattern]>::first) {
        Some(Pattern::Exact(text) | Pattern::Prefix(text) | Pattern::Suffix(text)) => text,
        Some(Pattern::Any) | None => "",
    }
}

impl Route {
    /// Returns true if this route matches at all times at which `later` does.
    fn is_active_with(&self, later: &Self) -> bool {
        let is_always = self.active.is_empty() && self.muted.is_empty();
        is_always || self.active == later.active && self.muted == later.muted
    }

    fn expression(&self) -> Option<&str> {
        self.when.message.as_ref().map(regex::Regex::as_str)
    }

    /// Returns true if the exceptions of the route exclude everything.
    #[must_use]
    pub fn excludes_itself(&self) -> bool {
        self.unless
            .as_ref()
            .is_some_and(|unless| unless.cover(&self.when))
    }
}

impl Conditions {
    /// Returns true if these conditions hold wherever `narrower` hold.
    fn cover(&self, narrower: &Self) -> bool {
        let same = |wide: &regex::Regex, narrow: &regex::Regex| wide.as_str() == narrow.as_str();
        all_covered(self.to.as_deref(), narrower.to.as_deref(), pattern_covers)
            && all_covered(self.from.as_deref(), narrower.from.as_deref(), pattern_covers)
            && all_covered(self.source.as_deref(), narrower.source.as_deref(), PartialEq::eq)
            && all_covered(
                self.keyword.as_deref(),
                narrower.keyword.as_deref(),
                PartialEq::eq,
            )
            && match (&self.message, &narrower.message) {
                (None, _) => true,
                (Some(wide), Some(narrow)) => same(wide, narrow),
                (Some(_), None) => false,
            }
    }
}

fn all_covered<T>(wide: Option<&[T]>, narrow: Option<&[T]>, covers: impl Fn(&T, &T) -> bool) -> bool {
    let Some(wide) = wide else { return true };
    narrow.is_some_and(|narrow| {
        narrow
            .iter()
            .all(|narrow| wide.iter().any(|wide| covers(wide, narrow)))
    })
}

fn pattern_covers(wide: &Pattern, narrow: &Pattern) -> bool {
    use Pattern::{Any, Exact, Prefix, Suffix};
    match (wide, narrow) {
        (Any, _) => true,
        (Exact(wide), Exact(narrow)) => wide == narrow,
        (Prefix(wide), Exact(narrow) | Prefix(narrow)) => narrow.starts_with(wide.as_str()),
        (Suffix(wide), Exact(narrow) | Suffix(narrow)) => narrow.ends_with(wide.as_str()),
        _ => false,
    }
}
