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

/// A secret that is long enough.
const LONG: &str = "0123456789abcdef";

fn write_secret(path: &Path, secret: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, secret).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn token(path: &Path, purpose: Purpose, outside: &Outside) -> Result<(String, Vec<String>), Vec<String>> {
    let loaded = load(path, purpose, outside, None).map_err(|problems| lines(&problems))?;
    let tokens = loaded.plan.admin.token.unwrap();
    let tokens: Vec<&str> = tokens
        .all()
        .iter()
        .map(smsbridge::model::secret::Secret::reveal)
        .collect();
    Ok((tokens.join(" "), lines(&loaded.warnings)))
}

#[test]
fn secrets_are_read_from_environment_files_and_credentials() {
    let admin = "[admin]\nlisten = '127.0.0.1:1'\n\
                 token = [{ file = 'token' }, { env = 'TOKEN' }, { credential = 'token' }, 'fedcba9876543210']\n";
    let (folder, path) = folder(&format!("{admin}{BASE}"));
    let credentials = folder.path().join("credentials");
    fs::create_dir(&credentials).unwrap();
    write_secret(&folder.path().join("token"), &format!("{LONG}\n\n"), 0o600);
    write_secret(&credentials.join("token"), &format!("{LONG}\r\n"), 0o644);
    let outside = Outside::of([
        ("TOKEN", LONG),
        ("CREDENTIALS_DIRECTORY", credentials.to_str().unwrap()),
    ]);
    assert_eq!(
        token(&path, Purpose::Serve, &outside),
        Ok((format!("{LONG}\n {LONG} {LONG} fedcba9876543210"), vec![]))
    );
}

#[test]
fn credentials_come_from_the_unit_s_folder_or_one_by_one() {
    let admin =
        |name: &str| format!("[admin]\nlisten = '127.0.0.1:1'\ntoken = {{ credential = '{name}' }}\n{BASE}");
    let credentials = tempfile::tempdir().unwrap();
    // What systemd makes of LoadCredential=smsbridge:FOLDER, LoadCredential=single:FILE and SetCredential=smsbridge:none.
    let files = [
        ("smsbridge_code", "a"),
        ("single", "b"),
        ("smsbridge_single", "not this one"),
        ("smsbridge", "none"),
    ];
    for (name, content) in files {
        fs::write(credentials.path().join(name), content).unwrap();
    }
    let outside = Outside::of([("CREDENTIALS_DIRECTORY", credentials.path().to_str().unwrap())]);
    for (name, secret) in [
        ("code", Some("a")),
        ("single", Some("b")),
        ("smsbridge", None),
        ("other", None),
    ] {
        let (_folder, path) = folder(&admin(name));
        let found = token(&path, Purpose::Serve, &outside);
        assert_eq!(
            found.as_ref().ok().map(|found| found.0.as_str()),
            secret,
            "{name}: {found:?}"
        );
    }
    let problems = problems(&admin("other"), &outside);
    assert!(
        problems[0].contains("put it into /etc/smsbridge/credentials/other"),
        "{problems:?}"
    );
}

#[test]
fn a_secret_file_readable_by_others_is_a_warning() {
    let (folder, path) = folder(&format!(
        "[admin]\nlisten = '127.0.0.1:1'\ntoken = {{ file = 'token' }}\n{BASE}"
    ));
    write_secret(&folder.path().join("token"), LONG, 0o640);
    let warning =
        "3:9: warning: admin.token: the secret file token can be used by others (mode 640): chmod 600 token";
    assert_eq!(
        token(&path, Purpose::Serve, &Outside::default()),
        Ok((LONG.to_owned(), vec![warning.to_owned()]))
    );
}

#[test]
fn an_invalid_secret_is_an_error() {
    let (folder, path) = folder(&format!(
        "[admin]\nlisten = '127.0.0.1:1'\ntoken = {{ file = 'token' }}\n{BASE}"
    ));
    let file = folder.path().join("token");
    for (content, error) in [
        ("", "is empty"),
        ("\n", "is empty"),
        (&"x".repeat(65537), "is larger than 64KiB"),
    ] {
        write_secret(&file, content, 0o600);
        let errors = token(&path, Purpose::Serve, &Outside::default()).unwrap_err();
        assert_eq!(
            errors,
            [format!("3:9: error: admin.token: the secret file token {error}")]
        );
    }
    let wrong = format!("[admin]\ntoken = {{ credential = '../token' }}\n{BASE}");
    let problems = problems(&wrong, &Outside::of([("CREDENTIALS_DIRECTORY", "/")]));
    assert!(
        problems[0].contains("is not the name of a credential"),
        "{problems:?}"
    );
}

