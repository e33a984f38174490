//! The schema of the configuration and its manual page, held against what the parser accepts.
//!
//! `docs/configuration.md` is the one table of keys; schema and manual are made from it. What is left to show is
//! that the parser knows the same keys and accepts the same values, and these tests ask both.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use smsbridge::config::reference::{Key, Table, tables};
use smsbridge::config::{Config, Outside, Problems, Purpose};
use smsbridge::plan::Plan;

mod places;

use places::{PLACES, Place, VALUES};

use crate::config::{BASE, example_in_full};
use crate::servers::synapse::venv;

/// Types and keys whose strings the schema takes for right by their form, where the parser looks closer.
const FORM_ONLY: &[&str] = &[
    "timeout", "rate", "size", "URL", "address", "network", "number", "regular", "level", "name", "initial",
];

fn form_only(key: &Key, value: &str) -> bool {
    let form = || {
        FORM_ONLY
            .iter()
            .any(|form| key.kind.contains(form) || key.name == *form)
    };
    let text = value.contains('\'') && !value.contains("x =");
    // Ranges of sizes and the conditions of an exception are the parser's, too.
    (text && form())
        || (key.name == "max_body" && !value.starts_with('-'))
        || (key.name == "unless" && value == "{}")
        || (key.kind == "table of numbers" && value.contains('\''))
}

/// Serde takes a list for a table, its items for the keys in their order. The schema need not advertise that.
fn positional(key: &Key, value: &str) -> bool {
    key.kind.starts_with("table ") && value.starts_with('[')
}

fn table(text: &str) -> toml::Table {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn json_of(text: &str) -> Value {
    serde_json::to_value(table(text)).unwrap()
}

/// The text of `place` within a whole configuration, with this key added or replaced.
fn with(place: &Place, key: &str, value: &str) -> toml::Table {
    let mut whole = table(&format!("{}\n{BASE}", place.3));
    let mut at = &mut whole;
    for step in place.2.split('.').filter(|step| *step != "0") {
        at = match at.get_mut(step).unwrap() {
            toml::Value::Array(items) => items[0].as_table_mut().unwrap(),
            value => value.as_table_mut().unwrap(),
        };
    }
    at.insert(
        key.to_owned(),
        table(&format!("value = {value}"))["value"].clone(),
    );
    whole
}

/// What the parser finds in one table at a time.
fn read(whole: &toml::Table) -> (Config, Problems) {
    let text = toml::to_string(whole).unwrap();
    let outside = Outside::of([("X", "https://x.example/")]);
    let path = Path::new("/nowhere/config.toml");
    Config::read(&text, path, Purpose::Check, &outside)
        .unwrap_or_else(|problems| panic!("{problems}: {text}"))
}

fn schema() -> Value {
    smsbridge::config::schema().unwrap()
}

/// What the schema has against each of these.
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
    serde_json::from_slice(&output.stdout).unwrap()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn print(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_smsbridge"))
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The keys that the page gives for a place.
fn keys<'t>(tables: &'t [Table], place: &Place) -> Vec<&'t Key> {
    let of_place =
        |table: &&Table| table.name == place.0 && table.kind.as_deref().is_none_or(|kind| kind == place.1);
    tables
        .iter()
        .filter(of_place)
        .flat_map(|table| &table.keys)
        .collect()
}

/// What the parser lists as known when it meets something unknown.
fn known(whole: &toml::Table, complaint: &str) -> BTreeSet<String> {
    let (_, problems) = read(whole);
    let all: Vec<&str> = problems
        .all()
        .iter()
        .map(|problem| problem.message.as_str())
        .collect();
    let found = all.iter().find(|message| message.contains(complaint));
    let message = found.unwrap_or_else(|| panic!("{complaint}: {all:?}"));
    let (_, list) = message.split_once("(known here: ").unwrap();
    list.trim_end_matches(')')
        .split(", ")
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_schema_in_the_documentation_is_the_one_that_is_printed() {
    let kept = fs::read_to_string(root().join("docs/smsbridge.schema.json")).unwrap();
    let printed = print(&["check", "--schema"]);
    assert!(
        kept == printed,
        "run: smsbridge check --schema > docs/smsbridge.schema.json"
    );
}

#[test]
fn the_page_has_every_key_that_the_parser_knows_and_no_other() {
    let tables = tables();
    let mut seen = BTreeSet::new();
    for place in PLACES {
        let documented: BTreeSet<String> = keys(&tables, place).iter().map(|key| key.name.clone()).collect();
        assert_eq!(
            known(&with(place, "qqq", "1"), "unknown key"),
            documented,
            "{place:?}"
        );
        seen.insert((place.0, place.1));
    }
    for table in tables.iter().filter(|table| !table.keys.is_empty()) {
        let kind = table.kind.as_deref();
        let tried = seen
            .iter()
            .any(|(name, tried)| *name == table.name && kind.is_none_or(|kind| kind == *tried));
        assert!(tried, "no place for {} {:?}", table.name, table.kind);
    }
}

#[test]
fn the_page_has_every_table_and_every_kind_that_the_parser_knows() {
    let tables = tables();
    let tops = tables
        .iter()
        .map(|table| table.name.split('.').next().unwrap().to_owned());
    assert_eq!(
        known(&table(&format!("[qqq]\n{BASE}")), "unknown table"),
        tops.collect()
    );
    for place in PLACES.iter().filter(|place| !place.1.is_empty()) {
        let kinds = tables.iter().filter(|table| table.name == place.0);
        let kinds: BTreeSet<String> = kinds.filter_map(|table| table.kind.clone()).collect();
        assert_eq!(
            known(&with(place, "kind", "'qqq'"), "unknown kind"),
            kinds,
            "{place:?}"
        );
    }
}

/// Every key of every table with every value: what the parser accepts the schema accepts, and what the parser
/// refuses the schema refuses, but for the forms named above.
#[test]
fn the_schema_and_the_parser_are_of_one_mind_about_every_value() {
    let tables = tables();
    let mut tried = Vec::new();
    // The files of `server.tls` and `ca_file` are read at once, and there are none here.
    for place in PLACES.iter().filter(|place| place.2 != "server.tls") {
        // What all kinds have in common is tried with the first of them.
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
fn every_default_is_a_right_value_and_the_one_that_is_used() {
    let schema = schema();
    let plain = Config::read(BASE, Path::new("/c.toml"), Purpose::Serve, &Outside::default())
        .unwrap()
        .0;
    let mut checked = 0;
    for place in PLACES.iter().filter(|place| place.2 == place.0) {
        let properties = schema["$defs"][place.0]["properties"].as_object().unwrap();
        for (key, default) in properties
            .iter()
            .filter_map(|(key, property)| Some((key, property.get("default")?)))
        {
            let text = toml::to_string(&with(place, key, &default.to_string())).unwrap();
            let (written, problems) =
                Config::read(&text, Path::new("/c.toml"), Purpose::Serve, &Outside::default()).unwrap();
            assert!(!problems.any_error(), "{problems}");
            let shown = |config: &Config| {
                format!(
                    "{:?} {:?} {:?} {:?}",
                    config.server, config.store, config.log, config.retry
                )
            };
            assert_eq!(shown(&written), shown(&plain), "{}.{key}", place.2);
            checked += 1;
        }
    }
    assert!(checked >= 15, "{checked}");
}

#[test]
fn the_schema_accepts_every_configuration_that_is_right() {
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
fn the_schema_refuses_what_is_wrong() {
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

/// groff complains of requests it does not know, of fonts and of characters.
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
fn the_manual_pages_are_whole_and_clean() {
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
