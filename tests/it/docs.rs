//! The documentation: its configurations are checked, its commands and programs are run.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;
use smsbridge::config::{Outside, Problems, Purpose};
use smsbridge::plan::load;
use smsbridge::{destination, source};

use crate::bridge::{Bridge, wait_for};
use crate::fixtures::{build, message, outbound};
use crate::pages::{Block, block, blocks_of, page, root};
use crate::servers::recorder::{Recorder, Reply};

/// Every piece of code of the README and of `docs/*.md`.
fn blocks() -> Vec<Block> {
    let mut files = vec!["README.md".to_owned()];
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        files.extend(name.ends_with(".md").then(|| format!("docs/{name}")));
    }
    files.iter().flat_map(|file| blocks_of(file)).collect()
}

/// Table headers under which a piece of a configuration may be valid, and the rest of the file.
const HEADERS: &[&str] = &[
    "",
    "[source.intelepeer]\n",
    "[admin]\n",
    "[source.intelepeer]\nverify = 'hmac'\n",
];
const REST: &str = "
    [source.intelepeer]
    kind = 'intelepeer'
    secret = 'x'
    [smtp.main]
    host = 'localhost'
    [destination.ops]
    kind = 'console'
    [destination.desk]
    kind = 'console'
    [destination.screen]
    kind = 'console'
    [routing]
    unmatched = ['ops', 'desk', 'screen']
";

/// Adds the missing tables of `rest`. A destination or server that exists is complete.
fn fill(text: &mut toml::Table, rest: &toml::Table) {
    for (key, value) in rest {
        match (text.get_mut(key), value) {
            (None, _) => drop(text.insert(key.clone(), value.clone())),
            (Some(toml::Value::Table(own)), toml::Value::Table(rest))
                if !own.contains_key("kind") && !own.contains_key("host") =>
            {
                fill(own, rest);
            }
            _ => {}
        }
    }
}

fn checked(text: &str, header: &str) -> Result<(), String> {
    let mut table: toml::Table = format!("{header}{text}")
        .parse()
        .map_err(|error| format!("{error}"))?;
    fill(&mut table, &REST.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    fs::write(&path, toml::to_string(&table).unwrap()).unwrap();
    let errors = |problems: &Problems| problems.to_string();
    load(&path, Purpose::Route, &Outside::default(), None)
        .map(drop)
        .map_err(|problems| errors(&problems))
}

/// Asserts that a block is valid under one of the headers, as a whole or line by line: some show alternatives for a key.
fn assert_right(block: &Block, text: &str) {
    let whole: Vec<String> = HEADERS
        .iter()
        .filter_map(|header| checked(text, header).err())
        .collect();
    if whole.len() < HEADERS.len() {
        return;
    }
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let right = !line.starts_with('[') && HEADERS.iter().any(|header| checked(line, header).is_ok());
        assert!(right, "{}: `{line}` in\n{text}\n{}", block.file, whole.join("\n"));
    }
}