#[test]
fn only_serving_needs_credentials_and_routing_needs_no_secret() {
    let text =
        format!("[admin]\nlisten = '127.0.0.1:1'\ntoken = [{{ credential = 't' }}, {{ env = 'T' }}]\n{BASE}");
    let (_folder, path) = folder(&text);
    let outside = Outside::of([("T", LONG)]);
    assert!(token(&path, Purpose::Serve, &outside).unwrap_err()[0].contains("only systemd can read it"));
    let warnings = token(&path, Purpose::Check, &outside).unwrap().1;
    assert!(
        warnings.len() == 1 && warnings[0].contains("3:10: warning"),
        "{warnings:?}"
    );
    assert_eq!(
        token(&path, Purpose::Route, &Outside::default()).unwrap().1,
        [""; 0]
    );
}

#[test]
fn a_credential_is_read_from_the_file_named_in_the_unit() {
    let (folder, path) = folder(&format!(
        "[admin]\nlisten = '127.0.0.1:1'\ntoken = {{ credential = 'token' }}\n{BASE}"
    ));
    let files = |elsewhere: &[&str]| CredentialFiles {
        folder: Some(folder.path().join("credentials")),
        elsewhere: elsewhere.iter().map(ToString::to_string).collect(),
        ..CredentialFiles::default()
    };
    let outside = Outside::default().with_credentials(files(&[]));
    for purpose in [Purpose::Check, Purpose::Serve] {
        assert_eq!(
            token(&path, purpose, &outside).unwrap_err(),
            [
                "3:9: error: admin.token: credential `token` does not exist: write the secret into the file \
              credentials/token (mode 600), and restart the service"
            ]
        );
    }
    fs::create_dir(folder.path().join("credentials")).unwrap();
    write_secret(&folder.path().join("credentials/token"), LONG, 0o600);
    assert_eq!(
        token(&path, Purpose::Check, &outside),
        Ok((LONG.to_owned(), vec![]))
    );
    let encrypted = Outside::default().with_credentials(files(&["token"]));
    let warnings = token(&path, Purpose::Check, &encrypted).unwrap().1;
    assert!(
        warnings.len() == 1 && warnings[0].contains("was not checked"),
        "{warnings:?}"
    );
}

