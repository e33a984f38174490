//! P17: a store that was damaged while nobody looked.

use std::collections::BTreeMap;
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

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(file, target).unwrap();
    }
}

/// Flips up to three bits, cuts a file short, or zeroes a block of it.
fn damage_a_file(store: &Path, luck: &mut Luck) -> String {
    let written = |path: &PathBuf| {
        let spare = path.ends_with("ballast") || path.ends_with("lock");
        !spare && path.metadata().unwrap().len() > 0
    };
    let files: Vec<PathBuf> = files(store).into_iter().filter(written).collect();
    // Nearly everything is in the largest one.
    let largest = files
        .iter()
        .max_by_key(|file| file.metadata().unwrap().len())
        .unwrap();
    let file = if luck.below(4) == 0 {
        &files[luck.below(files.len())]
    } else {
        largest
    };
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

#[tokio::test(flavor = "multi_thread")]
async fn p17_a_damaged_record_is_set_aside_and_never_delivered_as_if_good() {
    let (rounds, mut luck) = (rounds(30, 500), Luck::new());
    let sink = Recorder::answering(Reply::new(200, "ok")).await;
    let (sound, texts, _) = sound_store(&sink);
    let (mut whole, mut told, mut refused, mut gone) = (0, 0, 0, [0, 0]);
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
        copy(&sound.store(), &bridge.store());
        let how = match round % 3 {
            0 => damage_a_record(&bridge.store(), &mut luck),
            _ => damage_a_file(&bridge.store(), &mut luck),
        };
        let smsbridge = Command::new(env!("CARGO_BIN_EXE_smsbridge"));
        if let Err(ended) = bridge.run_command(smsbridge, &[], &[]) {
            // What cannot be told from a store of another format must not be touched.
            let is_format = how.starts_with("format:") && ended.contains("format");
            assert!(is_format, "{how}: the daemon does not start: {ended}");
            refused += 1;
            continue;
        }
        let (status, body) = bridge.text(&refid(1_000), "+13035559999", "new");
        assert_eq!(status, 200, "{how}: a new text is not taken: {body}");
        drained(&bridge, Duration::from_secs(20));
        let arrived = arrived.lock().unwrap().clone();
        let new = json!("new");
        assert!(
            arrived.iter().any(|received| received["text"] == new),
            "{how}: the new text was not delivered"
        );
        let mut ids: Vec<String> = arrived
            .iter()
            .filter(|received| received["text"] != new)
            .map(|received| check(received, &texts, &how))
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let findings = bridge.status()["store"]["findings"].as_array().unwrap().len();
        if ids.len() == texts.len() {
            whole += 1;
        } else {
            assert!(
                findings > 0,
                "{how}: {} of {} came and nothing is said",
                ids.len(),
                texts.len()
            );
            told += 1;
            gone[usize::from(round % 3 != 0)] += texts.len() - ids.len();
        }
        bridge.kill();
    }
    report(
        "P17",
        &format!(
            "{rounds} damages: {whole} cost nothing, {told} cost texts ({} of records, {} of files) and said so, {refused} of the format not started, 0 delivered wrong",
            gone[0], gone[1]
        ),
    );
}
