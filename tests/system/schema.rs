//! The schema of the configuration, checked by jsonschema, and the manual pages, checked by groff.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use smsbridge::plan::Plan;

use crate::places::{BASE, PLACES, example_in_full, keys, print, read, root, table, with};
use crate::reference::{Key, tables};
use crate::servers::synapse::venv;

/// Types and keys whose strings the schema checks by their form only; the parser checks more.
const FORM_ONLY: &[&str] = &[
    "timeout",
    "rate",
    "size",
    "URL",
    "address",
    "network",
    "number",
    "regular",
    "level",
    "name",
    "initial",
    "lane_lease",
    "time zone",
    "weekday",
    "month",
    "url",
];

fn form_only(key: &Key, value: &str) -> bool {
    let form = || {
        FORM_ONLY
            .iter()
            .any(|form| key.kind.contains(form) || key.name == *form)
    };
    let text = value.contains('\'') && !value.contains("x =");
    // Only the parser checks ranges of sizes and the conditions of an exception.
    (text && form())
        || (key.name == "max_body" && !value.starts_with('-'))
        || (key.name == "unless" && value == "{}")
        || (key.kind == "table of numbers" && value.contains('\''))
}

/// Serde accepts a list for a table, its items in the order of the keys. The schema does not allow that.
fn positional(key: &Key, value: &str) -> bool {
    key.kind.starts_with("table ") && value.starts_with('[')
}

/// The errors that the schema reports for each instance.
fn complaints(instances: &[Value]) -> Vec<Vec<String>> {
    let mut python = Command::new(venv().join("bin/python"))
        .arg(root().join("tests/schema/judge.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("no Python environment: run tests/setup");
    let question = json!({ "schema": schema(), "instances": instances }).to_string();
    let mut stdin = python.stdin.take().unwrap();
    stdin.write_all(question.as_bytes()).unwrap();
    drop(stdin);
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    let complaints: Vec<Vec<String>> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        complaints.len(),
        instances.len(),
        "one list of errors for each instance"
    );
    complaints
}

/// Every key of every table with every value: the schema accepts what the parser accepts, and rejects what the parser
/// rejects, except for the forms named above.
#[test]
#[ignore = "needs jsonschema: tests/run"]
fn the_schema_and_the_parser_agree_about_every_value() {
    let tables = tables();
    let mut tried = Vec::new();
    // The files of `server.tls` and `ca_file` are read at once, and there are none here.
    for place in PLACES.iter().filter(|place| place.2 != "server.tls") {
        // The keys that all kinds have in common are tried with the first kind.
        let common = place.1.is_empty() || ["intelepeer", "console"].contains(&place.1);
        let own = |key: &&Key| {
            common
                || tables
                    .iter()
                    .any(|table| table.kind.is_some() && table.keys.contains(key))
        };
        let not_a_file = |key: &&Key| key.name != "ca_file";
        for key in keys(&tables, place).into_iter().filter(own).filter(not_a_file) {
            let own = key
                .kind
                .split('`')
                .skip(1)
                .step_by(2)
                .map(|word| format!("'{word}'"));
            for value in VALUES.iter().map(|value| (*value).to_owned()).chain(own) {
                tried.push((place, key, value));
            }
        }
    }
    assert!(tried.len() > 10_000, "{}", tried.len());
    let texts: Vec<toml::Table> = tried
        .iter()
        .map(|(place, key, value)| with(place, &key.name, value))
        .collect();
    let instances: Vec<Value> = texts
        .iter()
        .map(|text| serde_json::to_value(text).unwrap())
        .collect();
    let mut disputes = BTreeSet::new();
    for (((place, key, value), text), against) in tried.iter().zip(&texts).zip(complaints(&instances)) {
        let (config, mut problems) = read(text);
        if problems.any_error() {
            let excused = form_only(key, value) || value.contains("env");
            if against.is_empty() && !excused {
                disputes.insert(format!("{}.{} = {value} is wrong: {problems}", place.2, key.name));
            }
        } else if !positional(key, value)
            && !against.is_empty()
            && Plan::compile(config, None, &mut problems).is_some()
        {
            disputes.insert(format!(
                "{}.{} = {value} is right, but: {against:?}",
                place.2, key.name
            ));
        }
    }
    assert!(disputes.is_empty(), "{disputes:#?}");
}

#[test]
#[ignore = "needs jsonschema: tests/run"]
fn the_schema_accepts_every_valid_configuration() {
    let example = fs::read_to_string(root().join("config.example.toml")).unwrap();
    let doubts = fs::read_to_string(root().join("tests/fixtures/config/doubts.toml")).unwrap();
    let mut texts = vec![example, example_in_full(), doubts, BASE.to_owned()];
    texts.extend(PLACES.iter().map(|place| format!("{}\n{BASE}", place.3)));
    let instances: Vec<Value> = texts.iter().map(|text| json_of(text)).collect();
    for (text, against) in texts.iter().zip(complaints(&instances)) {
        assert!(against.is_empty(), "{against:#?}\n{text}");
    }
}

#[test]
#[ignore = "needs jsonschema: tests/run"]
fn the_schema_rejects_invalid_configurations() {
    let mut wrong = vec![
        ("nothing at all", String::new()),
        ("an unknown table", format!("[sever]\n{BASE}")),
        (
            "an unknown key",
            format!("[server]\nlisen = '127.0.0.1:1'\n{BASE}"),
        ),
        (
            "a wrong type",
            format!("[server]\nmax_connections = 'many'\n{BASE}"),
        ),
        (
            "a bad duration",
            format!("[store]\nretain = '90 dollars'\n{BASE}"),
        ),
        ("a bad size", format!("[server]\nmax_body = 'large'\n{BASE}")),
        (
            "an unknown kind",
            format!("[destination.x]\nkind = 'pigeon'\n{BASE}"),
        ),
        ("no kind", format!("[destination.x]\n{BASE}")),
        (
            "another kind's key",
            format!("[destination.x]\nkind = 'console'\nroom = '!a:b'\n{BASE}"),
        ),
        ("a missing key", format!("[smtp.x]\nport = 25\n{BASE}")),
        ("a bad name", format!("[smtp.'a b']\nhost = 'x'\n{BASE}")),
        (
            "a route in single brackets",
            format!("[route]\ndeliver = []\n{BASE}"),
        ),
        (
            "a secret in two places",
            format!("[admin]\ntoken = {{ env = 'A', file = 'b' }}\n{BASE}"),
        ),
    ];
    for name in ["destinations", "routes", "settings", "sources", "tables"] {
        let text = fs::read_to_string(root().join(format!("tests/fixtures/config/{name}.toml"))).unwrap();
        wrong.push((name, text));
    }
    let instances: Vec<Value> = wrong.iter().map(|(_, text)| json_of(text)).collect();
    for ((name, _), against) in wrong.iter().zip(complaints(&instances)) {
        assert!(!against.is_empty(), "{name} is accepted");
    }
}

/// groff warns about unknown requests, fonts and characters.
fn groff(page: &Path) {
    let output = Command::new("groff")
        .args(["-ww", "-man", "-Tutf8", "-z"])
        .arg(page)
        .output();
    let output = output.expect("no groff: run tests/setup");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.is_empty(),
        "{}: {said}",
        page.display()
    );
}

