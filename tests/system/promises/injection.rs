//! P2 and P4 at every system call: the nth write, sync, rename, unlink, … of each thread fails or is the last one
//! of the process, at work and at every kind of start.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::aged::{Aged, EACH, copy, recovered};
use super::faults::post;
use super::ledger::{nowhere, stored};
use super::{is_long, report, rounds};
use crate::bridge::refid;
use crate::bridge::{Bridge, wait_for};
use crate::servers::recorder::{Recorder, Reply};

/// The calls that change a disk.
const CALLS: [&str; 9] = [
    "pwrite64",
    "fdatasync",
    "fsync",
    "sync_file_range",
    "rename",
    "unlink",
    "unlinkat",
    "ftruncate",
    "mkdir",
];
const ENDS: [&str; 3] = ["error=EIO", "error=ENOSPC", "signal=KILL"];

/// The highest n for calls that are made often.
const LAST: usize = 120;

/// The state of the store before the start that is interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Case {
    /// A sound store starts and works.
    Sound,
    /// The database is damaged and is rebuilt.
    DamagedDatabase,
    /// The log is missing and is rewritten.
    LostLog,
    /// A store of format 2 is migrated.
    Older,
}

impl Case {
    fn prepare(self, sound: &Path, store: &Path) {
        copy(sound, store);
        match self {
            Self::Sound => {}
            Self::DamagedDatabase => {
                let database = store.join("sled/db");
                let mut bytes = std::fs::read(&database).unwrap();
                let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
                bytes[used / 3..used / 3 + 3000].fill(7);
                std::fs::write(database, bytes).unwrap();
            }
            Self::LostLog => std::fs::remove_dir_all(store.join("log")).unwrap(),
            Self::Older => {
                std::fs::remove_dir_all(store).unwrap();
                let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/store/v2.tar.gz");
                let parent = store.parent().unwrap();
                let unpacked = Command::new("tar")
                    .arg("-xzf")
                    .arg(archive)
                    .arg("-C")
                    .arg(parent)
                    .status();
                assert!(unpacked.unwrap().success());
            }
        }
    }
}

/// Returns true if a call was made to fail.
fn was_injected(bridge: &Bridge) -> bool {
    std::fs::read_to_string(bridge.folder().join("strace")).is_ok_and(|trace| trace.contains("INJECTED"))
}

/// The number of runs and of refused messages.
#[derive(Default)]
struct Tally {
    runs: usize,
    refused: usize,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs strace: tests/run"]
async fn p4_a_failure_or_kill_at_any_call_loses_nothing_pending() {
    let sink = Recorder::answering(Reply::new(200, "ok")).await;
    let sound = Aged::new(&sink);
    let mut tallies: BTreeMap<(Case, &str), Tally> = BTreeMap::new();
    for case in [Case::Sound, Case::DamagedDatabase, Case::LostLog, Case::Older] {
        for (number, call) in CALLS.into_iter().enumerate() {
            for (end, words) in ENDS.into_iter().enumerate() {
                // In the quick form one n for each call, another one in each case.
                let quick = [1 + (number + 2 * end + case as usize * 3) % 7];
                let all: Vec<usize> = (1..=rounds(LAST, LAST)).collect();
                let numbers = if is_long() {
                    &all[..]
                } else if (number + end + case as usize).is_multiple_of(4) {
                    &quick[..]
                } else {
                    &[]
                };
                for nth in numbers {
                    let what = format!("{call}:{words}:when={nth}");
                    let Some(refused) = interrupted(&sound, case, &what) else {
                        break;
                    };
                    let tally = tallies.entry((case, call)).or_default();
                    tally.runs += 1;
                    tally.refused += refused;
                }
            }
        }
    }
    let runs: usize = tallies.values().map(|tally| tally.runs).sum();
    let refused: usize = tallies.values().map(|tally| tally.refused).sum();
    assert!(runs >= 10, "hardly any call was reached: the test proves nothing");
    let cases: Vec<String> = tallies
        .iter()
        .map(|((case, call), tally)| format!("{case:?} {call} {}", tally.runs))
        .collect();
    report(
        "P4",
        &format!(
            "{runs} interrupted runs, {refused} messages refused, 0 acknowledged or pending lost, no hand needed: {}",
            cases.join(", ")
        ),
    );
}

/// One run that is interrupted and one that is not. Returns how many messages were refused, or nothing if the call
/// was never made.
fn interrupted(sound: &Aged, case: Case, what: &str) -> Option<usize> {
    println!("{case:?}, {what}");
    let mut bridge = Bridge::configured(&as_fixture(case));
    case.prepare(&sound.bridge.store(), &bridge.store());
    let (mut acknowledged, mut refused) = (Vec::new(), 0);
    let started = bridge.run_with_faults(&[what]).is_ok();
    let mut is_alive = started;
    if started {
        for number in 2_000..2_012 {
            match post(&bridge, number) {
                Some((200, _)) => acknowledged.push(refid(number)),
                Some(_) => refused += 1,
                None => break,
            }
        }
        // Most calls belong to a checkpoint, which comes within a second.
        std::thread::sleep(std::time::Duration::from_millis(1_200));
        is_alive = post(&bridge, 2_100).is_some();
        bridge.kill();
    }
    if is_alive && !was_injected(&bridge) {
        return None;
    }
    bridge.run();
    let there = stored(&bridge);
    let lost: Vec<&String> = acknowledged
        .iter()
        .filter(|refid| !there.contains_key(*refid))
        .collect();
    assert!(
        lost.is_empty(),
        "{case:?}, {what}: acknowledged and lost: {lost:?}"
    );
    let pending = bridge.status()["messages"]["pending"].as_u64().unwrap() as usize;
    let findings = bridge.status()["store"]["findings"].clone();
    assert!(
        pending >= EACH + acknowledged.len(),
        "{case:?}, {what}: {pending} are pending: {findings}"
    );
    if case != Case::Older {
        let absent: Vec<&String> = sound
            .pending
            .values()
            .map(|(refid, _, _)| refid)
            .filter(|refid| !there.contains_key(*refid))
            .collect();
        assert!(
            absent.is_empty(),
            "{case:?}, {what}: pending and lost: {absent:?}"
        );
        recovered(&bridge);
        let history = sound.history_in(&bridge);
        let findings = bridge.status()["store"]["findings"].clone();
        let told = !findings.as_array().unwrap().is_empty();
        assert!(
            history == EACH || told,
            "{case:?}, {what}: {} of the history were lost without a finding",
            EACH - history
        );
        assert_eq!(told, case != Case::Sound, "{case:?}, {what}: {findings}");
    }
    wait_for("new messages to be taken", || {
        (post(&bridge, 3_000)?.0 == 200).then_some(())
    });
    Some(refused)
}

/// The destinations of the store.
fn as_fixture(case: Case) -> String {
    match case {
        Case::Older => {
            let names = ["good", "bad", "paused"];
            names.map(nowhere).concat() + &super::ledger::unmatched(&["good"])
        }
        _ => nowhere("old") + &nowhere("crm") + &super::ledger::unmatched(&["crm"]),
    }
}
