//! P17: a store that was damaged while the daemon was stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::aged::{Aged, EACH, Messages, config, copy, files, recovered};
use super::ledger::drained;
use super::rng::Rng;
use super::{report, rounds};
use crate::bridge::Bridge;
use crate::bridge::refid;
use crate::servers::recorder::webhook;
use crate::servers::recorder::{Recorder, Reply};

/// The damaged part, in turn: a record inside a sound database, or a file.
const PARTS: [&str; 14] = [
    RECORD,
    "sled/db",
    "log/",
    "sled/snap.",
    "format",
    "sled/db",
    "log/",
    "sled/conf",
    "findings",
    "sled/db",
    "log/",
    "lock",
    "ballast",
    LATER_FORMAT,
];
const RECORD: &str = "a record";
const LATER_FORMAT: &str = "a later format";

/// The kinds of damage to a file, in turn.
const KINDS: [&str; 4] = ["flipped", "zeroed", "cut", "gone"];

/// The file of the store whose path has this prefix.
fn file_of(store: &Path, part: &str) -> PathBuf {
    let mut files = files(store).into_iter();
    let found = files.find(|file| {
        file.strip_prefix(store)
            .unwrap()
            .to_string_lossy()
            .starts_with(part)
    });
    found.unwrap_or_else(|| panic!("the store has no {part}: the test proves nothing"))
}

/// Flips up to three bits, zeroes a page, cuts a file short, or removes it.
fn damage_a_file(store: &Path, part: &str, kind: &str, rng: &mut Rng) -> String {
    let file = &file_of(store, part);
    let name = file.strip_prefix(store).unwrap().display().to_string();
    let mut bytes = std::fs::read(file).unwrap();
    let end = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(bytes.len(), |last| last + 1);
    let how = match kind {
        _ if kind == "gone" => {
            std::fs::remove_file(file).unwrap();
            return format!("{name}: gone");
        }
        _ if end == 0 => {
            bytes = (0..rng.below(5_000))
                .map(|_| rng.next().to_le_bytes()[0])
                .collect();
            format!("empty before, now {} random bytes", bytes.len())
        }
        "cut" => {
            bytes.truncate(rng.below(end));
            format!("cut to {}", bytes.len())
        }
        "zeroed" => {
            let from = rng.below(end) / 4096 * 4096;
            let to = (from + 4096).min(bytes.len());
            bytes[from..to].fill(0);
            format!("zeroed from {from} to {to}")
        }
        _ => {
            let places: Vec<usize> = (0..=rng.below(3)).map(|_| rng.below(end)).collect();
            for place in &places {
                bytes[*place] ^= 1 << rng.below(8);
            }
            format!("flipped at {places:?}")
        }
    };
    std::fs::write(file, bytes).unwrap();
    format!("{name}: {how}")
}

fn name_a_later_format(store: &Path) -> String {
    let known = format(store).unwrap();
    std::fs::write(store.join("format"), format!("smsbridge store {}\n", known + 1)).unwrap();
    format!("format: says {}", known + 1)
}

/// Flips a bit in one record and leaves the database around it sound, as bad memory does: only the record's own
/// checksum can tell.
fn damage_a_record(store: &Path, rng: &mut Rng) -> String {
    let database = sled::open(store.join("sled")).unwrap();
    let entries: Vec<_> = database
        .iter()
        .map(Result::unwrap)
        .filter(|(_, value)| value.len() > 200)
        .collect();
    assert!(
        !entries.is_empty(),
        "no record was found: the test proves nothing"
    );
    let (key, value) = &entries[rng.below(entries.len())];
    let mut value = value.to_vec();
    // Behind the head, so that undetected damage shows in what is delivered.
    let place = 60 + rng.below(value.len() - 60);
    value[place] ^= 1 << rng.below(8);
    database.insert(key, value).unwrap();
    database.flush().unwrap();
    format!("record {key:?}: flipped at {place}")
}

/// The message that the receiver got, if it equals the accepted one.
fn check(received: &Value, pending: &Messages, how: &str) -> String {
    let id = received["id"].as_str().unwrap().to_owned();
    let field = |name: &str| received[name].as_str().unwrap_or_default().to_owned();
    let told = (field("provider_id"), field("from"), field("text"));
    assert_eq!(
        Some(&told),
        pending.get(&id),
        "{how}: a damaged message was delivered as if it were good"
    );
    id
}