#[test]
#[ignore = "needs groff: tests/run"]
fn the_manual_pages_are_complete_and_valid() {
    let folder = tempfile::tempdir().unwrap();
    print(&["man", "--out", folder.path().to_str().unwrap()]);
    let pages: Vec<PathBuf> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(pages.len() > 20, "{pages:?}");
    pages.iter().for_each(|page| groff(page));
    let configuration = fs::read_to_string(folder.path().join("smsbridge.toml.5")).unwrap();
    assert_eq!(configuration, print(&["man", "smsbridge.toml"]));
    for key in tables().iter().flat_map(|table| &table.keys) {
        assert!(
            configuration.contains(&format!(".TP\n\\fB{}\\fR (", key.name)),
            "{}",
            key.name
        );
    }
}

fn json_of(text: &str) -> Value {
    serde_json::to_value(table(text)).unwrap()
}

fn schema() -> Value {
    serde_json::from_str(&print(&["check", "--schema"])).unwrap()
}

/// The values that are tried for every key, besides those that its type names.
const VALUES: &[&str] = &[
    "''",
    "'x'",
    "'a b'",
    "'10s'",
    "'0s'",
    "'5'",
    "'1h 30m'",
    "'1.5h'",
    "'2weeks'",
    "'11m'",
    "'5x'",
    "'forever'",
    "'64KiB'",
    "'64 kb'",
    "'1.5M'",
    "'64 x'",
    "'1/s'",
    "'1e2/h'",
    "'1/w'",
    "'127.0.0.1:8080'",
    "'[::1]:80'",
    "'127.0.0.1'",
    "'10.0.0.0/8'",
    "'2001:db8::1'",
    "'https://x.example/'",
    "'ftp://x.example/'",
    "'a@b.example'",
    "'A <a@b.example>'",
    "'+13035550100'",
    "'(303) 555-0100'",
    "'1-1234'",
    "'57-MyCompany'",
    "'+1303*'",
    "'*'",
    "'screen'",
    "'info'",
    "'smsbridge=debug'",
    "'{{ text }}'",
    "'/a/b'",
    "'/a/../b'",
    "'!a:b'",
    "-1",
    "0",
    "1",
    "64",
    "65",
    "65535",
    "65536",
    "65537",
    "1.5",
    "true",
    "false",
    "[]",
    "['x']",
    "['']",
    "['10s']",
    "['a@b.example']",
    "['+1303*']",
    "['1-1234']",
    "['10.0.0.0/8']",
    "['screen']",
    "[1]",
    "[['x']]",
    "{}",
    "{ x = 'x' }",
    "{ x = 1 }",
    "{ initial = '1s' }",
    "{ max = '2h' }",
    "{ env = 'X' }",
    "[{ env = 'X' }]",
    "{ env = 'X', file = 'x' }",
    "{ env = 1 }",
    "{ X-A = { env = 'X' } }",
];
