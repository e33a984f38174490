//! Operations that one fault interrupts, and the checks afterwards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::aged::{Aged, EACH, config, copy, recovered};
use super::inject::{Counts, Injection, counted, variables};
use super::ledger::{deliveries, nowhere, stored};
use super::store_fixtures;
use crate::bridge::{Bridge, TIMEOUT, refid, try_http, wait_for};
use crate::servers::recorder::Recorder;

mod case;

pub use case::{CASES, Case};

/// Creates a database as after a peak: large and mostly free, with the remaining entries at its end.
fn inflate(database: &Path) {
    let database = sled::open(database).unwrap();
    let kept = database.iter().map(Result::unwrap).next_back().unwrap();
    let peak = || (0..15_000_u32).map(|number| [&[0xff][..], &number.to_be_bytes()].concat());
    for key in peak() {
        database.insert(key, [7; 4_000].as_slice()).unwrap();
    }
    peak().for_each(|key| drop(database.remove(key).unwrap()));
    for _ in 0..2_000 {
        database.insert(&kept.0, &kept.1).unwrap();
    }
    database.flush().unwrap();
}

/// The store that every run starts with.
pub struct Stores {
    sound: Aged,
    /// Starts with a large database that is mostly free.
    emptied: tempfile::TempDir,
    /// A store that was never renewed, so that its log is small, and its content.
    small: (Bridge, Posted),
    /// A backup of it.
    backup: PathBuf,
    /// The destinations of the undamaged store, and routes to `old`, which answers, and to no destination.
    config: String,
}

impl Stores {
    pub fn new(old: &Recorder) -> Self {
        let mut sound = Aged::new(old);
        let backup = sound.bridge.folder().join("backup");
        sound.bridge.run();
        let (exit, _, error) = sound.bridge.command(&["backup", backup.to_str().unwrap()]);
        assert_eq!(exit, 0, "{error}");
        sound.bridge.stop();
        let emptied = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        copy(&sound.bridge.store(), emptied.path());
        inflate(&emptied.path().join("sled"));
        let route = |name: &str, from: &str, to: &str| {
            format!("[[route]]\nname = \"{name}\"\nfrom = [\"{from}\"]\ndeliver = [{to}]\n")
        };
        let routes = route("old", "+1303777*", "\"old\"") + &route("kept", "+1303888*", "");
        // The first line still belongs to the source.
        let config = format!(
            "max_body = \"1MiB\"\n{routes}{}",
            config(old, &nowhere("crm"), "crm")
        );
        let mut small = (Bridge::start(&config), Posted::default());
        (0..8).for_each(|number| assert!(small.1.send(&small.0, number, [CRM, OLD][number % 2], "small")));
        small.0.stop();
        Self {
            sound,
            emptied,
            small,
            backup,
            config,
        }
    }

    /// One run with at most one fault, and the checks afterwards.
    pub fn run(&self, case: Case, injection: Option<Injection>) -> Outcome {
        match case {
            Case::BackupCommand => self.back_up(injection),
            Case::RestoreCommand => self.restore(injection),
            case => Run::new(self, case).interrupted(injection),
        }
    }

    fn back_up(&self, injection: Option<Injection>) -> Outcome {
        let mut run = Run::new(self, Case::BackupCommand);
        run.bridge.run();
        // More than a single write.
        for number in 2_000..2_030 {
            run.send(number, CRM, &"x".repeat(60_000));
        }
        let folder = run.bridge.folder().join("copies");
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("copy");
        let backup = ["backup", "--force", file.to_str().unwrap()];
        assert_eq!(run.bridge.command(&backup).0, 0);
        run.send(2_100, CRM, "new");
        let (is_done, counts) = run.command(&backup, &folder, injection);
        run.send(2_101, CRM, "newer");
        assert_eq!(
            (run.posted.acknowledged.len(), run.posted.refused),
            (32, 0),
            "the daemon is unharmed"
        );
        let mut expected = run.posted.acknowledged.clone();
        expected.retain(|number, _| {
            if is_done {
                *number <= 2_100
            } else {
                *number < 2_100
            }
        });
        self.assert_restores(&file, &expected);
        assert_eq!(run.bridge.command(&backup).0, 0, "the next backup succeeds");
        self.assert_restores(&file, &run.posted.acknowledged);
        Outcome { counts, refused: 0 }
    }