/// Activates the examples in comments.
fn uncommented(text: &str) -> String {
    let meant = |line: &str| match line.strip_prefix("# ") {
        Some(example)
            if example
                .split_once(" = ")
                .is_some_and(|(key, _)| !key.contains(' ')) =>
        {
            example.to_owned()
        }
        _ => line.to_owned(),
    };
    text.lines().map(meant).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_configuration_in_the_documentation_is_valid() {
    let blocks = blocks();
    let toml: Vec<&Block> = blocks.iter().filter(|block| block.language == "toml").collect();
    assert!(toml.len() >= 20, "only {} were found", toml.len());
    for block in toml {
        assert_right(block, &block.text);
        assert_right(block, &uncommented(&block.text));
    }
}

#[test]
fn the_check_of_the_documentation_finds_a_wrong_configuration() {
    for text in [
        "[destination.ops]\nkind = 'slak'",
        "colour = 1",
        "[smtp.main]\nhost = 'x'\nport = 'x'",
    ] {
        assert!(
            HEADERS.iter().all(|header| checked(text, header).is_err()),
            "{text}"
        );
    }
}

#[test]
fn no_command_of_the_documentation_changes_the_reader_s_umask() {
    let shells: Vec<Block> = blocks()
        .into_iter()
        .filter(|block| ["sh", "bash", "console"].contains(&block.language.as_str()))
        .collect();
    assert!(shells.len() > 20, "only {} were found", shells.len());
    for Block { file, text, .. } in shells {
        let changes = |line: &str| line.trim_start_matches(['$', '#', ' ']).starts_with("umask");
        assert!(!text.lines().any(changes), "{file}: {text}");
    }
}

#[test]
fn the_readme_s_first_lines_name_every_carrier_and_destination() {
    let readme = page("README.md");
    // Reads up to the first list.
    let first = readme.split("\n* ").next().unwrap().to_lowercase();
    assert!(first.lines().count() < 20, "{first}");
    let sources = source::KINDS.iter().map(|kind| kind.name);
    for kind in sources.chain(destination::KINDS.iter().map(|kind| kind.name)) {
        let word = if kind == "email" { "e-mail" } else { kind };
        assert!(first.contains(word), "{kind}: {first}");
    }
}

#[test]
fn the_package_and_the_tarball_have_both_manual_pages() {
    let made = tempfile::tempdir().unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_smsbridge"))
        .args(["man", "--out"])
        .arg(made.path())
        .status()
        .unwrap();
    assert!(status.success());
    let sections: std::collections::BTreeSet<String> = fs::read_dir(made.path())
        .unwrap()
        .map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.rsplit('.').next().unwrap().to_owned()
        })
        .collect();
    assert_eq!(sections, ["1", "5"].map(str::to_owned).into());
    for section in sections {
        let asset = format!("[\"target/stage/man/*.{section}\", \"usr/share/man/man{section}/\"");
        assert!(page("Cargo.toml").contains(&asset), "{asset}");
        let copied = format!("target/stage/man/*.{section} ");
        assert!(page("packaging/tarball").contains(&copied), "{copied}");
    }
}

/// Every link to another page, and to a heading in it, leads somewhere.
#[test]
fn no_link_in_the_documentation_is_broken() {
    let mut checked = 0;
    let files: std::collections::BTreeSet<String> = blocks().into_iter().map(|block| block.file).collect();
    for file in &files {
        let text = page(file);
        let folder = Path::new(file).parent().unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if path.is_empty() {
                PathBuf::from(file)
            } else {
                folder.join(path)
            };
            assert!(root().join(&path).exists(), "{file}: {target}");
            if !anchor.is_empty() {
                let anchors: Vec<String> = page(path.to_str().unwrap())
                    .lines()
                    .filter_map(anchor_of)
                    .collect();
                assert!(
                    anchors.iter().any(|known| known == anchor),
                    "{file}: {target}: {anchors:?}"
                );
            }
            checked += 1;
        }
    }
    assert!(checked > 20, "{checked}");
}

/// The anchor of a heading.
fn anchor_of(line: &str) -> Option<String> {
    let heading = line.trim_start_matches('#');
    let heading = (heading.len() < line.len())
        .then(|| heading.strip_prefix(' '))??
        .to_lowercase();
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    Some(kept.map(|c| if c == ' ' { '-' } else { c }).collect())
}

#[tokio::test]
async fn the_command_for_microsoft_365_asks_for_a_token_and_prints_it() {
    let server = Recorder::answering(Reply::new(200, r#"{"access_token": "the token"}"#)).await;
    let script = block("docs/destinations.md", "sh", "client_credentials")
        .replace("https://login.microsoftonline.com", &server.url(""));
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("m365-secret"), "a+b~c\n").unwrap();
    let output = tokio::process::Command::new("sh")
        .args(["-c", &script])
        .env("CREDENTIALS_DIRECTORY", folder.path())
        .output()
        .await
        .unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "the token\n");
    let asked = &server.received()[0];
    assert!(
        asked.path.ends_with("/TENANT/oauth2/v2.0/token"),
        "{}",
        asked.path
    );
    assert!(asked.body.ends_with("&client_secret=a%2Bb~c"), "{}", asked.body);
}

