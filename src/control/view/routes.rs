//! The routes.

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::model::message::{Keyword, Name};
use crate::model::number::Pattern;
use crate::model::time_interval::TimeInterval;
use crate::routing::{Conditions, Route, Routes};

/// All routes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RoutesView {
    /// The routes in the order in which they are tried.
    pub routes: Vec<RouteView>,
    /// The destinations of unmatched messages.
    pub unmatched: Vec<Name>,
}

impl RoutesView {
    /// Converts all routes.
    #[must_use]
    pub fn of(routes: &Routes) -> Self {
        Self {
            routes: routes.all().iter().map(RouteView::of).collect(),
            unmatched: routes.unmatched().to_vec(),
        }
    }
}

/// A route, under the keys it has in the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RouteView {
    /// Its name.
    pub name: Name,
    /// The conditions under which it matches.
    #[serde(flatten)]
    pub when: ConditionsView,
    /// The exceptions in which it does not match.
    pub unless: Option<ConditionsView>,
    /// The time intervals in which it matches; if empty, always.
    pub active: Vec<Name>,
    /// The time intervals in which it does not match.
    pub muted: Vec<Name>,
    /// Whether its deliveries pass holds.
    pub urgent: bool,
    /// Its destinations.
    pub deliver: Vec<Name>,
    /// Whether later routes are tried after it has matched.
    #[serde(rename = "continue")]
    pub proceed: bool,
    /// Whether it has its own template.
    pub template: bool,
}

impl RouteView {
    fn of(route: &Route) -> Self {
        let names =
            |intervals: &[TimeInterval]| intervals.iter().map(|interval| interval.name.clone()).collect();
        Self {
            name: route.name.clone(),
            when: ConditionsView::of(&route.when),
            unless: route.unless.as_ref().map(ConditionsView::of),
            active: names(&route.active),
            muted: names(&route.muted),
            urgent: route.urgent,
            deliver: route.deliver.clone(),
            proceed: route.proceed,
            template: route.template.is_some(),
        }
    }
}

/// Conditions that must all hold; an absent key is not a condition.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConditionsView {
    /// Senders, normalised.
    pub from: Option<Vec<String>>,
    /// Receivers, normalised.
    pub to: Option<Vec<String>>,
    /// Sources.
    pub source: Option<Vec<Name>>,
    /// The regular expression for the message body.
    pub message: Option<String>,
    /// Opt-out words.
    pub keyword: Option<Vec<Keyword>>,
}

impl ConditionsView {
    fn of(conditions: &Conditions) -> Self {
        let numbers = |list: &Option<Vec<Pattern>>| {
            let list = list.as_ref()?;
            Some(list.iter().map(Pattern::to_string).collect())
        };
        Self {
            from: numbers(&conditions.from),
            to: numbers(&conditions.to),
            source: conditions.source.clone(),
            message: conditions.message.as_ref().map(Regex::to_string),
            keyword: conditions.keyword.clone(),
        }
    }
}
