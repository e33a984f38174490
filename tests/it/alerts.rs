//! The alert rules are valid, and every metric they and the documentation name is really there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use crate::bridge::{Bridge, http, wait_for};
use crate::daemon::refid;
use crate::servers::recorder::{Recorder, Reply};

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
    let rules = std::fs::read_to_string(docs("alerts.yml")).unwrap();
    let rules = rules.matches("- alert: ").count();
    assert!(rules >= 11, "only {rules}");
    assert!(
        checked.status.success() && said.contains(&format!("{rules} rules found")),
        "{said}"
    );
}

const CONFIG: &str = "[destination.crm]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:9/\"\n\
     [destination.screen]\nkind = \"console\"\n[routing]\nunmatched = [\"crm\", \"screen\"]\n";

/// What a daemon tells Prometheus that has accepted, refused, delivered and retried something.
pub fn metrics() -> String {
    let bridge = Bridge::start(CONFIG);
    bridge.text(&refid(1), "+13035550100", "x");
    bridge.text(&refid(1), "+13035550100", "x");
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

/// Samples by name and labels, without those of histogram buckets.
fn samples(metrics: &str) -> BTreeMap<String, f64> {
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
    // A destination that a reload adds has all of them, too.
    bridge.configure(&CONFIG.replace("[routing]", "[destination.desk]\nkind = \"console\"\n[routing]"));
    assert_eq!(bridge.command(&["reload"]).0, 0);
    let metrics = bridge.metrics();
    let found = samples(&metrics);
    for series in expected(&["desk"]) {
        assert_eq!(found.get(&series), Some(&0.0), "{series}: {metrics}");
    }
    // Nothing that happens makes a series that was not there.
    bridge.text(&refid(1), "+13035550100", "x");
    bridge.text(&refid(1), "+13035550100", "x");
    bridge.post("{", "application/json");
    bridge.post("x", "text/plain");
    bridge.post(&"x".repeat(100_000), "application/json");
    for path in ["/nowhere", "/inbound/intelepeer"] {
        http("GET", &bridge.url(path), &[], "");
    }
    let strange = |series: &&String| !known.contains(*series) && !series.contains("\"desk\"");
    let found = samples(&bridge.metrics());
    let strange: Vec<&String> = found.keys().filter(strange).collect();
    assert!(strange.is_empty(), "{strange:?}");
    assert_eq!(
        found["smsbridge_requests_rejected_total{source=\"\",reason=\"path\"}"],
        1.0
    );
}

#[test]
fn the_metrics_of_what_a_reload_removed_end() {
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
fn a_failed_reload_is_told_to_prometheus_until_one_succeeds() {
    let bridge = Bridge::start(CONFIG);
    let told = || samples(&bridge.metrics())["smsbridge_config_last_reload_successful"];
    assert_eq!(told(), 1.0);
    bridge.configure("[routing]\nunmatched = [\"nobody\"]\n");
    assert_eq!(bridge.command(&["reload"]).0, 2);
    assert_eq!(told(), 0.0);
    bridge.signal("HUP");
    bridge.configure(CONFIG);
    bridge.signal("HUP");
    wait_for("the reload to be told", || (told() == 1.0).then_some(()));
}

/// A series that begins after five minutes with what the daemon told at first, and has its later value from the
/// fifteenth on.
fn series(name: &str, first: Option<&f64>, later: f64) -> String {
    let first = first.map_or("_x15".to_owned(), |first| format!("_x5 {first}x9"));
    format!("  - series: '{name}'\n    values: '{first} {later}x15'\n")
}

/// Whether an alert fires right after a daemon that told `first` at its start tells `later`.
fn fires(alert: &str, first: &str, later: &str) -> bool {
    let (first, later) = (samples(first), samples(later));
    let input: String = later
        .iter()
        .map(|(name, later)| series(name, first.get(name), *later))
        .collect();
    let test = format!(
        "rule_files: ['{}']\nevaluation_interval: 1m\ntests:\n- interval: 1m\n  input_series:\n{input}\
         \x20 promql_expr_test:\n  - expr: count(ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"}})\n    eval_time: 17m\n    \
         exp_samples: [{{labels: '{{}}', value: 1}}]\n",
        docs("alerts.yml").display(),
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("test.yml");
    std::fs::write(&file, &test).unwrap();
    let tested = promtool_test(&file);
    let told = tested.contains("SUCCESS") || tested.contains("got: nil");
    assert!(told, "{tested}{test}");
    tested.contains("SUCCESS")
}

fn promtool_test(file: &Path) -> String {
    let tested = Command::new("promtool")
        .args(["test", "rules"])
        .arg(file)
        .output();
    let tested = tested.expect("promtool is missing: run tests/setup");
    String::from_utf8_lossy(&tested.stdout).into_owned() + &String::from_utf8_lossy(&tested.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_dead_letter_of_a_daemon_fires() {
    let recorder = Recorder::start(|_| Reply::new(400, "")).await;
    let bridge = Bridge::start(&CONFIG.replace("http://127.0.0.1:9/", &recorder.url("/")));
    let first = bridge.metrics();
    assert!(!fires("SmsbridgeDeadLetters", &first, &first));
    bridge.text(&refid(1), "+13035550100", "x");
    let later = wait_for("a dead letter", || {
        let metrics = bridge.metrics();
        let dead = "smsbridge_queue_dead{destination=\"crm\"} 1";
        metrics.contains(dead).then_some(metrics)
    });
    assert!(fires("SmsbridgeDeadLetters", &first, &later));
    // Also when the daemon was never asked before.
    assert!(fires("SmsbridgeDeadLetters", "", &later));
    let (code, _, _) = bridge.command(&["delivery", "acknowledge", "--destination", "crm", "--yes"]);
    assert_eq!(code, 0);
    assert!(!fires("SmsbridgeDeadLetters", &first, &bridge.metrics()));
}

#[test]
fn the_first_refusal_for_lack_of_space_fires() {
    let folder = tempfile::tempdir().unwrap();
    let mut bridge = Bridge::placed(folder.path(), "min_free = \"9000TiB\"\n", CONFIG);
    bridge.run();
    let first = bridge.metrics();
    assert!(!fires("SmsbridgeStoreFull", &first, &first));
    assert_eq!(bridge.text(&refid(1), "+13035550100", "x").0, 503);
    let later = bridge.metrics();
    assert!(fires("SmsbridgeStoreFull", &first, &later));
    assert!(fires("SmsbridgeStoreFull", "", &later));
}

#[test]
fn promtool_finds_that_every_alert_fires_when_it_should() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/alerts.test.yml");
    let said = promtool_test(&tests);
    assert!(said.contains("SUCCESS"), "{said}");
    let tests = std::fs::read_to_string(tests).unwrap();
    let rules = std::fs::read_to_string(docs("alerts.yml")).unwrap();
    for alert in rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
    {
        let fires = format!("labels: 'ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"");
        assert!(tests.contains(&fires), "no test shows that {alert} fires");
    }
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
