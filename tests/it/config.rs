//! The configuration: every problem with its place, secrets, the example, reloads, and dry runs.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use smsbridge::config::{Config, CredentialFiles, Outside, Problems, Purpose};
use smsbridge::model::message::Timestamp;
use smsbridge::model::number::Number;
use smsbridge::plan::{DryRun, Loaded, Plan, load};
use smsbridge::routing::Subject;

use crate::bridge::{Bridge, head};
use crate::places::{BASE, example_in_full};
use crate::reference::tables;
use crate::servers::certificate::certificate;

mod include;
mod limits;
mod reload;
mod secrets;

/// A secret that is long enough.
const LONG: &str = "0123456789abcdef";

fn write_secret(path: &Path, secret: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, secret).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A folder with this configuration in it.
fn folder(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    fs::write(&path, text).unwrap();
    (folder, path)
}

fn read(
    text: &str,
    purpose: Purpose,
    outside: &Outside,
    previous: Option<&Plan>,
) -> Result<Loaded, Problems> {
    let (_folder, path) = folder(text);
    load(&path, purpose, outside, previous)
}

fn plan(text: &str) -> Plan {
    let loaded = read(text, Purpose::Serve, &Outside::default(), None);
    loaded.unwrap_or_else(|problems| panic!("{problems}")).plan
}

/// The messages with their places, without the file's name.
fn lines(problems: &Problems) -> Vec<String> {
    let file = format!("{}:", problems.file().display());
    let folder = format!("{}/", problems.file().parent().unwrap_or(Path::new("")).display());
    problems
        .all()
        .iter()
        .map(|problem| problems.line(problem).replacen(&file, "", 1).replace(&folder, ""))
        .collect()
}

fn problems(text: &str, outside: &Outside) -> Vec<String> {
    match read(text, Purpose::Serve, outside, None) {
        Ok(loaded) => lines(&loaded.warnings),
        Err(problems) => lines(&problems),
    }
}

/// TextBee repeats a message for a month.
#[test]
fn provider_ids_are_kept_as_long_as_any_source_needs_them() {
    let sources = "[source.phone]\nkind = 'generic'\npreset = 'textbee'\nsecret = 'a-long-enough-secret'\n\
                   [source.box]\nkind = 'generic'\nfrom = 'from'\ntext = 'text'\nbasic_auth = { username = 'u', password = 'p' }\n";
    let rest = "[destination.screen]\nkind = 'console'\n[routing]\nunmatched = ['screen']\n";
    let days = |count: u64| std::time::Duration::from_secs(count * 86400);
    assert_eq!(plan(&format!("{sources}{rest}")).dedup_window_max(), days(35));
    let store = "[store]\ndedup_window = '40d'\n";
    assert_eq!(
        plan(&format!("{store}{sources}{rest}")).dedup_window_max(),
        days(40)
    );
}

/// Beside each `NAME.toml`, `NAME.problems` has the problems that `check` reports.
#[test]
fn every_problem_is_reported_at_its_place() {
    let folder = root().join("tests/fixtures/config");
    let mut checked = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let found = match load(&path, Purpose::Check, &Outside::default(), None) {
            Ok(loaded) => lines(&loaded.warnings),
            Err(problems) => lines(&problems),
        };
        let expected = fs::read_to_string(path.with_extension("problems")).unwrap_or_default();
        assert_eq!(found.join("\n"), expected.trim_end(), "{}", path.display());
        checked += 1;
    }
    assert!(checked >= 7, "only {checked} fixtures were found");
}

#[test]
fn the_example_runs_unchanged() {
    let text = fs::read_to_string(root().join("config.example.toml")).unwrap();
    let loaded =
        read(&text, Purpose::Serve, &Outside::default(), None).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(lines(&loaded.warnings), [""; 0]);
    assert_eq!(
        loaded
            .plan
            .sources
            .keys()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["intelepeer"]
    );
    assert_eq!(
        loaded
            .plan
            .destinations
            .keys()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["screen"]
    );
}

