//! The Grafana dashboard queries only metrics and labels that the daemon has, and shows all of them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::alerts::metrics;
use crate::metrics::{Query, dashboard, filled, queries};

/// The labels that Prometheus adds to every sample.
const ADDED: [&str; 2] = ["instance", "job"];

/// `label_values(metric{…}, label)` of the variables: the metric with its conditions, and the label.
fn variables(dashboard: &Value) -> Vec<(String, String)> {
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    let asked = variables.filter(|variable| variable["type"] == "query");
    let asked: Vec<_> = asked
        .map(|variable| {
            let query = variable["query"]["query"].as_str().unwrap();
            let inner = query
                .strip_prefix("label_values(")
                .unwrap()
                .strip_suffix(')')
                .unwrap();
            let (selector, label) = inner.rsplit_once(", ").unwrap();
            (filled(selector), label.to_owned())
        })
        .collect();
    assert_eq!(asked.len(), 2);
    asked
}

/// The names of samples, each with its labels.
fn samples(metrics: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut samples: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let labels = samples.entry(name.to_owned()).or_default();
        if let Some((_, rest)) = line.split_once('{') {
            labels.extend(labels_of(rest.split('}').next().unwrap()));
        }
    }
    samples
}

/// The labels of `a="…",b=~"…"`. No value here has a quotation mark in it.
fn labels_of(conditions: &str) -> Vec<String> {
    let outside_of_quotes = conditions.split('"').step_by(2);
    outside_of_quotes
        .map(|part| part.trim_matches(|c: char| " ,=!~".contains(c)).to_owned())
        .filter(|label| !label.is_empty())
        .collect()
}

/// The metrics of an expression, each with the labels it is narrowed down by.
fn selectors(expression: &str) -> Vec<(String, Vec<String>)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(start) = rest.find(is_word) {
        let word: String = rest[start..].chars().take_while(|c| is_word(*c)).collect();
        let after = &rest[start + word.len()..];
        let conditions = after.strip_prefix('{').and_then(|after| after.split_once('}'));
        let (conditions, after) = conditions.unwrap_or(("", after));
        if word.starts_with("smsbridge_") || word.starts_with("process_") {
            found.push((word, labels_of(conditions)));
        }
        rest = after;
    }
    found
}

/// The labels that an expression groups by.
fn grouped_by(expression: &str) -> Vec<String> {
    let lists = expression.split(" by (").skip(1);
    let lists = lists.flat_map(|rest| rest.split(')').next().unwrap().split(", "));
    lists.map(str::to_owned).collect()
}

/// The labels that a legend shows: `{{destination}}`.
fn shown(legend: &str) -> Vec<String> {
    let labels = legend.split("{{").skip(1);
    labels
        .map(|rest| rest.split("}}").next().unwrap().to_owned())
        .collect()
}

#[test]
fn every_metric_and_label_of_the_dashboard_exists() {
    let (dashboard, samples) = (dashboard(), samples(&metrics()));
    let mut wrong = Vec::new();
    let mut checked = BTreeSet::new();
    for (selector, label) in variables(&dashboard) {
        let (metric, _) = selectors(&selector).remove(0);
        let known = samples.get(&metric).unwrap_or_else(|| panic!("{metric}"));
        assert!(
            known.contains(&label) || ADDED.contains(&label.as_str()),
            "{selector}: {label}"
        );
    }
    for Query {
        panel,
        expression,
        legend,
    } in queries(&dashboard)
    {
        let mut known: BTreeSet<String> = ADDED.map(str::to_owned).into();
        let used = selectors(&expression);
        assert!(!used.is_empty(), "{panel}: {expression}");
        for (metric, narrowed) in used {
            let Some(own) = samples.get(&metric) else {
                wrong.push(format!("{panel}: no metric {metric}"));
                continue;
            };
            let strange = narrowed
                .iter()
                .filter(|label| !own.contains(*label) && !ADDED.contains(&label.as_str()));
            wrong.extend(strange.map(|label| format!("{panel}: {metric} has no label {label}")));
            known.extend(own.iter().cloned());
            checked.insert(metric);
        }
        let strange = grouped_by(&expression)
            .into_iter()
            .chain(shown(&legend))
            .filter(|label| !known.contains(label));
        wrong.extend(strange.map(|label| format!("{panel}: nothing has a label {label}: {expression}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}\n{samples:#?}");
    assert!(checked.len() > 20, "{checked:?}");
    // Dead deliveries are shown without a rate.
    let left_out: Vec<&String> = samples
        .keys()
        .filter(|name| name.starts_with("smsbridge_") && !checked.contains(*name))
        .filter(|name| !name.ends_with("_sum") && !name.ends_with("_count"))
        .filter(|name| *name != "smsbridge_queue_dead")
        .collect();
    assert!(
        left_out.is_empty(),
        "metrics of the daemon that the dashboard does not show: {left_out:?}"
    );
}

#[test]
fn no_panels_of_the_dashboard_overlap() {
    let dashboard = dashboard();
    let mut places = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        for x in at("x")..at("x") + at("w") {
            assert!(x < 24, "{} sticks out", panel["title"]);
            for y in at("y")..at("y") + at("h") {
                assert!(places.insert((x, y)), "{} lies on another", panel["title"]);
            }
        }
    }
    assert!(places.len() > 100, "only {} places are taken", places.len());
    assert!(dashboard["schemaVersion"].as_u64() >= Some(39));
}
