//! The page, in a real Chromium driven by `tests/browser/drive.py`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use serde_json::json;

use crate::admin::{TOKEN, admin, page_of};
use crate::bridge::{Bridge, CODE};
use crate::servers::recorder::{Received, Recorder, Reply};

/// A program that `tests/setup` installs.
pub fn installed(path: &str) -> PathBuf {
    let usual = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/test-env/venv")
        .join(path);
    let found = if Path::new(path).is_absolute() {
        PathBuf::from(path)
    } else {
        usual
    };
    assert!(found.exists(), "{} is missing: run tests/setup", found.display());
    found
}

/// Accepts every message, but some only at the second attempt.
fn accepts_some_late() -> impl Fn(&Received) -> Reply + Send + Sync + 'static {
    let seen = Mutex::new(Vec::<String>::new());
    move |request| {
        let text = request.json()["text"].as_str().unwrap_or_default().to_owned();
        let mut seen = seen.lock().unwrap();
        let is_new = !seen.contains(&text);
        seen.push(text.clone());
        match is_new {
            // Long enough to be seen pending: without `Retry-After` the delay could be a tenth of `initial`.
            true if text.contains("later") => Reply::new(503, "come back later").with("retry-after", "2"),
            true if text.contains("refuse") => Reply::new(422, "this message is not wanted"),
            _ => Reply::new(200, "taken"),
        }
    }
}

fn configuration(crm: &str) -> String {
    admin()
        + &format!(
            r#"
[retry]
initial = "2s"
[destination.screen]
kind = "console"
[destination.crm]
kind = "webhook"
url = "{crm}"
[destination.pager]
kind = "webhook"
url = "http://127.0.0.1:9/page"
timeout = "2s"
[contacts]
"+13035550100" = "Front door"
"+13035550142" = "Ada Moreno"
"+13038675309" = "Main line"
[[route]]
name = "spam"
message = '(?i)you have won'
deliver = []
[[route]]
name = "urgent"
message = '(?i)\b(urgent|down)\b'
deliver = ["pager", "crm"]
template = "{{{{ from_name }}}}: {{{{ text }}}}"
continue = true
[[route]]
name = "customers"
to = ["+13038675309", "1-1234", "*8000", "+1720*", "+1721*", "+1722*", "+1723*", "+1724*", "+1725*", "+1726*"]
from = ["+1303555*"]
unless = {{ from = ["+13035550100"] }}
deliver = ["crm"]
[routing]
unmatched = ["screen"]
"#
        )
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: tests/run"]
async fn the_page_shows_and_does_everything_in_a_browser() {
    let crm = Recorder::start(accepts_some_late()).await;
    let bridge = Bridge::start(&configuration(&crm.url("/sms")));
    let screenshots = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
    let given = json!({
        "page": page_of(&bridge),
        "inbound": bridge.url("/inbound/intelepeer"),
        "code": CODE,
        "links": Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/links.json"),
        "token": TOKEN,
        "chromium": installed("/usr/bin/chromium"),
        "screenshots": screenshots,
    });
    let python = installed("bin/python");
    let driven = tokio::task::spawn_blocking(move || {
        Command::new(python)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/drive.py"))
            .arg(given.to_string())
            .output()
            .unwrap()
    });
    let driven = driven.await.unwrap();
    let (said, complained) = (
        String::from_utf8_lossy(&driven.stdout),
        String::from_utf8_lossy(&driven.stderr),
    );
    assert!(
        driven.status.success(),
        "the browser's test failed (Playwright missing: run tests/setup)\n{said}\n{complained}"
    );
    assert!(said.lines().count() > 8, "too little was tried:\n{said}");
}
