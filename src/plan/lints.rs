//! Warnings about configurations that are legal but probably a mistake: routes that can never match, unused tables,
//! and the lints of the submodules.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use regex::Regex;

use crate::config::{self, Config, Problems};
use crate::model::message::{Name, Timestamp};
use crate::routing::{Route, shadowed};

mod exposure;
mod numbers;

/// Adds all lints as warnings. `routes` are those that could be compiled.
pub(super) fn note(config: &Config, routes: &[Route], problems: &mut Problems) {
    no_source(config, problems);
    exposure::note(config, problems);
    numbers::note(config, problems);
    if routes.len() == config.routes.len() && config.routes.iter().all(|route| route.is_valid) {
        dead_routes(config, routes, problems);
    }
    unknown_groups(config, problems);
    constant_intervals(config, problems);
    // With errors in the file, a table may only appear unused because the reference to it has an error.
    if !problems.any_error() {
        unused(config, problems);
    }
}

fn no_source(config: &Config, problems: &mut Problems) {
    if config.declared.sources.is_empty() && !problems.any_error() {
        let message = "no [source.NAME] is defined: no message can arrive";
        problems.warning(&(0..0), "source", message);
    }
}

fn dead_routes(config: &Config, routes: &[Route], problems: &mut Problems) {
    let key = |route: &config::Route| format!("route.{}", route.name);
    for (route, typed) in routes
        .iter()
        .zip(&config.routes)
        .filter(|(route, _)| route.excludes_itself())
    {
        let message = format!(
            "can never match: the `unless` of `{}` excludes all that it asks for",
            route.name
        );
        problems.warning(&typed.place, key(typed), message);
    }
    for (later, earlier) in shadowed(routes) {
        let (Some(later), Some(earlier)) = (config.routes.get(later), routes.get(earlier)) else {
            continue;
        };
        let message = format!(
            "can never match: route `{}` above matches all its messages",
            earlier.name
        );
        problems.warning(&later.place, key(later), message);
    }
}

/// Warns about time intervals that contain no time from now on, or all.
fn constant_intervals(config: &Config, problems: &mut Problems) {
    let now = Timestamp(jiff::Timestamp::now().as_millisecond());
    for named in &config.time_intervals {
        let when = &named.interval.when;
        if when.next_change(now).is_some() {
            continue;
        }
        let message = if when.contains(now) {
            "contains every time: nothing in it limits it"
        } else {
            "contains no time from now on: its dates are over, or its conditions exclude each other"
        };
        problems.warning(
            &named.place,
            format!("time_interval.{}", named.interval.name),
            message,
        );
    }
}

fn unused(config: &Config, problems: &mut Problems) {
    let routes = config.routes.iter().flat_map(|route| &route.deliver);
    let fallbacks = config
        .destinations
        .iter()
        .filter_map(|destination| destination.fallback.as_ref());
    let used: BTreeSet<&str> = routes
        .chain(&config.unmatched)
        .chain(&config.operator.notify)
        .chain(fallbacks)
        .map(|name| name.get_ref().as_str())
        .collect();
    report_unused("destination", &config.declared.destinations, &used, problems);
    let holds = config
        .destinations
        .iter()
        .flat_map(|destination| &destination.hold_during);
    let routed = config
        .routes
        .iter()
        .flat_map(|route| route.active.iter().chain(&route.muted));
    let used = holds.chain(routed).map(|name| name.get_ref().as_str()).collect();
    report_unused("time_interval", &config.declared.time_intervals, &used, problems);
    let servers = config
        .destinations
        .iter()
        .filter_map(|destination| destination.smtp.as_ref());
    let used = servers.map(|name| name.get_ref().as_str()).collect();
    report_unused("smtp", &config.declared.smtp, &used, problems);
}

fn report_unused(
    table: &str,
    declared: &BTreeMap<Name, Range<usize>>,
    used: &BTreeSet<&str>,
    problems: &mut Problems,
) {
    let by = match table {
        "smtp" => "no destination names it",
        "time_interval" => "no route or destination names it",
        _ => "no route, fallback, `unmatched` or `operator.notify` names it",
    };
    for (name, place) in declared.iter().filter(|(name, _)| !used.contains(name.as_str())) {
        problems.warning(place, format!("{table}.{name}"), format!("is not used: {by}"));
    }
}

/// Warns about `match.NAME` in the template of a route whose expression has no group of this name.
fn unknown_groups(config: &Config, problems: &mut Problems) {
    for route in &config.routes {
        let Some(template) = &route.template else { continue };
        let groups = groups(route);
        for name in named_matches(template.get_ref()).filter(|name| !groups.contains(name)) {
            let message = format!("`match.{name}` will be empty: `message` has no group (?<{name}>…)");
            problems.warning(
                &template.span(),
                format!("route.{}.template", route.name),
                message,
            );
        }
    }
}

fn groups(route: &config::Route) -> Vec<&str> {
    route
        .when
        .message
        .iter()
        .flat_map(Regex::capture_names)
        .flatten()
        .collect()
}

/// Each NAME of `match.NAME` inside the braces of a template.
fn named_matches(template: &str) -> impl Iterator<Item = &str> {
    template.match_indices("match.").filter_map(|(start, found)| {
        let (before, after) = (&template[..start], &template[start + found.len()..]);
        let part_of_a_word = before.ends_with(|c: char| c.is_alphanumeric() || "_.".contains(c));
        let inside = before
            .rfind(['{', '}'])
            .is_some_and(|at| before[at..].starts_with('{'))
            || before.rfind("{%") > before.rfind("%}");
        let end = after
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(after.len());
        (!part_of_a_word && inside && end > 0).then(|| &after[..end])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_matches_inside_braces_count() {
        let template =
            "match.out {{ match.a }} {% if match.b_1 %}{{ re.match.no }}{{ x|default(match.c) }}{% endif %}";
        assert_eq!(named_matches(template).collect::<Vec<_>>(), ["a", "b_1", "c"]);
    }
}
