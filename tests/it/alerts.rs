//! Every metric that the alert rules and the documentation name exists, from the start and with known labels.

use std::collections::BTreeSet;

use crate::bridge::refid;
use crate::bridge::{Bridge, http, wait_for};
use crate::metrics::{CONFIG, docs, samples};

/// Names like `smsbridge_queue_pending` in a file.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter(|word| word.starts_with("smsbridge_"))
        .map(str::to_owned)
        .collect()
}

/// The names of all metrics, including those without a value.
fn names(metrics: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in metrics.lines() {
        let mut words = line.split([' ', '{']);
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let endings: &[&str] = match kind {
                    "counter" => &["_total"],
                    "histogram" => &["", "_bucket", "_sum", "_count"],
                    _ => &[""],
                };
                names.extend(endings.iter().map(|ending| format!("{name}{ending}")));
            }
            (Some(name), ..) if name != "#" => {
                names.insert(name.to_owned());
            }
            _ => {}
        }
    }
    names
}

/// The metrics of a daemon that has accepted, rejected, delivered and retried a message.
pub fn metrics() -> String {
    let bridge = Bridge::start(CONFIG);
    bridge.post_message(&refid(1), "+13035550100", "x");
    bridge.post_message(&refid(1), "+13035550100", "x");
    bridge.post("{", "application/json");
    wait_for("an attempt to be counted", || {
        let metrics = bridge.metrics();
        let counted = ["retried", "delivered"].iter().all(|outcome| {
            let counted = format!("outcome=\"{outcome}\"}} 1");
            metrics.contains(&counted)
        });
        counted.then_some(metrics)
    })
}

/// The series that this source and these destinations have from the start.
fn expected(destinations: &[&str]) -> Vec<String> {
    let mut expected: Vec<String> = [
        "smsbridge_messages_unrouted_total",
        "smsbridge_messages_kept_total",
        "smsbridge_admin_logins_failed_total",
        "smsbridge_requests_rejected_total{source=\"\",reason=\"path\"}",
        "smsbridge_requests_rejected_total{source=\"\",reason=\"tls\"}",
        "smsbridge_messages_accepted_total{source=\"intelepeer\"}",
        "smsbridge_messages_duplicate_total{source=\"intelepeer\"}",
        "smsbridge_messages_duplicate_differing_total{source=\"intelepeer\"}",
        "smsbridge_numbers_astray{source=\"intelepeer\"}",
    ]
    .map(str::to_owned)
    .into();
    let operations = std::fs::read_to_string(docs("operations.md")).unwrap();
    let reasons = operations.split("| `reason` | the carrier got |").nth(1).unwrap();
    let reasons = reasons.lines().skip(2).take_while(|line| line.starts_with('|'));
    let reasons: Vec<&str> = reasons
        .flat_map(|line| line.split('|').nth(1).unwrap().split('`').skip(1).step_by(2))
        .filter(|reason| !["path", "tls"].contains(reason))
        .collect();
    assert!(reasons.len() > 8, "{reasons:?}");
    for reason in reasons {
        expected.push(format!(
            "smsbridge_requests_rejected_total{{source=\"intelepeer\",reason=\"{reason}\"}}"
        ));
    }
    for destination in destinations {
        for outcome in ["delivered", "retried", "dead"] {
            expected.push(format!(
                "smsbridge_deliveries_total{{destination=\"{destination}\",outcome=\"{outcome}\"}}"
            ));
        }
        for gauge in [
            "queue_pending",
            "queue_dead",
            "queue_oldest_seconds",
            "delivery_duration_seconds_count",
            "end_to_end_seconds_count",
        ] {
            expected.push(format!("smsbridge_{gauge}{{destination=\"{destination}\"}}"));
        }
    }
    expected
}

#[test]
fn every_series_with_known_labels_begins_with_zero() {
    let bridge = Bridge::start(CONFIG);
    let metrics = bridge.metrics();
    let found = samples(&metrics);
    for series in expected(&["crm", "screen"]) {
        assert_eq!(found.get(&series), Some(&0.0), "{series}: {metrics}");
    }
    let known: BTreeSet<String> = found.into_keys().collect();
    // A destination that a reload adds has all series, too.
    bridge.configure(&CONFIG.replace("[routing]", "[destination.desk]\nkind = \"console\"\n[routing]"));
    assert_eq!(bridge.command(&["reload"]).0, 0);
    let metrics = bridge.metrics();
    let found = samples(&metrics);
    for series in expected(&["desk"]) {
        assert_eq!(found.get(&series), Some(&0.0), "{series}: {metrics}");
    }
    // No event adds a series.
    bridge.post_message(&refid(1), "+13035550100", "x");
    bridge.post_message(&refid(1), "+13035550100", "x");
    bridge.post("{", "application/json");
    bridge.post("x", "text/plain");
    bridge.post(&"x".repeat(100_000), "application/json");
    for path in ["/nowhere", "/inbound/intelepeer"] {
        http("GET", &bridge.url(path), &[], "");
    }
    // The reload has changed the digest of the configuration.
    let strange = |series: &&String| {
        let is_changed = ["\"desk\"", "smsbridge_node_info"]
            .iter()
            .any(|part| series.contains(part));
        !known.contains(*series) && !is_changed
    };
    let found = samples(&bridge.metrics());
    let strange: Vec<&String> = found.keys().filter(strange).collect();
    assert!(strange.is_empty(), "{strange:?}");
    assert_eq!(
        found["smsbridge_requests_rejected_total{source=\"\",reason=\"path\"}"],
        1.0
    );
}

#[test]
fn a_reload_removes_the_metrics_of_removed_destinations() {
    let bridge = Bridge::start(CONFIG);
    assert!(
        bridge
            .metrics()
            .contains("smsbridge_destination_state{destination=\"crm\"")
    );
    let without = CONFIG
        .split("[destination.screen]")
        .nth(1)
        .unwrap()
        .replace("\"crm\", ", "");
    bridge.configure(&format!("[destination.screen]{without}"));
    assert_eq!(bridge.command(&["reload"]).0, 0);
    let metrics = bridge.metrics();
    assert!(
        !metrics.contains("smsbridge_destination_state{destination=\"crm\""),
        "{metrics}"
    );
    assert!(
        !metrics.contains("smsbridge_queue_pending{destination=\"crm\""),
        "{metrics}"
    );
}

#[test]
fn a_failed_reload_shows_in_the_metrics_until_one_succeeds() {
    let bridge = Bridge::start(CONFIG);
    let told = || samples(&bridge.metrics())["smsbridge_config_last_reload_successful"];
    assert_eq!(told(), 1.0);
    bridge.configure("[routing]\nunmatched = [\"nobody\"]\n");
    assert_eq!(bridge.command(&["reload"]).0, 2);
    assert_eq!(told(), 0.0);
    bridge.signal("HUP");
    bridge.configure(CONFIG);
    bridge.signal("HUP");
    wait_for("the metric of the reload", || (told() == 1.0).then_some(()));
}

#[test]
fn every_documented_metric_exists() {
    let metrics = metrics();
    let there = names(&metrics);
    let wanted: BTreeSet<String> = ["alerts.yml", "operations.md"]
        .iter()
        .flat_map(|file| named(&std::fs::read_to_string(docs(file)).unwrap()))
        .collect();
    assert!(wanted.len() > 12, "{wanted:?}");
    let missing: Vec<&String> = wanted.difference(&there).collect();
    assert!(missing.is_empty(), "{missing:?}\n{metrics}");
    assert!(metrics.contains("process_resident_memory_bytes "), "{metrics}");
}