/// Calls the page's function `verified` and returns its result.
fn verified(secret: &str, headers: &serde_json::Value, body: &str) -> bool {
    let program = block("docs/destinations.md", "python", "def verified")
        + "\nimport json, sys\n\
        secret, headers, body = json.load(sys.stdin)\nprint(verified(secret, headers, body.encode()))\n";
    let mut python = Command::new("python3")
        .args(["-c", &program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let question = json!([secret, headers, body]).to_string();
    python
        .stdin
        .take()
        .unwrap()
        .write_all(question.as_bytes())
        .unwrap();
    let output = python.wait_with_output().unwrap();
    match String::from_utf8(output.stdout).unwrap().trim() {
        "True" => true,
        "False" => false,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn the_signature_guide_accepts_only_valid_signatures() {
    for secret in ["whsec_c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IQ==", "some words"] {
        let server = Recorder::answering(Reply::new(204, "")).await;
        let config = json!({ "url": server.url("/sms"), "secret": ["another one", secret] });
        let destination = build("webhook", config, None).unwrap();
        destination.deliver(&outbound(&message("hello ☎"))).await.unwrap();
        let received = &server.received()[0];
        let mut headers = json!({});
        for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
            headers[name] = json!(received.header(name));
        }
        assert!(verified(secret, &headers, &received.body));
        assert!(!verified(
            secret,
            &headers,
            &received.body.replace("hello", "hullo")
        ));
        assert!(!verified("not the secret", &headers, &received.body));
        let mut late = headers.clone();
        late["webhook-timestamp"] = json!("1790000000");
        assert!(!verified(secret, &late, &received.body));
    }
}

/// The commands in a section, between backquotes and after `$`.
fn commands(section: &str) -> Vec<String> {
    let prompts = section.lines().filter_map(|line| line.strip_prefix("$ "));
    let spans = section.split('`').skip(1).step_by(2);
    let all = prompts
        .chain(spans)
        .filter_map(|command| command.strip_prefix("smsbridge "));
    all.map(str::to_owned).collect()
}

#[test]
fn every_command_for_a_message_that_did_not_arrive_works() {
    let page = page("docs/operations.md");
    let section = page.split("## A message did not arrive\n").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let commands = commands(section);
    assert!(commands.len() >= 20, "{commands:?}");

    let bridge = Bridge::start(
        "[destination.crm]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:1/\"\n[destination.screen]\nkind = \"console\"\n\
         [routing]\nunmatched = [\"crm\", \"screen\"]\n",
    );
    let (status, body) = bridge.post_message("ABCDEF1234567890ABCDEF1234567890", "+13035550100", "hello");
    assert_eq!(status, 200);
    let id = body["id"].as_str().unwrap();
    wait_for("the console", || (!bridge.console().is_empty()).then_some(()));
    let url = bridge.url("/inbound/intelepeer");
    for command in commands {
        // These need an account; the tests of `intelepeer` cover them.
        if command.starts_with("intelepeer ") {
            continue;
        }
        let mut arguments = words(&command.replace("ID", id).replace("NAME", "screen"));
        match arguments[0].as_str() {
            "simulate" => arguments.extend(["--url".to_owned(), url.clone()]),
            "delivery" if command.contains("--destination") && !command.contains(" list ") => {
                arguments.push("--yes".to_owned())
            }
            "route" => arguments = words(&command.replace("--from N --to N", "--from 1-1234 --to 1-1234")),
            _ => {}
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (code, out, err) = bridge.command(&arguments);
        assert_eq!(code, 0, "{command}: {out}{err}");
    }
}

fn words(command: &str) -> Vec<String> {
    command
        .split_whitespace()
        .map(|word| word.trim_matches('\'').to_owned())
        .collect()
}