    /// A file with the name of a backup is complete and contains at least these messages.
    fn assert_restores(&self, file: &Path, expected: &Acknowledged) {
        let mut other = Run::new(self, Case::RestoreCommand);
        let (exit, _, error) = other.bridge.command(&["restore", file.to_str().unwrap()]);
        assert_eq!(exit, 0, "{error}");
        other.posted.acknowledged.clone_from(expected);
        other.bridge.run();
        other.assert_nothing_lost();
    }

    fn restore(&self, injection: Option<Injection>) -> Outcome {
        let mut run = Run::new(self, Case::RestoreCommand);
        let restore = ["restore", self.backup.to_str().unwrap()];
        let (is_done, counts) = run.command(&restore, &run.bridge.store(), injection);
        if !is_done {
            let (exit, _, error) = run.bridge.command(&restore);
            // It may have failed after the backup was complete.
            assert!(exit == 0 || exit == 3, "the second one fails: {error}");
        }
        run.assert_next_starts();
        Outcome { counts, refused: 0 }
    }
}

pub struct Outcome {
    pub counts: Counts,
    /// The messages that were not acknowledged.
    pub refused: usize,
}

/// The acknowledged messages: their numbers and destinations.
type Acknowledged = BTreeMap<usize, &'static str>;

/// The destination that does not answer, and the one that does.
const CRM: &str = "crm";
const OLD: &str = "old";

/// No destination at all.
const KEPT: &str = "";

/// A posted message.
#[derive(Clone, Default)]
struct Posted {
    acknowledged: Acknowledged,
    refused: usize,
}

impl Posted {
    /// Posts a message. Returns false once the daemon does not respond.
    fn send(&mut self, bridge: &Bridge, number: usize, to: &'static str, text: &str) -> bool {
        let from = match to {
            OLD => "+13037770001",
            KEPT => "+13038880001",
            _ => "+13035550100",
        };
        let body = Bridge::body(&refid(number), from, text).to_string();
        let url = bridge.url("/inbound/intelepeer");
        match try_http("POST", &url, &[("content-type", "application/json")], &body) {
            Some((200, ..)) => drop(self.acknowledged.insert(number, to)),
            Some((503, ..)) => self.refused += 1,
            Some((status, head, body)) => panic!("{status} {head} {body}"),
            None => return false,
        }
        true
    }
}

struct Run<'a> {
    stores: &'a Stores,
    case: Case,
    /// The content of the store of an earlier format.
    _folder: tempfile::TempDir,
    bridge: Bridge,
    posted: Posted,
    /// Whether a fault may prevent the awaited event.
    is_faulty: bool,
    /// The last backup, and what was acknowledged before it began.
    backup: Option<(PathBuf, Acknowledged)>,
}

