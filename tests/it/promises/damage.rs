//! P17: a store that was damaged while nobody looked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::ledger::{Acknowledged, drained, nowhere, unmatched};
use super::luck::Luck;
use super::{report, rounds};
use crate::bridge::{Bridge, wait_for};
use crate::daemon::{refid, webhook};
use crate::servers::recorder::{Recorder, Reply};

/// What a receiver is told of a text, by its id.
type Texts = BTreeMap<String, (String, String, String)>;

/// A store with texts of all lengths, most still waiting, some delivered.
fn sound_store(recorder: &Recorder) -> (Bridge, Texts, Acknowledged) {
    let config = webhook("old", recorder, "") + &nowhere("crm") + &unmatched(&["old", "crm"]);
    let mut bridge = Bridge::start(&config);
    let (mut texts, mut acknowledged) = (Texts::new(), Acknowledged::new());
    for number in 0..60 {
        let (from, text) = (
            format!("+13035550{number:03}"),
            format!("{number} {}", "é".repeat(number * number)),
        );
        let (status, body) = bridge.text(&refid(number), &from, &text);
        assert_eq!(status, 200);
        let id = body["id"].as_str().unwrap().to_owned();
        texts.insert(id.clone(), (refid(number), from, text));
        acknowledged.insert(refid(number), id);
    }
    wait_for("the delivered ones", || {
        (recorder.received().len() == 60).then_some(())
    });
    bridge.stop();
    // sled writes its snapshot when it opens what is there already.
    bridge.run();
    bridge.stop();
    (bridge, texts, acknowledged)
}

