//! A store with history that is in the database alone, and with pending messages that are in the database and in
//! the log.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::ledger::{nowhere, stored, unmatched};
use crate::bridge::refid;
use crate::bridge::{Bridge, wait_for};
use crate::servers::recorder::Recorder;
use crate::servers::recorder::webhook;

/// The number of messages of each kind.
pub const EACH: usize = 40;

/// The messages that a receiver gets, by id: provider id, sender and body.
pub type Messages = BTreeMap<String, (String, String, String)>;

pub struct Aged {
    pub bridge: Bridge,
    pub pending: Messages,
    pub history: Messages,
}

/// The destinations: Everything is delivered to `old`, and nothing to `crm`.
pub fn config(old: &Recorder, crm: &str, unmatched_to: &str) -> String {
    webhook("old", old, "") + crm + &unmatched(&[unmatched_to])
}

impl Aged {
    /// Creates one and stops its daemon.
    pub fn new(old: &Recorder) -> Self {
        let mut bridge = Bridge::start(&config(old, &nowhere("crm"), "old"));
        let history = post(&bridge, 0);
        wait_for("the delivered ones", || {
            (bridge.status()["messages"]["delivered"] == EACH).then_some(())
        });
        bridge.stop();
        bridge.configure(&config(old, &nowhere("crm"), "crm"));
        bridge.run();
        let pending = post(&bridge, EACH);
        bridge.stop();
        // A new log contains the pending messages and nothing else.
        std::fs::remove_dir_all(bridge.store().join("log")).unwrap();
        bridge.run();
        bridge.logged("the store's log was renewed");
        bridge.admin("POST", "/findings/acknowledge", "").unwrap();
        bridge.stop();
        // sled writes its snapshot when it opens an existing database.
        bridge.run();
        bridge.stop();
        Self {
            bridge,
            pending,
            history,
        }
    }

    /// How many of the delivered messages a store still has. They must equal what was accepted.
    pub fn history_in(&self, bridge: &Bridge) -> usize {
        let stored = stored(bridge);
        let told = |message: &Value| {
            let field = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
            (field("id"), (field("provider_id"), field("from"), field("text")))
        };
        let there: Vec<_> = stored
            .values()
            .map(told)
            .filter(|(id, _)| self.history.contains_key(id))
            .collect();
        for (id, told) in &there {
            assert_eq!(
                self.history.get(id),
                Some(told),
                "a damaged message came back as if it were good"
            );
        }
        there.len()
    }
}

fn post(bridge: &Bridge, from: usize) -> Messages {
    let mut messages = Messages::new();
    for number in from..from + EACH {
        let (sender, text) = (
            format!("+13035550{number:03}"),
            format!("{number} {}", "é".repeat(number * number / 2)),
        );
        let (status, body) = bridge.post_message(&refid(number), &sender, &text);
        assert_eq!(status, 200);
        messages.insert(
            body["id"].as_str().unwrap().to_owned(),
            (refid(number), sender, text),
        );
    }
    messages
}

/// Waits until all recoverable history is restored.
pub fn recovered(bridge: &Bridge) {
    wait_for("the history", || {
        (!bridge.store().join("recovering").exists()).then_some(())
    });
}

/// All files below a folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

pub fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(file, target).unwrap();
    }
}