#[test]
fn every_example_is_valid() {
    let loaded = read(&example_in_full(), Purpose::Route, &Outside::default(), None);
    let plan = loaded.unwrap_or_else(|problems| panic!("{problems}")).plan;
    assert!(plan.destinations.len() >= 7 && plan.sources.len() >= 2 && plan.routes.all().len() >= 2);
}

#[test]
fn the_example_names_every_key() {
    let example = fs::read_to_string(root().join("config.example.toml")).unwrap();
    let tables = tables();
    let keys: Vec<&str> = tables
        .iter()
        .flat_map(|table| &table.keys)
        .map(|key| key.name.as_str())
        .collect();
    assert!(keys.len() > 90, "{keys:?}");
    for key in keys {
        let mentions = [format!("{key} = "), format!("{key}]"), format!("{key}.")];
        let is_whole =
            |at: usize| !example[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '-');
        let named = mentions
            .iter()
            .any(|mention| example.match_indices(mention).any(|(at, _)| is_whole(at)));
        assert!(named, "config.example.toml lacks `{key}`");
    }
}

#[test]
fn the_error_for_a_missing_file_says_how_to_name_another() {
    let error = load(
        Path::new("/nowhere/config.toml"),
        Purpose::Serve,
        &Outside::default(),
        None,
    )
    .err()
    .unwrap();
    assert_eq!(
        error.to_string(),
        "/nowhere/config.toml: error: no such file; name another with --config PATH or $SMSBRIDGE_CONFIG, or begin \
         with config.example.toml"
    );
}

#[test]
fn the_configuration_is_searched_in_this_order() {
    let outside = Outside::of([("SMSBRIDGE_CONFIG", "/a.toml")]);
    let default = Path::new("/c.toml");
    assert_eq!(
        outside.config_path(Some(Path::new("/b.toml")), default),
        Path::new("/b.toml")
    );
    assert_eq!(outside.config_path(None, default), Path::new("/a.toml"));
    let unset = Outside::default().config_path(None, default);
    assert!([Path::new("config.toml"), default].contains(&unset.as_path()));
}

#[test]
fn defaults_follow_the_service_manager() {
    let (_folder, path) = folder(BASE);
    let alone = load(&path, Purpose::Serve, &Outside::default(), None)
        .ok()
        .unwrap()
        .plan;
    let data = path.with_file_name("smsbridge-data");
    assert_eq!(
        (alone.store.path, alone.admin.socket),
        (data.clone(), data.join("admin.sock"))
    );
    let outside = Outside::of([
        ("STATE_DIRECTORY", "/var/lib/x:/other"),
        ("RUNTIME_DIRECTORY", "/run/x"),
    ]);
    let managed = load(&path, Purpose::Serve, &outside, None).ok().unwrap().plan;
    assert_eq!(managed.store.path, Path::new("/var/lib/x"));
    assert_eq!(managed.admin.socket, Path::new("/run/x/admin.sock"));
}

#[test]
fn a_header_named_file_is_a_header() {
    let text = "[destination.crm]\nkind = 'webhook'\nurl = 'http://127.0.0.1:1/'\nheaders = { file = 'x' }\n\
                [[route]]\ndeliver = ['crm']\n";
    assert_eq!(problems(&format!("{text}{BASE}"), &Outside::default()), [""; 0]);
}

#[test]
fn a_destination_inherits_missing_retry_keys() {
    let text = BASE.replace(
        "[destination.spare]",
        "[destination.spare]\nretry = { max = '10m' }\nrate = '30/m'",
    );
    let plan = plan(&format!("[retry]\ninitial = '1m'\n{text}"));
    let spare = &plan.destinations["spare"];
    let seconds =
        [spare.policy.initial, spare.policy.max, spare.policy.give_up_after].map(|wait| wait.as_secs());
    assert_eq!(seconds, [60, 600, 3 * 86400]);
    assert_eq!(spare.rate, Some(0.5));
    assert_eq!(plan.destinations["screen"].policy.max.as_secs(), 3600);
}