impl<'a> Run<'a> {
    fn new(stores: &'a Stores, case: Case) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bridge = match case.format() {
            Some(name) => {
                store_fixtures::unpack(name, folder.path());
                Bridge::placed(
                    &folder.path().join("data"),
                    store_fixtures::KEYS,
                    &store_fixtures::config(),
                )
            }
            None => Bridge::configured(&stores.config),
        };
        let mut posted = Posted::default();
        match case {
            Case::Format1 | Case::Format2 | Case::Format3 | Case::RestoreCommand => {}
            Case::Compaction => copy(stores.emptied.path(), &bridge.store()),
            Case::Segments => {
                copy(&stores.small.0.store(), &bridge.store());
                posted = stores.small.1.clone();
            }
            case => {
                copy(&stores.sound.bridge.store(), &bridge.store());
                case.prepare(&bridge.store());
            }
        }
        Self {
            stores,
            case,
            _folder: folder,
            bridge,
            posted,
            is_faulty: false,
            backup: None,
        }
    }

    /// Runs a command with a fault below this folder. Returns whether it succeeded.
    fn command(&self, arguments: &[&str], below: &Path, injection: Option<Injection>) -> (bool, Counts) {
        let counts = self.bridge.folder().join("counts");
        let output = Command::new(env!("CARGO_BIN_EXE_smsbridge"))
            .args(arguments)
            .arg("--config")
            .arg(self.bridge.folder().join("config.toml"))
            .envs(variables(below, &counts, injection))
            .output()
            .unwrap();
        let is_done = output.status.success();
        assert!(is_done || injection.is_some(), "{output:?}");
        (is_done, counted(&counts))
    }

    fn interrupted(mut self, injection: Option<Injection>) -> Outcome {
        let counts = self.bridge.folder().join("counts");
        let variables = variables(&self.bridge.store(), &counts, injection);
        let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, &**value)).collect();
        let smsbridge = Command::new(env!("CARGO_BIN_EXE_smsbridge"));
        let started = self.bridge.run_command(smsbridge, &[], &variables);
        self.is_faulty = injection.is_some();
        if started.is_ok() {
            self.traffic();
            self.bridge.signal("TERM");
            let status = self.bridge.end();
            let is_killed = injection.is_some_and(|injection| ["KILL", "TORN"].contains(&injection.end));
            let is_hit = counted(&counts).is_hit;
            match status.code() {
                None => assert!(is_killed && is_hit, "{status}"),
                Some(code) => assert!(code == 0 || (code == 74 && is_hit), "{status}"),
            }
        } else {
            assert!(injection.is_some(), "{started:?}");
        }
        let counts = counted(&counts);
        self.assert_next_starts();
        Outcome {
            counts,
            refused: self.posted.refused,
        }
    }

    fn send(&mut self, number: usize, to: &'static str, text: &str) -> bool {
        self.posted.send(&self.bridge, number, to, text)
    }

    /// Waits for a part of the work, which a fault may prevent.
    fn wait(&self, what: &str, until: impl Fn() -> bool) {
        let lives = || try_http("GET", &self.bridge.url("/healthz"), &[], "").is_some();
        let deadline = Instant::now() + Duration::from_secs(4);
        while !until() {
            if self.is_faulty && (Instant::now() > deadline || !lives()) {
                return;
            }
            assert!(Instant::now() < deadline + TIMEOUT, "no {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn logged(&self, words: &str) {
        self.wait(words, || {
            self.bridge.log().iter().any(|line| line.contains(words))
        });
    }

    /// The operation of the daemon in the case.
    fn traffic(&mut self) {
        match self.case {
            Case::Segments => self.fill_segments(),
            Case::Compaction => self.logged("the store was compacted"),
            Case::DamagedLog | Case::LostLog => self.logged("the store's log was renewed"),
            Case::DamagedDatabase | Case::LostDatabase => {
                self.wait("the history", || !self.bridge.store().join("recovering").exists());
            }
            _ => {}
        }
        for half in 0..2 {
            for number in 2_000 + 10 * half..2_006 + 10 * half {
                let to = if number % 3 == 2 { OLD } else { CRM };
                if !self.send(number, to, "new") {
                    return;
                }
            }
            if self.case == Case::Backups {
                self.back_up(&format!("copy-{half}"));
            }
            // A checkpoint comes within a second.
            if half == 0 {
                std::thread::sleep(Duration::from_millis(1_100));
            }
        }
    }

    /// More than the log may grow to.
    fn fill_segments(&mut self) {
        let segments = || {
            let files = super::aged::files(&self.bridge.store().join("log"));
            files
                .into_iter()
                .filter(|file| file.file_name().unwrap().len() == 16)
        };
        let first: Vec<PathBuf> = segments().collect();
        // The log is measured once a second.
        std::thread::sleep(Duration::from_millis(1_100));
        let large = "x".repeat(1_000_000);
        for number in 2_200..2_209 {
            if !(self.send(number, KEPT, &large) && self.send(number + 100, CRM, "small")) {
                return;
            }
        }
        self.logged("the store's log was renewed");
        self.wait("the old segments to go", || {
            !first.iter().any(|file| file.exists())
        });
    }

    fn back_up(&mut self, name: &str) {
        let file = self.bridge.folder().join(name);
        let acknowledged = self.posted.acknowledged.clone();
        if self.bridge.command(&["backup", file.to_str().unwrap()]).0 == 0 {
            self.backup = Some((file, acknowledged));
        } else {
            assert!(
                !file.exists(),
                "an incomplete backup has the name of a complete one"
            );
        }
    }

    /// The next start needs no manual work, has everything, and reports what is missing; so does the one after it.
    fn assert_next_starts(&mut self) {
        self.bridge.run();
        self.assert_nothing_lost();
        let reported = self.findings();
        wait_for("new messages to be taken", || {
            self.send(3_000, CRM, "newer");
            self.posted.acknowledged.contains_key(&3_000).then_some(())
        });
        self.bridge.stop();
        self.bridge.run();
        assert_eq!(self.findings(), reported, "the findings of another start");
        self.assert_nothing_lost();
        self.bridge.kill();
        if let Some((file, acknowledged)) = &self.backup {
            self.stores.assert_restores(file, acknowledged);
        }
    }

    fn findings(&self) -> Value {
        self.bridge.status()["store"]["findings"].clone()
    }

    fn assert_nothing_lost(&self) {
        if self.case.is_damaged() {
            recovered(&self.bridge);
            // Damage of a part of the log that the start does not need is found in the background.
            self.wait("the finding", || self.findings() != Value::Array(Vec::new()));
        }
        let (there, findings) = (stored(&self.bridge), self.findings());
        let is_reported = findings != Value::Array(Vec::new());
        let is_pending = |refid: &str| {
            there.get(refid).is_some_and(|message| {
                let mut states = deliveries(message).map(|delivery| &delivery["state"]);
                states.all(|state| state == "pending")
            })
        };
        for (&number, &to) in &self.posted.acknowledged {
            let is_there = if to == CRM {
                is_pending(&refid(number))
            } else {
                there.contains_key(&refid(number))
            };
            assert!(is_there, "acknowledged and lost: {number} for {to}; {findings}");
        }
        assert_eq!(is_reported, self.case.is_damaged(), "{findings}");
        if let Some(name) = self.case.format() {
            self.assert_has_fixture(name);
        } else if self.case != Case::Segments {
            self.assert_sound_is_there(is_pending, is_reported);
        }
    }

    /// All messages of a fixture, unchanged.
    fn assert_has_fixture(&self, name: &str) {
        let known = store_fixtures::known(&self.bridge)["messages"].take();
        let known = known.as_array().unwrap();
        for message in store_fixtures::expected(name)["messages"].as_array().unwrap() {
            assert!(known.contains(message), "lost or changed: {message}");
        }
    }

    /// The content of the undamaged store.
    fn assert_sound_is_there(&self, is_pending: impl Fn(&str) -> bool, is_reported: bool) {
        let pending = self.stores.sound.pending.values();
        let lost: Vec<&String> = pending
            .map(|(refid, ..)| refid)
            .filter(|refid| !is_pending(refid))
            .collect();
        assert!(lost.is_empty(), "pending and lost: {lost:?}");
        let history = self.stores.sound.history_in(&self.bridge);
        assert!(
            history == EACH || is_reported,
            "{} messages of the history are missing and nothing is reported",
            EACH - history
        );
    }
}