fn files(folder: &Path) -> Vec<PathBuf> {
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

/// What is damaged, in turn. What each file owes is said in [`owes`].
const PARTS: [&str; 8] = ["record", "db", "format", "record", "db", "mark", "conf", "snap"];

/// The file of the store with this name, or whose name begins so.
fn file_of(store: &Path, part: &str) -> PathBuf {
    let mut files = files(store).into_iter();
    let found = files.find(|file| file.file_name().unwrap().to_string_lossy().starts_with(part));
    found.unwrap_or_else(|| panic!("the store has no {part}: is the test blind?"))
}

/// Flips up to three bits, cuts a file short, or zeroes a block of it.
fn damage_a_file(store: &Path, part: &str, luck: &mut Luck) -> String {
    let file = &file_of(store, part);
    let mut bytes = std::fs::read(file).unwrap();
    let end = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(1, |last| last + 1);
    let how = match luck.below(5) {
        0 => {
            bytes.truncate(luck.below(end));
            format!("cut to {}", bytes.len())
        }
        1 => {
            let from = luck.below(end);
            let to = (from + 512).min(bytes.len());
            bytes[from..to].fill(0);
            format!("zeroed from {from} to {to}")
        }
        _ => {
            let places: Vec<usize> = (0..=luck.below(3)).map(|_| luck.below(end)).collect();
            for place in &places {
                bytes[*place] ^= 1 << luck.below(8);
            }
            format!("flipped at {places:?}")
        }
    };
    std::fs::write(file, bytes).unwrap();
    format!("{}: {how}", file.strip_prefix(store).unwrap().display())
}

fn name_a_later_format(store: &Path) -> String {
    let known = format(store).unwrap();
    std::fs::write(store.join("format"), format!("smsbridge store {}\n", known + 1)).unwrap();
    format!("format: says {}", known + 1)
}

/// Flips a bit in one record and leaves the database around it sound, as bad memory does: only the record's own
/// checksum can tell.
fn damage_a_record(store: &Path, luck: &mut Luck) -> String {
    let database = sled::open(store.join("sled")).unwrap();
    let entries: Vec<_> = database
        .iter()
        .map(Result::unwrap)
        .filter(|(_, value)| value.len() > 100)
        .collect();
    assert!(!entries.is_empty(), "no record was found: is the test blind?");
    let (key, value) = &entries[luck.below(entries.len())];
    let mut value = value.to_vec();
    let place = luck.below(value.len());
    value[place] ^= 1 << luck.below(8);
    database.insert(key, value).unwrap();
    database.flush().unwrap();
    format!("record {key:?}: flipped at {place}")
}

/// What the receiver was told, if it is what was accepted.
fn check(received: &Value, texts: &Texts, how: &str) -> String {
    let id = received["id"].as_str().unwrap().to_owned();
    let field = |name: &str| received[name].as_str().unwrap_or_default().to_owned();
    let told = (field("provider_id"), field("from"), field("text"));
    assert_eq!(
        Some(&told),
        texts.get(&id),
        "{how}: a damaged text was delivered as if it were good"
    );
    id
}

/// The version that the store's `format` names, if it can still be read.
fn format(store: &Path) -> Option<u32> {
    let bytes = std::fs::read(store.join("format")).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    text.trim().strip_prefix("smsbridge store ")?.parse().ok()
}

fn contents(store: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let store = files(store).into_iter().filter(|file| !file.ends_with("lock"));
    store
        .map(|file| (file.clone(), std::fs::read(file).unwrap()))
        .collect()
}

/// What came of the damages to one part.
#[derive(Default)]
struct Tally {
    damages: usize,
    told: usize,
    lost: usize,
    refused: usize,
}

/// What a damaged part may cost: how many texts are missing, and what is said about it.
fn owes(part: &str, how: &str, missing: usize, findings: &[Value]) {
    match part {
        // Neither holds a text, and each is written anew.
        "format" | "mark" => assert!(
            missing == 0 && findings.is_empty(),
            "{how}: {missing} missing, {findings:?}"
        ),
        // sled can do without a snapshot, and a new database has new settings: the log has all texts.
        "snap" | "conf" => assert_eq!(missing, 0, "{how}: {findings:?}"),
        // The others are not in this record, which is set aside.
        "record" => assert!(missing <= 1, "{how}: {missing} missing, {findings:?}"),
        _ => {}
    }
    assert!(
        missing == 0 || !findings.is_empty(),
        "{how}: {missing} are missing and nothing is said"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn p17_a_damaged_record_is_set_aside_and_never_delivered_as_if_good() {
    let (rounds, mut luck) = (rounds(32, 512), Luck::new());
    let sink = Recorder::answering(Reply::new(200, "ok")).await;
    let (sound, texts, _) = sound_store(&sink);
    let current = format(&sound.store());
    let mut tallies: BTreeMap<&str, Tally> = BTreeMap::new();
    for round in 0..rounds {
        let arrived: Arc<Mutex<Vec<Value>>> = Arc::default();
        let keep = arrived.clone();
        let receiver = Recorder::start(move |received| {
            keep.lock().unwrap().push(received.json());
            Reply::new(200, "ok")
        })
        .await;
        let mut bridge = Bridge::configured(
            &(webhook("crm", &receiver, "") + &webhook("old", &receiver, "") + &unmatched(&["crm"])),
        );
        let store = bridge.store();
        copy(&sound.store(), &store);
        let part = PARTS[round % PARTS.len()];
        let how = match part {
            "record" => damage_a_record(&store, &mut luck),
            // Too rare for luck.
            "format" if round / PARTS.len() % 4 == 1 => name_a_later_format(&store),
            file => damage_a_file(&store, file, &mut luck),
        };
        let tally = tallies.entry(part).or_default();
        tally.damages += 1;
        let (before, is_newer) = (contents(&store), format(&store) > current);
        let smsbridge = Command::new(env!("CARGO_BIN_EXE_smsbridge"));
        let started = bridge.run_command(smsbridge, &[], &[]);
        if is_newer {
            // It cannot be told from the store of a later version, which must not be touched.
            let refusal = started.expect_err("a store that says it is newer is opened");
            assert!(refusal.contains("use the newer version"), "{how}: {refusal}");
            assert_eq!(
                contents(&store),
                before,
                "{how}: a store of a later version was touched"
            );
            tally.refused += 1;
            continue;
        }
        started.unwrap_or_else(|ended| panic!("{how}: the daemon does not start: {ended}"));
        assert_eq!(format(&store), current, "{how}: `format` is not written anew");
        let (status, body) = bridge.text(&refid(1_000), "+13035559999", "new");
        assert_eq!(status, 200, "{how}: a new text is not taken: {body}");
        drained(&bridge, Duration::from_secs(20));
        let arrived = arrived.lock().unwrap().clone();
        let new = json!("new");
        assert!(
            arrived.iter().any(|received| received["text"] == new),
            "{how}: the new text was not delivered"
        );
        let ids: BTreeSet<String> = arrived
            .iter()
            .filter(|received| received["text"] != new)
            .map(|received| check(received, &texts, &how))
            .collect();
        let missing = texts.len() - ids.len();
        let findings = bridge.status()["store"]["findings"].as_array().unwrap().clone();
        owes(part, &how, missing, &findings);
        tally.told += usize::from(missing > 0);
        tally.lost += missing;
        bridge.kill();
    }
    let refused: usize = tallies.values().map(|tally| tally.refused).sum();
    assert!(refused > 0, "no store said it was newer: is the test blind?");
    let parts: Vec<String> = tallies
        .iter()
        .map(|(part, tally)| {
            let Tally {
                damages, told, lost, ..
            } = tally;
            format!("{part} {damages} ({lost} texts lost in {told})")
        })
        .collect();
    report(
        "P17",
        &format!(
            "{rounds} damages, 0 texts delivered wrong, none lost unsaid: {}; {refused} named a later format and were refused",
            parts.join(", ")
        ),
    );
}