/// A folder with a main file and others below it.
fn files(main: &str, others: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
    let (folder, path) = folder(main);
    for (name, text) in others {
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    (folder, path)
}

#[test]
fn included_files_become_one_configuration() {
    let main = format!(
        "include = ['conf.d/*.toml', 'more.toml']\n{BASE}\n[[route]]\nname = 'first'\nfrom = ['1-1234']\n\
         deliver = ['desk']\n[contacts]\n'1-1234' = 'Bank'\n"
    );
    let route = |name: &str| format!("[[route]]\nname = '{name}'\nfrom = ['1-1235']\ndeliver = ['desk']\n");
    let ten = format!(
        "[source.second]\nkind = 'intelepeer'\nsecret = {{ file = 'code' }}\n{}\n[contacts]\n'1-1235' = 'Shop'\n",
        route("third")
    );
    let two = format!("[destination.desk]\nkind = 'console'\n{}", route("second"));
    let (folder, path) = files(
        &main,
        &[
            ("conf.d/20-ten.toml", &ten),
            ("conf.d/10-two.toml", &two),
            ("conf.d/.hidden.toml", "nonsense"),
            ("conf.d/note.txt", "nonsense"),
            ("more.toml", "[store]\npath = 'data'\n"),
        ],
    );
    write_secret(&folder.path().join("conf.d/code"), LONG, 0o600);
    let loaded = load(&path, Purpose::Serve, &Outside::default(), None);
    let loaded = loaded.unwrap_or_else(|problems| panic!("{problems}"));
    let warnings = lines(&loaded.warnings);
    let dead = |line: &String| line.contains("can never match");
    assert!(
        !warnings.is_empty() && warnings.iter().all(dead),
        "{}",
        loaded.warnings
    );
    let names: Vec<&str> = loaded
        .plan
        .routes
        .all()
        .iter()
        .map(|route| route.name.as_str())
        .collect();
    assert_eq!(names, ["first", "second", "third"]);
    assert_eq!(loaded.plan.sources.len(), 2);
    assert_eq!(loaded.plan.contacts.len(), 2);
    assert_eq!(loaded.plan.store.path, folder.path().join("data"));
}

#[test]
fn each_problem_of_an_included_file_names_it() {
    let main = format!("include = ['conf.d/*.toml', 'missing.toml', 'x/*/y.toml', 'none/*.toml']\n{BASE}");
    let other = "include = []\n[server]\nlistn = 1\n[destination.spare]\nkind = 'console'\n\
                 [[route]]\ndeliver = ['scren']\n[routing]\nunmatched = []\n";
    let (_folder, path) = files(&main, &[("conf.d/a.toml", other)]);
    let problems = load(&path, Purpose::Serve, &Outside::default(), None)
        .err()
        .unwrap();
    let found = lines(&problems);
    for expected in [
        "1:29: error: include: missing.toml: no such file",
        "1:45: error: include: a `*` may stand only in the name of the file",
        "1:59: warning: include: folder none does not exist",
        "conf.d/a.toml:1:1: error: include: an included file cannot include others",
        "conf.d/a.toml:3:1: error: server.listn: unknown key",
        "conf.d/a.toml:4:14: error: destination.spare: is already defined at config.toml:8",
        "conf.d/a.toml:7:12: error: route.route-1.deliver: unknown destination `scren`; did you mean `screen`? \
         (defined: screen at config.toml:6",
        "conf.d/a.toml:8:1: error: routing: is already defined at config.toml:10",
    ] {
        assert!(
            found.iter().any(|line| line.starts_with(expected)),
            "{expected}\n{}",
            found.join("\n")
        );
    }
    assert_eq!(found.len(), 8, "{}", found.join("\n"));

    let broken = format!("include = ['a.toml']\n{BASE}");
    let (_folder, path) = files(
        &broken,
        &[("a.toml", "[server]\nlisten = \"127.0.0.1:1\nx = 1\n")],
    );
    let problems = load(&path, Purpose::Serve, &Outside::default(), None)
        .err()
        .unwrap();
    assert_eq!(
        lines(&problems),
        ["a.toml:2:10: error: not TOML: the string that begins on this line has no closing quote"]
    );
}

#[test]
fn a_reload_reads_included_files_again() {
    let rest = "[destination.screen]\nkind = \"console\"\n[routing]\nunmatched = [\"screen\"]\n";
    let mut bridge = Bridge::start(rest);
    let folder = bridge.folder().to_owned();
    fs::create_dir(folder.join("conf.d")).unwrap();
    let main = format!("include = [\"conf.d/*.toml\"]\n{}{rest}", head());
    fs::write(folder.join("config.toml"), main).unwrap();
    let reloaded = |other: &str| {
        fs::write(folder.join("conf.d/a.toml"), other).unwrap();
        bridge.command(&["reload"])
    };
    let route = "[[route]]\nname = \"desk\"\ndeliver = [\"desk\"]\nmessage = \"x\"\n";
    let (status, out, err) = reloaded(&format!("[destination.desk]\nkind = \"console\"\n{route}"));
    assert_eq!(
        (status, out.as_str()),
        (0, "reloaded:\n  destination.desk added\n  route.desk added\n"),
        "{err}"
    );
    let (status, _, err) = reloaded(route);
    let words = "conf.d/a.toml:3:12: route.desk.deliver: unknown destination `desk`";
    assert!(status == 2 && err.contains(words), "{status} {err}");
    assert!(bridge.stop().0.success());
}

#[test]
fn no_message_repeats_a_secret() {
    let outside = Outside::of([("CANARY", "canary-7")]);
    let canary = "{ env = 'CANARY' }";
    let wrong = [
        format!("[server]\nlisten = {canary}\nmax_body = {canary}\nheader_timeout = {canary}"),
        format!("[server]\npublic_url = {canary}\ntrusted_proxies = [{canary}]\nmax_connections = {canary}"),
        format!(
            "[log]\nlevel = {canary}\nformat = {canary}\n[store]\nretain = {canary}\nmin_free = {canary}"
        ),
        format!("[smtp.x]\nhost = 'h'\nport = {canary}\nsecurity = {canary}"),
        format!(
            "[destination.x]\nkind = 'console'\nrate = {canary}\nconcurrency = {canary}\ntimeout = {canary}"
        ),
        "[server]\nmax_body = 'canary-7x'\nmax_connections = 'canary-7'".to_owned(),
    ];
    for text in wrong {
        let problems = problems(&format!("{text}\n{BASE}"), &outside);
        let errors = problems.iter().filter(|line| line.contains("error")).count();
        assert!(errors >= 2, "{problems:?}");
        let told = problems
            .iter()
            .any(|line| line.contains("canary-7") && !line.contains("canary-7x"));
        assert!(!told, "{problems:?}");
    }
}

#[test]
fn a_header_named_file_is_a_header() {
    let text = "[destination.crm]\nkind = 'webhook'\nurl = 'http://127.0.0.1:1/'\nheaders = { file = 'x' }\n\
                [[route]]\ndeliver = ['crm']\n";
    assert_eq!(problems(&format!("{text}{BASE}"), &Outside::default()), [""; 0]);
}

/// The changes that a reload from one configuration to another reports.
fn changes(before: &str, after: &str) -> Vec<String> {
    plan(after)
        .changes_from(&plan(before))
        .iter()
        .map(ToString::to_string)
        .filter(|line| !is_place(line))
        .collect()
}

/// Each configuration is in its own folder, and so are the default paths of store and socket.
fn is_place(line: &str) -> bool {
    line.starts_with("store.path") || line.starts_with("admin.socket")
}

#[test]
fn a_reload_says_what_changed() {
    let route = |name: &str, more: &str| {
        format!("[[route]]\nname = '{name}'\nfrom = ['1-1234']\ndeliver = []\n{more}")
    };
    let none: [&str; 0] = [];
    assert_eq!(changes(BASE, &format!("# hello\n{BASE}")), none);
    assert_eq!(
        changes(BASE, &format!("{BASE}{}", route("a", ""))),
        ["route.a added"]
    );
    assert_eq!(
        changes(&format!("{BASE}{}", route("a", "")), BASE),
        ["route.a removed"]
    );
    assert_eq!(
        changes(
            &format!("{BASE}{}{}", route("a", ""), route("b", "")),
            &format!("{BASE}{}{}", route("b", ""), route("a", ""))
        ),
        ["route reordered"]
    );
    assert_eq!(
        changes(
            &format!("{BASE}{}", route("a", "")),
            &format!("{BASE}{}", route("a", "continue = true"))
        ),
        ["route.a changed"]
    );
    assert_eq!(
        changes(
            BASE,
            &format!("[server]\nlisten = '127.0.0.1:1'\nmax_body = '1KiB'\n{BASE}")
        ),
        [
            "server.listen changed, which needs a restart",
            "server.max_body changed"
        ]
    );
    assert_eq!(
        changes(
            BASE,
            &format!(
                "{}\n[contacts]\n1-1234 = 'Bank'\n",
                BASE.replace("change-me", "changed")
            )
        ),
        ["source.carrier changed", "contacts changed"]
    );
    assert_eq!(
        changes(BASE, &BASE.replace(", \"spare\"", "")),
        ["routing.unmatched changed"]
    );
}

#[test]
fn an_unchanged_destination_keeps_running_across_a_reload() {
    let before = plan(BASE);
    let text = BASE.replace("[destination.spare]", "[destination.spare]\nconcurrency = 2");
    let after = read(&text, Purpose::Serve, &Outside::default(), Some(&before))
        .ok()
        .unwrap()
        .plan;
    assert!(Arc::ptr_eq(
        &before.destinations["screen"],
        &after.destinations["screen"]
    ));
    assert!(!Arc::ptr_eq(
        &before.destinations["spare"],
        &after.destinations["spare"]
    ));
    let text = format!("[retry]\ninitial = '1s'\n{BASE}");
    let patient = read(&text, Purpose::Serve, &Outside::default(), Some(&before))
        .ok()
        .unwrap()
        .plan;
    assert!(
        !Arc::ptr_eq(&before.destinations["screen"], &patient.destinations["screen"]),
        "its give_up_after changed"
    );
}

#[test]
fn a_reload_that_removes_a_used_fallback_is_rejected() {
    let text = format!(
        "{BASE}\n[destination.ops]\nkind = 'console'\nfallback = 'spare'\n[[route]]\ndeliver = ['ops']"
    );
    let before = plan(&text);
    let without = text
        .replace("[destination.spare]\n    kind = \"console\"", "")
        .replace(", \"spare\"", "");
    let problems = read(&without, Purpose::Serve, &Outside::default(), Some(&before))
        .err()
        .unwrap();
    let lines = lines(&problems);
    assert!(
        lines.len() == 1 && lines[0].contains("fallback: unknown destination `spare`"),
        "{lines:?}"
    );
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
fn ten_thousand_routes_are_read_and_decided() {
    use std::fmt::Write as _;
    let mut text = BASE.to_owned();
    for route in 0..10_000 {
        let _ = writeln!(text, "[[route]]\nto = ['+1303{route:07}']\ndeliver = ['spare']");
    }
    let config = Config::read(&text, Path::new("c.toml"), Purpose::Serve, &Outside::default());
    let (config, mut problems) = config.unwrap_or_else(|problems| panic!("{problems}"));
    let plan = Plan::compile(config, None, &mut problems).unwrap_or_else(|| panic!("{problems}"));
    let (from, to) = (
        Number::parse("1-1234").unwrap(),
        Number::parse("+13030009999").unwrap(),
    );
    let source = "carrier".parse().unwrap();
    let subject = Subject {
        source: &source,
        from: &from,
        to: &to,
        text: "it is down",
        keyword: None,
    };
    assert_eq!(plan.routes.decide(&subject).routes[0].as_str(), "route-10000");
}

#[test]
fn a_replaced_ca_file_takes_effect_at_a_reload() {
    let mail = "[smtp.m]\nhost = \"localhost\"\nca_file = \"ca.pem\"\n\
                [destination.desk]\nkind = \"email\"\nsmtp = \"m\"\nfrom = \"a@b.example\"\nto = [\"c@d.example\"]\n";
    let (folder, path) = folder(&format!(
        "{mail}{}",
        BASE.replace("\"spare\"]", "\"spare\", \"desk\"]")
    ));
    let load = |previous: Option<&Plan>| {
        certificate(folder.path(), 90);
        fs::rename(folder.path().join("cert.pem"), folder.path().join("ca.pem")).unwrap();
        load(&path, Purpose::Serve, &Outside::default(), previous)
            .unwrap_or_else(|problems| panic!("{problems}"))
            .plan
    };
    let before = load(None);
    let after = load(Some(&before));
    let changes: Vec<String> = after
        .changes_from(&before)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(changes, ["destination.desk changed"]);
}

/// Templates that would overflow the parser's stack.
#[test]
fn a_template_that_nests_too_deep_is_an_error_with_its_place() {
    let mut bridge = Bridge::start(&bridge_with("{{ text }}"));
    let lines = fs::read_to_string(bridge.folder().join("config.toml")).unwrap();
    let line = lines
        .lines()
        .position(|line| line.starts_with("template = "))
        .unwrap()
        + 1;
    for (what, template) in [
        ("filters", format!("{{{{ text{} }}}}", "|upper".repeat(2_700))),
        (
            "many filters",
            format!("{{{{ text{} }}}}", "|upper".repeat(16_000)),
        ),
        ("not", format!("{{{{ {}text }}}}", "not ".repeat(4_000))),
        ("minus", format!("{{{{ {}1 }}}}", "-".repeat(16_000))),
        ("attributes", format!("{{{{ text{} }}}}", ".a".repeat(8_000))),
        ("items", format!("{{{{ text{} }}}}", "[0]".repeat(5_000))),
        ("calls", format!("{{{{ text{} }}}}", "()".repeat(8_000))),
        ("or", format!("{{{{ 1{} }}}}", " or 1".repeat(3_000))),
        ("sums", format!("{{{{ 1{} }}}}", "+1".repeat(8_000))),
        ("tests", format!("{{{{ 1{} }}}}", " is odd".repeat(2_000))),
        ("else", format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(1_300))),
        (
            "elif",
            format!("{{% if 1 %}}{}{{% endif %}}", "{% elif 1 %}".repeat(1_300)),
        ),
        (
            "itself",
            "{% set n = namespace() %}{% set n.x = n %}{{ n }}".to_owned(),
        ),
        ("indent", "{{ text|indent(1000000000) }}".to_owned()),
    ] {
        bridge.configure(&bridge_with(&template));
        let route = [
            "route",
            "--from",
            "+13035550100",
            "--to",
            "+13038675309",
            "--message",
            "x",
            "--render",
        ];
        for command in [&["check"][..], &["reload"], &route] {
            let (status, _, said) = bridge.command(command);
            let place = format!("config.toml:{line}:12: destination.screen.template: ");
            assert!(
                status == 2 && said.contains(&place),
                "{what}, {command:?}: {status} {said}"
            );
        }
    }
    assert_eq!(bridge.text("A", "+13035550100", "hello").0, 200);
    assert!(bridge.stop().0.success());
}

/// Rejecting a small file must not take gigabytes of memory, nor a minute.
#[test]
fn a_small_configuration_that_asks_for_much_is_rejected() {
    let routes = |line: &dyn Fn(usize) -> String| {
        let routes = (0..200).map(|number| format!("[[route]]\ndeliver = ['screen']\n{}\n", line(number)));
        format!("{BASE}\n{}", routes.collect::<String>())
    };
    let many = |table: &str, count: usize| {
        (0..count)
            .map(|number| table.replace("NUMBER", &number.to_string()))
            .collect::<String>()
    };
    for (what, text, words) in [
        (
            "expressions",
            routes(&|number| format!("message = 'x{{100000}}{number}'")),
            "route.route-9.message: the regular expressions of all routes are too large together",
        ),
        (
            "templates",
            routes(&|number| format!("template = '{number}{}'", "x".repeat(12_000))),
            "template: all templates together are longer than 2 MiB",
        ),
        (
            "routes",
            many("[[route]]\ndeliver = []\n", 20_001) + BASE,
            "route: more than 20000 routes",
        ),
        (
            "destinations",
            many("[destination.dNUMBER]\nkind = 'console'\n", 5_001) + BASE,
            "destination: more than 5000 tables [destination.NAME]",
        ),
        ("a long file", "#".repeat(4 << 20) + BASE, "is larger than 4MiB"),
        ("deep lists", format!("a = {}", "[".repeat(100_000)), "recurs"),
        ("deep tables", format!("[{}a]", "a.".repeat(100_000)), "recurs"),
        ("deep keys", format!("{}a = 1", "a.".repeat(100_000)), "recurs"),
        (
            "a long name",
            format!("{} = 1\n{BASE}", "a".repeat(1_000_000)),
            "unknown table (known here",
        ),
        (
            "a long value",
            BASE.replace("console", &"c".repeat(1_000_000)),
            "unknown kind `ccc",
        ),
    ] {
        let problems = read(&text, Purpose::Check, &Outside::default(), None)
            .err()
            .expect(what);
        assert!(problems.to_string().contains(words), "{what}: {problems}");
        assert!(problems.to_string().len() < 200_000, "{what}");
    }
}

fn bridge_with(template: &str) -> String {
    format!(
        "[destination.screen]\nkind = \"console\"\ntemplate = '{template}'\n[routing]\nunmatched = [\"screen\"]\n"
    )
}

/// Kinds of lines that are wrong, fifty thousand of each: the head, then the line with its number.
#[test]
fn fifty_thousand_invalid_lines_give_a_hundred_errors_and_a_count() {
    let head = |table: &str| format!("{BASE}\n{table}\n");
    let many = |line: &dyn Fn(usize) -> String| (0..50_000).map(line).collect::<String>();
    for (what, text) in [
        (
            "unknown tables",
            many(&|number| format!("[sourc{number}]\n")) + BASE,
        ),
        (
            "unknown keys",
            head("[server]") + &many(&|number| format!("listn{number} = 1\n")),
        ),
        (
            "contacts",
            head("[contacts]") + &many(&|number| format!("x{number} = 1\n")),
        ),
        (
            "routes",
            head("") + &many(&|number| format!("[[route]]\nname = 'r{number}'\nto = [{number}]\n")),
        ),
        (
            "destinations",
            head("") + &many(&|number| format!("[destination.d{number}]\nkind = 'emial'\n")),
        ),
        (
            "names",
            format!(
                "{BASE}\n[[route]]\ndeliver = [{}]\n",
                many(&|number| format!("'scren{number}',"))
            ),
        ),
        (
            "items",
            format!(
                "{BASE}\n[[route]]\ndeliver = []\nto = [{}]\n",
                many(&|number| format!("{number},"))
            ),
        ),
    ] {
        let started = std::time::Instant::now();
        let problems = read(&text, Purpose::Check, &Outside::default(), None)
            .err()
            .unwrap();
        let took = started.elapsed();
        println!("{what}: {took:?}: {}", problems.unlisted().unwrap_or_default());
        assert!(problems.all().len() <= 200, "{what}: {}", problems.all().len());
        assert!(problems.unlisted().is_some(), "{what}");
        assert!(took.as_secs() < 60, "{what}: {took:?}");
    }
}
