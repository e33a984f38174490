//! A valid configuration for each table, and helpers to change it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::reference::{Key, Table};
use smsbridge::config::{Config, Outside, Problems, Purpose};

/// A table of the page, the kind it is for, its path in a configuration, and a configuration in which it is valid.
pub type Place = (&'static str, &'static str, &'static str, &'static str);

/// Every table of every kind; several times where one configuration cannot have all keys.
pub const PLACES: &[Place] = &[
    ("server", "", "server", "[server]"),
    (
        "server.tls",
        "",
        "server.tls",
        "[server]\ntls = { certificate = 'x', key = 'x' }",
    ),
    ("admin", "", "admin", "[admin]\ntoken = 'x'"),
    ("store", "sled", "store", "[store]"),
    (
        "store",
        "postgres",
        "store",
        "[store]\nkind = 'postgres'\nurl = 'postgres://x@localhost/x'",
    ),
    ("log", "", "log", "[log]"),
    ("operator", "", "operator", "[operator]"),
    ("retry", "", "retry", "[retry]"),
    ("routing", "", "routing", ""),
    ("time_interval.NAME", "", "time_interval.x", "[time_interval.x]"),
    ("route", "", "route.0", "[[route]]\ndeliver = []"),
    (
        "route.unless",
        "",
        "route.0.unless",
        "[[route]]\ndeliver = []\n[route.unless]\nto = ['1-1234']",
    ),
    (
        "source.NAME",
        "intelepeer",
        "source.x",
        "[source.x]\nkind = 'intelepeer'\nsecret = 'x'",
    ),
    (
        "source.NAME",
        "generic",
        "source.x",
        "[server]\npublic_url = 'https://x.example'\n[source.x]\nkind = 'generic'\nfrom = 'from'\ntext = 'text'",
    ),
    (
        "source.NAME",
        "bandwidth",
        "source.x",
        "[source.x]\nkind = 'bandwidth'\nbasic_auth = { username = 'x', password = 'x' }",
    ),
    (
        "source.NAME",
        "plivo",
        "source.x",
        "[server]\npublic_url = 'https://x.example'\n[source.x]\nkind = 'plivo'\nauth_token = 'x'",
    ),
    (
        "source.NAME",
        "sinch",
        "source.x",
        "[source.x]\nkind = 'sinch'\nsecret = 'x'",
    ),
    (
        "source.NAME",
        "android-sms-gateway",
        "source.x",
        "[source.x]\nkind = 'android-sms-gateway'\nsigning_key = 'x'",
    ),
    (
        "source.NAME",
        "vonage",
        "source.x",
        "[source.x]\nkind = 'vonage'\napi = 'sms'\nsignature_secret = 'x'",
    ),
    (
        "source.NAME",
        "aws-sns",
        "source.x",
        "[source.x]\nkind = 'aws-sns'\ntopic_arn = 'arn:aws:sns:us-east-1:1:x'",
    ),
    (
        "source.NAME.reply",
        "",
        "source.x.reply",
        "[source.x]\nkind = 'generic'\nfrom = 'from'\ntext = 'text'\nreply = {}",
    ),
    (
        "source.NAME.verify",
        "",
        "source.x.verify",
        "[server]\npublic_url = 'https://x.example'\n[source.x]\nkind = 'generic'\nfrom = 'from'\ntext = 'text'\nsecret = 'AAAA'\n\
         verify = { kind = 'hmac', header = 'x', parameter = 'x' }",
    ),
    (
        "source.NAME",
        "signalwire",
        "source.x",
        "[server]\npublic_url = 'https://x.example'\n[source.x]\nkind = 'signalwire'\nsigning_key = 'x'",
    ),
    (
        "source.NAME",
        "telnyx",
        "source.x",
        "[source.x]\nkind = 'telnyx'\npublic_key = 'A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg='",
    ),
    (
        "source.NAME",
        "twilio",
        "source.x",
        "[server]\npublic_url = 'https://x.example'\n[source.x]\nkind = 'twilio'\nauth_token = 'x'",
    ),
    (
        "source.NAME.basic_auth",
        "",
        "source.x.basic_auth",
        "[source.x]\nkind = 'intelepeer'\nsecret = 'x'\nbasic_auth = { username = 'x', password = 'x' }",
    ),
    (
        "source.NAME.hmac",
        "",
        "source.x.hmac",
        "[source.x]\nkind = 'intelepeer'\nsecret = 'x'\nverify = 'hmac'\nhmac = {}",
    ),
    (
        "source.NAME.catch_up",
        "",
        "source.x.catch_up",
        "[source.x]\nkind = 'twilio'\nauth_token = 'x'\ncatch_up = { account_sid = 'x' }",
    ),
    (
        "source.NAME.catch_up",
        "",
        "source.x.catch_up",
        "[source.x]\nkind = 'twilio'\nauth_token = 'x'\ncatch_up = { account_sid = 'x', api_key = 'x', api_secret = 'x' }",
    ),
    (
        "source.NAME.api",
        "",
        "source.x.api",
        "[source.x]\nkind = 'intelepeer'\nsecret = 'x'\napi = { username = 'x', password = 'x' }",
    ),
    (
        "source.NAME.api",
        "",
        "source.x.api",
        "[source.x]\nkind = 'intelepeer'\nsecret = 'x'\napi = { token = 'x' }",
    ),
    (
        "smtp.NAME",
        "",
        "smtp.x",
        "[smtp.x]\nhost = 'x'\n[destination.y]\nkind = 'email'\nsmtp = 'x'\nfrom = 'a@b.example'\nto = ['a@b.example']",
    ),
    (
        "smtp.NAME",
        "",
        "smtp.x",
        "[smtp.x]\nhost = 'x'\nusername = 'x'\npassword = 'x'\n[destination.y]\nkind = 'email'\nsmtp = 'x'\nfrom = 'a@b.example'\nto = ['a@b.example']",
    ),
    (
        "smtp.NAME",
        "",
        "smtp.x",
        "[smtp.x]\nhost = 'x'\nusername = 'x'\ntoken_command = ['x']\n[destination.y]\nkind = 'email'\nsmtp = 'x'\nfrom = 'a@b.example'\nto = ['a@b.example']",
    ),
    (
        "destination.NAME",
        "console",
        "destination.x",
        "[destination.x]\nkind = 'console'",
    ),
    (
        "retry",
        "",
        "destination.x.retry",
        "[destination.x]\nkind = 'console'\nretry = {}",
    ),
    (
        "destination.NAME.batch",
        "",
        "destination.x.batch",
        "[destination.x]\nkind = 'slack'\nwebhook_url = 'https://hooks.example/x'\nbatch = { max = 2 }",
    ),
    (
        "destination.NAME",
        "email",
        "destination.x",
        "[smtp.x]\nhost = 'x'\n[destination.x]\nkind = 'email'\nsmtp = 'x'\nfrom = 'a@b.example'\nto = ['a@b.example']",
    ),
    (
        "destination.NAME",
        "slack",
        "destination.x",
        "[destination.x]\nkind = 'slack'\nwebhook_url = 'https://x.example/'",
    ),
    (
        "destination.NAME",
        "slack",
        "destination.x",
        "[destination.x]\nkind = 'slack'\ntoken = 'x'\nchannel = 'C0'",
    ),
    (
        "destination.NAME",
        "matrix",
        "destination.x",
        "[destination.x]\nkind = 'matrix'\nwebhook_url = 'https://x.example/'",
    ),
    (
        "destination.NAME",
        "matrix",
        "destination.x",
        "[destination.x]\nkind = 'matrix'\nhomeserver = 'https://x.example'\nroom = '!a:b'\naccess_token = 'x'",
    ),
    (
        "destination.NAME",
        "teams",
        "destination.x",
        "[destination.x]\nkind = 'teams'\nwebhook_url = 'https://x.example/'",
    ),
    (
        "destination.NAME",
        "telegram",
        "destination.x",
        "[destination.x]\nkind = 'telegram'\ntoken = 'x'\nchat_id = '1'",
    ),
    (
        "destination.NAME",
        "discord",
        "destination.x",
        "[destination.x]\nkind = 'discord'\nwebhook_url = 'https://x.example/'",
    ),
    (
        "destination.NAME",
        "mattermost",
        "destination.x",
        "[destination.x]\nkind = 'mattermost'\nwebhook_url = 'https://x.example/'",
    ),
    (
        "destination.NAME",
        "mattermost",
        "destination.x",
        "[destination.x]\nkind = 'mattermost'\nurl = 'https://x.example'\ntoken = 'x'\nchannel_id = 'abcdefghijklmnopqrstuvwxyz'",
    ),
    (
        "destination.NAME",
        "google-chat",
        "destination.x",
        "[destination.x]\nkind = 'google-chat'\nwebhook_url = 'https://x.example/'",
    ),
    (
        "destination.NAME",
        "ntfy",
        "destination.x",
        "[destination.x]\nkind = 'ntfy'\nurl = 'https://x.example'\ntopic = 'x'",
    ),
    (
        "destination.NAME",
        "gotify",
        "destination.x",
        "[destination.x]\nkind = 'gotify'\nurl = 'https://x.example'\ntoken = 'x'",
    ),
    (
        "destination.NAME",
        "pushover",
        "destination.x",
        "[destination.x]\nkind = 'pushover'\ntoken = 'x'\nuser = 'x'",
    ),
    (
        "destination.NAME",
        "pagerduty",
        "destination.x",
        "[destination.x]\nkind = 'pagerduty'\nrouting_key = 'x'",
    ),
    (
        "destination.NAME",
        "webhook",
        "destination.x",
        "[destination.x]\nkind = 'webhook'\nurl = 'https://x.example/'",
    ),
];