#[test]
fn an_invalid_table_is_not_reported_again_where_it_is_used() {
    let text = BASE.replace(
        "kind = \"console\"\n    [destination.spare]",
        "kind = \"consol\"\n    [destination.spare]",
    );
    let problems = problems(&text, &Outside::default());
    assert!(
        problems.len() == 1 && problems[0].contains("did you mean `console`?"),
        "{problems:?}"
    );
}

#[test]
fn a_dry_run_shows_the_route_of_a_message_and_why() {
    let text = r#"
        [contacts]
        "+13035550100" = "Front door"
        [[route]]
        name = "bank"
        from = ["1-1234"]
        deliver = ["spare"]
        [[route]]
        name = "alarm"
        message = '(?<what>fire)'
        deliver = ["screen"]
        template = "{{ match.what|upper }} {{ from_name }}"
        [[route]]
        deliver = []
    "#;
    let plan = plan(&format!("{BASE}{text}"));
    let (from, to) = (
        Number::parse("303-555-0100").unwrap(),
        Number::parse("+13038675309").unwrap(),
    );
    let source = "carrier".parse().unwrap();
    let run = DryRun {
        source: &source,
        from: &from,
        to: &to,
        text: "fire!",
        at: Timestamp(0),
        render: true,
    };
    let explanation = plan.explain(&run);
    let shown = explanation.to_text();
    assert!(
        shown.starts_with(
            "route bank     no: from: +13035550100 is not `1-1234`\n\
             route alarm    matched\n\
             route route-3  not reached\n\
             → screen  console, by route alarm\n"
        ),
        "{shown}"
    );
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!(json["routes"][0]["outcome"], "failed");
    assert_eq!(
        json["routes"][2],
        serde_json::json!({"route": "route-3", "outcome": "not_reached"})
    );
    assert_eq!(json["destinations"][0]["route"], "alarm");
    assert_eq!(json["from_name"], "Front door");
}

#[test]
fn a_store_has_the_keys_of_its_kind_only() {
    let error = |store: &str| {
        let problems = problems(&format!("[store]\n{store}\n{BASE}"), &Outside::default());
        problems.first().cloned().unwrap_or_default()
    };
    for (store, expected) in [
        (
            "pool = 8",
            "store.pool: belongs to `kind = \"postgres\"`, and this store has `kind = \"sled\"`",
        ),
        (
            "kind = 'postgres'\nurl = 'postgres://sms@localhost/sms'\npath = 'x'",
            "store.path: belongs to `kind = \"sled\"`, and this store has `kind = \"postgres\"`",
        ),
        ("kind = 'postgres'", "missing key `url`"),
        (
            "kind = 'postgres'\nurl = 'mysql://sms@localhost/sms'",
            "store.url: expected a URL: postgres://",
        ),
        (
            "kind = 'postgres'\nurl = 'postgres://sms@localhost/sms'\nsynchronous_commit = 'off'",
            "store.synchronous_commit",
        ),
        (
            "kind = 'postgres'\nurl = 'postgres://sms@localhost/sms'\nlane_lease = '1s'",
            "must be from 2s to 5m",
        ),
        (
            "kind = 'postgres'\nurl = 'postgres://sms@localhost/sms'\npool = 1",
            "must be from 2 to 100",
        ),
        (
            "kind = 'postgres'\nurl = 'postgres://sms@db.example/sms'",
            "the identity of the server is not verified",
        ),
        ("kind = 'sqlite'", "unknown kind `sqlite`"),
    ] {
        let found = error(store);
        assert!(found.contains(expected), "{store}: {found}");
    }
    for sound in [
        "kind = 'sled'",
        "kind = 'postgres'\nurl = 'postgres://sms@db/sms?sslmode=verify-full'",
    ] {
        assert_eq!(error(sound), "", "{sound}");
    }
    let plan = plan(&format!(
        "[store]\nkind = 'postgres'\nurl = 'postgres://sms:hunter2@localhost/sms'\n{BASE}"
    ));
    let database = plan.store.database.as_ref().unwrap();
    assert_eq!((database.pool, database.lane_lease.as_secs()), (8, 10));
    assert_eq!(plan.store.place(), "PostgreSQL on localhost:5432");
    assert!(!format!("{:?}", plan.store).contains("hunter2"));
}
