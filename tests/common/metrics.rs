//! The daemon's metrics, and the queries of the dashboard.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

pub fn docs(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)
}

pub const CONFIG: &str = "[destination.crm]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:9/\"\n\
     [destination.screen]\nkind = \"console\"\n[routing]\nunmatched = [\"crm\", \"screen\"]\n";

/// Samples by name and labels, without those of histogram buckets.
pub fn samples(metrics: &str) -> BTreeMap<String, f64> {
    let is_sample = |line: &&str| {
        ["smsbridge_", "process_"]
            .iter()
            .any(|prefix| line.starts_with(prefix))
    };
    let lines = metrics.lines().filter(is_sample);
    let samples = lines.filter(|line| !line.contains("_bucket{")).map(|line| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        (series.to_owned(), value.parse().unwrap())
    });
    samples.collect()
}

/// One query of the dashboard.
pub struct Query {
    pub panel: String,
    pub expression: String,
    pub legend: String,
}

pub fn dashboard() -> Value {
    serde_json::from_str(&std::fs::read_to_string(docs("grafana.json")).unwrap()).unwrap()
}

/// Grafana's variables, as Prometheus would get them.
pub fn filled(expression: &str) -> String {
    let filled = expression
        .replace("$__rate_interval", "5m")
        .replace("$instance", ".*")
        .replace("$destination", ".*");
    assert!(!filled.contains('$'), "an unknown variable: {filled}");
    filled
}

pub fn queries(dashboard: &Value) -> Vec<Query> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let targets = dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(move |target| (panel, target))
    });
    let queries: Vec<Query> = targets
        .map(|(panel, target)| {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
            Query {
                panel: text(&panel["title"]),
                expression: filled(target["expr"].as_str().unwrap()),
                legend: text(&target["legendFormat"]),
            }
        })
        .collect();
    assert!(queries.len() > 20, "only {} queries were found", queries.len());
    queries
}
