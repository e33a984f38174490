//! The alert rules are valid, and every metric they and the documentation name is really there.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::bridge::{Bridge, wait_for};
use crate::daemon::refid;

pub fn docs(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)
}

/// Names like `smsbridge_queue_pending` in a text.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter(|word| word.starts_with("smsbridge_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn promtool_takes_the_alert_rules() {
    let checked = Command::new("promtool")
        .arg("check")
        .arg("rules")
        .arg(docs("alerts.yml"))
        .output();
    let checked = checked.expect("promtool is missing: run tests/setup");
    let said =
        String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
    assert!(
        checked.status.success() && said.contains("10 rules found"),
        "{said}"
    );
}

/// What a daemon tells Prometheus that has accepted, refused, delivered and retried something.
pub fn metrics() -> String {
    let config = "[destination.crm]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:9/\"\n\
                  [destination.screen]\nkind = \"console\"\n[routing]\nunmatched = [\"crm\", \"screen\"]\n";
    let bridge = Bridge::start(config);
    bridge.text(&refid(1), "+13035550100", "x");
    bridge.text(&refid(1), "+13035550100", "x");
    bridge.post("{", "application/json");
    let socket = bridge.folder().join("data/admin.sock");
    wait_for("an attempt to be counted", || {
        let fetched = Command::new("curl")
            .args(["-s", "--unix-socket"])
            .arg(&socket)
            .arg("http://localhost/metrics")
            .output()
            .unwrap();
        let metrics = String::from_utf8(fetched.stdout).unwrap();
        let counted = metrics.contains("outcome=\"retried\"") && metrics.contains("outcome=\"delivered\"");
        counted.then_some(metrics)
    })
}

#[test]
fn every_metric_that_is_named_exists() {
    let metrics = metrics();
    let there = named(&metrics);
    let wanted: BTreeSet<String> = ["alerts.yml", "operations.md"]
        .iter()
        .flat_map(|file| named(&std::fs::read_to_string(docs(file)).unwrap()))
        .collect();
    assert!(wanted.len() > 12, "{wanted:?}");
    // A histogram's name stands with its endings, what is rare is declared without a value.
    let missing: Vec<&String> = wanted
        .iter()
        .filter(|name| {
            !there
                .iter()
                .any(|is| is.starts_with(name.trim_end_matches("_total")))
        })
        .collect();
    assert!(missing.is_empty(), "{missing:?}\n{metrics}");
    assert!(metrics.contains("process_resident_memory_bytes "), "{metrics}");
}
