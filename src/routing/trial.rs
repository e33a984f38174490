//! Explains where a message goes: every route in order, with the condition that failed.

use serde::Serialize;

use super::{Conditions, Route, Routes, Subject, any, contains};
use crate::model::message::{Keyword, Name};

/// One route and its result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tried {
    /// The route.
    pub route: Name,
    /// The result.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The result of trying a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", content = "reason", rename_all = "snake_case")]
pub enum Outcome {
    /// The route matched.
    Matched,
    /// The first condition that does not hold, in words.
    Failed(String),
    /// An earlier route ended the search.
    NotReached,
}

impl Routes {
    /// Tries every route in order, as [`Routes::decide`] would, and returns the result of each.
    #[must_use]
    pub fn explain(&self, subject: &Subject<'_>) -> Vec<Tried> {
        let mut ended = false;
        let tried = self.routes.iter().map(|route| {
            let outcome = if ended {
                Outcome::NotReached
            } else {
                route.outcome(subject)
            };
            ended |= outcome == Outcome::Matched && !route.proceed;
            Tried {
                route: route.name.clone(),
                outcome,
            }
        });
        tried.collect()
    }
}

impl Route {
    fn outcome(&self, subject: &Subject<'_>) -> Outcome {
        match (self.when.failure(subject), &self.unless) {
            (Some(reason), _) => Outcome::Failed(reason),
            (None, Some(unless)) if unless.hold(subject) => {
                Outcome::Failed(format!("excluded by `unless`: {}", unless.held()))
            }
            (None, _) => match self.timed(subject) {
                Some(reason) => Outcome::Failed(reason),
                None => Outcome::Matched,
            },
        }
    }
}

impl Route {
    /// Why the route does not match at this time.
    fn timed(&self, subject: &Subject<'_>) -> Option<String> {
        if !self.active.is_empty() && contains(&self.active, subject.at).is_none() {
            let (at, intervals) = (subject.at, one_of(Some(&self.active)));
            return Some(format!("active: {at} is not in {intervals}"));
        }
        let muted = contains(&self.muted, subject.at)?;
        Some(format!("muted: {} is in `{muted}`", subject.at))
    }
}

impl Conditions {
    /// The first condition that does not hold.
    fn failure(&self, subject: &Subject<'_>) -> Option<String> {
        if !any(self.source.as_deref(), |source| source == subject.source) {
            return Some(format!(
                "source: {} is not {}",
                subject.source,
                one_of(self.source.as_deref())
            ));
        }
        if !any(self.to.as_deref(), |pattern| pattern.matches(subject.to)) {
            return Some(format!(
                "to: {} is not {}",
                subject.to,
                one_of(self.to.as_deref())
            ));
        }
        if !any(self.from.as_deref(), |pattern| pattern.matches(subject.from)) {
            return Some(format!(
                "from: {} is not {}",
                subject.from,
                one_of(self.from.as_deref())
            ));
        }
        if !any(self.keyword.as_deref(), |keyword| {
            Some(*keyword) == subject.keyword
        }) {
            return Some(format!(
                "keyword: {} is not {}",
                subject.keyword.map_or("none", Keyword::as_str),
                one_of(self.keyword.as_deref())
            ));
        }
        let expression = self
            .message
            .as_ref()
            .filter(|expression| !expression.is_match(subject.text))?;
        Some(format!("message: the body does not match `{expression}`"))
    }

    /// The conditions of the route, all of which hold.
    fn held(&self) -> String {
        let given = [
            self.source
                .as_deref()
                .map(|list| format!("source is {}", one_of(Some(list)))),
            self.to
                .as_deref()
                .map(|list| format!("to is {}", one_of(Some(list)))),
            self.from
                .as_deref()
                .map(|list| format!("from is {}", one_of(Some(list)))),
            self.keyword
                .as_deref()
                .map(|list| format!("keyword is {}", one_of(Some(list)))),
            self.message
                .as_ref()
                .map(|expression| format!("the body matches `{expression}`")),
        ];
        given.into_iter().flatten().collect::<Vec<_>>().join(" and ")
    }
}

/// Maximum number of listed values: the reader can look them up in the configuration.
const LISTED_MAX: usize = 5;

fn one_of<T: std::fmt::Display>(list: Option<&[T]>) -> String {
    let list = list.unwrap_or_default();
    let shown: Vec<String> = list
        .iter()
        .take(LISTED_MAX)
        .map(|item| format!("`{item}`"))
        .collect();
    match list.len() {
        0 | 1 => shown.join(""),
        count if count > LISTED_MAX => format!("any of {} and {} more", shown.join(", "), count - LISTED_MAX),
        _ => format!("any of {}", shown.join(", ")),
    }
}