/// The version that the store's `format` names, if it can still be read.
fn format(store: &Path) -> Option<u32> {
    let bytes = std::fs::read(store.join("format")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.trim().strip_prefix("smsbridge store ")?.parse().ok()
}

fn contents(store: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let store = files(store).into_iter().filter(|file| !file.ends_with("lock"));
    store
        .map(|file| (file.clone(), std::fs::read(file).unwrap()))
        .collect()
}

fn findings(bridge: &Bridge) -> Vec<Value> {
    bridge.status()["store"]["findings"].as_array().unwrap().clone()
}

/// The results for one part.
#[derive(Default)]
struct Tally {
    damages: usize,
    told: usize,
    /// Of the history.
    lost: usize,
    refused: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn p17_damage_to_any_one_file_loses_nothing_pending_and_is_reported_until_acknowledged() {
    let (rounds, mut rng) = (rounds(28, 518), Rng::new());
    let sink = Recorder::answering(Reply::new(200, "ok")).await;
    let sound = Aged::new(&sink);
    let current = format(&sound.bridge.store());
    let mut tallies: BTreeMap<(&str, &str), Tally> = BTreeMap::new();
    let (mut killed, mut repaired) = (0, 0);
    for round in 0..rounds {
        let arrived: Arc<Mutex<Vec<Value>>> = Arc::default();
        let keep = arrived.clone();
        let receiver = Recorder::start(move |received| {
            keep.lock().unwrap().push(received.json());
            Reply::new(200, "ok")
        })
        .await;
        let old = Recorder::answering(Reply::new(200, "ok")).await;
        let mut bridge = Bridge::configured(&config(&old, &webhook("crm", &receiver, ""), "crm"));
        let store = bridge.store();
        copy(&sound.bridge.store(), &store);
        let (part, turn) = (PARTS[round % PARTS.len()], round / PARTS.len());
        let kind = KINDS[(turn + round) % KINDS.len()];
        let (kind, how) = match part {
            RECORD => ("flipped", damage_a_record(&store, &mut rng)),
            LATER_FORMAT => ("named", name_a_later_format(&store)),
            file => (kind, damage_a_file(&store, file, kind, &mut rng)),
        };
        println!("{round}: {how}");
        let tally = tallies.entry((part, kind)).or_default();
        tally.damages += 1;
        let (before, is_newer) = (contents(&store), format(&store) > current);
        // Every second round of each part and kind.
        if !is_newer && (turn / KINDS.len() + round).is_multiple_of(2) {
            repaired += 1;
            // Nothing is sent meanwhile, so that each message can be expected once.
            bridge.configure(&config(&old, &super::ledger::nowhere("crm"), "crm"));
            for _ in 0..=rng.below(3) {
                bridge.run_and_kill(rng.moment(5, 500));
                killed += 1;
            }
            bridge.configure(&config(&old, &webhook("crm", &receiver, ""), "crm"));
        }
        let smsbridge = Command::new(env!("CARGO_BIN_EXE_smsbridge"));
        let started = bridge.run_command(smsbridge, &[], &[]);
        if is_newer {
            // The damaged store looks like that of a later version, which must not be changed.
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
        assert_eq!(format(&store), current, "{how}: `format` is not rewritten");
        let (status, body) = bridge.post_message(&refid(1_000), "+13035559999", "new");
        assert_eq!(status, 200, "{how}: a new message is not accepted: {body}");
        bridge.admin("POST", "/destinations/crm/resume", "").unwrap();
        bridge
            .admin(
                "POST",
                "/deliveries/retry",
                "{\"destination\": \"crm\", \"state\": \"pending\"}",
            )
            .unwrap();
        drained(&bridge, Duration::from_secs(20));
        let arrived = arrived.lock().unwrap().clone();
        let new = json!("new");
        assert!(
            arrived.iter().any(|received| received["text"] == new),
            "{how}: the new message was not delivered"
        );
        let ids: Vec<String> = arrived
            .iter()
            .filter(|received| received["text"] != new)
            .map(|received| check(received, &sound.pending, &how))
            .collect();
        let distinct: BTreeSet<&String> = ids.iter().collect();
        let told = findings(&bridge);
        assert_eq!(
            distinct.len(),
            sound.pending.len(),
            "{how}: pending messages were lost: {told:?}"
        );
        assert_eq!(
            ids.len(),
            distinct.len(),
            "{how}: messages were sent twice: {told:?}"
        );
        recovered(&bridge);
        let told = findings(&bridge);
        let missing = EACH - sound.history_in(&bridge);
        assert_eq!(
            old.received().len(),
            0,
            "{how}: what was delivered before was delivered again"
        );
        assert!(
            missing == 0 || !told.is_empty(),
            "{how}: {missing} are missing and nothing is said"
        );
        assert!(
            missing == 0 || [RECORD, "sled/db"].contains(&part),
            "{how}: {missing} are missing that were elsewhere: {told:?}"
        );
        bridge.stop();
        bridge.run();
        assert_eq!(
            findings(&bridge),
            told,
            "{how}: findings are reported until they are acknowledged"
        );
        tally.told += usize::from(!told.is_empty());
        tally.lost += missing;
        bridge.kill();
    }
    let refused: usize = tallies.values().map(|tally| tally.refused).sum();
    assert!(refused > 0, "no store said it was newer: the test proves nothing");
    let parts: Vec<String> = tallies
        .iter()
        .map(|((part, kind), tally)| {
            let Tally {
                damages, told, lost, ..
            } = tally;
            format!(
                "{part} {kind} {damages} ({told} reported, {lost} of {} delivered ones lost)",
                damages * EACH
            )
        })
        .collect();
    report(
        "P17",
        &format!(
            "{rounds} damages, {repaired} of them with {killed} kills while they were repaired, 0 pending lost, 0 delivered wrong or twice, every loss reported, also after a restart: {}; {refused} named a later format and were refused",
            parts.join(", ")
        ),
    );
}