pub fn table(text: &str) -> toml::Table {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The configuration of `place` with this key added or replaced.
pub fn with(place: &Place, key: &str, value: &str) -> toml::Table {
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

/// The problems that the parser reports, one table at a time.
pub fn read(whole: &toml::Table) -> (Config, Problems) {
    let text = toml::to_string(whole).unwrap();
    let outside = Outside::of([("X", "https://x.example/")]);
    let path = Path::new("/nowhere/config.toml");
    Config::read(&text, path, Purpose::Check, &outside)
        .unwrap_or_else(|problems| panic!("{problems}: {text}"))
}

/// The keys that the page gives for a place.
pub fn keys<'t>(tables: &'t [Table], place: &Place) -> Vec<&'t Key> {
    let of_place =
        |table: &&Table| table.name == place.0 && table.kind.as_deref().is_none_or(|kind| kind == place.1);
    tables
        .iter()
        .filter(of_place)
        .flat_map(|table| &table.keys)
        .collect()
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub fn print(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_smsbridge"))
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A valid configuration to add to.
pub const BASE: &str = r#"
    [source.carrier]
    kind = "intelepeer"
    secret = "change-me"
    [destination.screen]
    kind = "console"
    [destination.spare]
    kind = "console"
    [routing]
    unmatched = ["screen", "spare"]
"#;

/// The example with all commented-out keys (`#` without a space) active.
pub fn example_in_full() -> String {
    let text = fs::read_to_string(root().join("config.example.toml")).unwrap();
    let uncommented = |line: &str| match line.strip_prefix('#') {
        Some(example) if !example.is_empty() && !example.starts_with([' ', '#']) => example.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(uncommented).collect::<Vec<_>>().join("\n")
}
