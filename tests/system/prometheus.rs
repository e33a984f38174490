//! The alert rules and the expressions of the dashboard, checked by Prometheus' `promtool`.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use crate::bridge::{Bridge, refid, wait_for};
use crate::metrics::{CONFIG, dashboard, docs, queries, samples};
use crate::servers::recorder::{Recorder, Reply};

#[test]
#[ignore = "needs promtool: tests/run"]
fn promtool_accepts_the_alert_rules() {
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

#[test]
#[ignore = "needs promtool: tests/run"]
fn promtool_confirms_when_every_alert_fires() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/alerts.test.yml");
    let said = promtool_test(&tests);
    assert!(said.contains("SUCCESS"), "{said}");
    let tests = std::fs::read_to_string(tests).unwrap();
    let rules = std::fs::read_to_string(docs("alerts.yml")).unwrap();
    let alerts: Vec<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(alerts.len() >= 11, "only {alerts:?}");
    for alert in alerts {
        let fires = format!("labels: 'ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"");
        assert!(tests.contains(&fires), "no test shows that {alert} fires");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs promtool: tests/run"]
async fn the_first_dead_letter_of_a_daemon_fires() {
    let recorder = Recorder::start(|_| Reply::new(400, "")).await;
    let bridge = Bridge::start(&CONFIG.replace("http://127.0.0.1:9/", &recorder.url("/")));
    let first = bridge.metrics();
    assert!(!fires("SmsbridgeDeadLetters", &first, &first));
    bridge.post_message(&refid(1), "+13035550100", "x");
    let later = wait_for("a dead letter", || {
        let metrics = bridge.metrics();
        let dead = "smsbridge_queue_dead{destination=\"crm\"} 1";
        metrics.contains(dead).then_some(metrics)
    });
    assert!(fires("SmsbridgeDeadLetters", &first, &later));
    // Also without an earlier scrape.
    assert!(fires("SmsbridgeDeadLetters", "", &later));
    let (code, _, _) = bridge.command(&["delivery", "acknowledge", "--destination", "crm", "--yes"]);
    assert_eq!(code, 0);
    assert!(!fires("SmsbridgeDeadLetters", &first, &bridge.metrics()));
}

#[test]
#[ignore = "needs promtool: tests/run"]
fn the_first_refusal_for_lack_of_space_fires() {
    let folder = tempfile::tempdir().unwrap();
    let mut bridge = Bridge::placed(folder.path(), "min_free = \"9000TiB\"\n", CONFIG);
    bridge.run();
    let first = bridge.metrics();
    assert!(!fires("SmsbridgeStoreFull", &first, &first));
    assert_eq!(bridge.post_message(&refid(1), "+13035550100", "x").0, 503);
    let later = bridge.metrics();
    assert!(fires("SmsbridgeStoreFull", &first, &later));
    assert!(fires("SmsbridgeStoreFull", "", &later));
}

/// Returns true if an alert fires when the metrics of a daemon change from `first` to `later`.
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

/// A series that begins after five minutes with its first value, and has its later value from the fifteenth minute
/// on.
fn series(name: &str, first: Option<&f64>, later: f64) -> String {
    let first = first.map_or("_x15".to_owned(), |first| format!("_x5 {first}x9"));
    format!("  - series: '{name}'\n    values: '{first} {later}x15'\n")
}

fn promtool_test(file: &Path) -> String {
    let tested = Command::new("promtool")
        .args(["test", "rules"])
        .arg(file)
        .output();
    let tested = tested.expect("promtool is missing: run tests/setup");
    String::from_utf8_lossy(&tested.stdout).into_owned() + &String::from_utf8_lossy(&tested.stderr)
}

#[test]
#[ignore = "needs promtool: tests/run"]
fn promtool_accepts_every_expression_of_the_dashboard() {
    let queries = queries(&dashboard());
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (at, query) in queries.iter().enumerate() {
        let expression = query.expression.replace('\'', "''");
        let _ = write!(
            rules,
            "  # {}: {}\n  - record: panel:query:{at}\n    expr: '{expression}'\n",
            query.panel, query.legend
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yml");
    std::fs::write(&file, &rules).unwrap();
    let checked = Command::new("promtool")
        .arg("check")
        .arg("rules")
        .arg(file)
        .output();
    let checked = checked.expect("promtool is missing: run tests/setup");
    let said =
        String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
    assert!(
        checked.status.success() && said.contains(&format!("{} rules found", queries.len())),
        "{said}\n{rules}"
    );
}
