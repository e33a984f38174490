//! P4: a disk that returns errors.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use smsbridge::store::Store as _;
use smsbridge::store::sled::{Options, Sled};

use super::faults::{post, waiting};
use super::inject::{CALLS, Counts, Injection, counted, variables};
use super::ledger::stored;
use super::{is_long, report, rounds};
use crate::bridge::refid;
use crate::bridge::{Bridge, TIMEOUT, wait_for};
use crate::fixtures::arrival;

/// `EX_IOERR`, which the manual promises.
const STORE_FAILED: i32 = 74;

/// Time limit for the process to end after the first refusal: a second for the watchdog, one more for the daemon, and
/// the rest for a tracer on a busy machine. The abort comes only after thirty seconds.
const END: Duration = Duration::from_secs(15);

fn was_injected(bridge: &Bridge) -> bool {
    std::fs::read_to_string(bridge.folder().join("strace")).is_ok_and(|trace| trace.contains("INJECTED"))
}

/// Acknowledged messages that the bridge does not have.
fn lost(bridge: &Bridge, acknowledged: &[usize]) -> Vec<usize> {
    let there = stored(bridge);
    let numbers = acknowledged.iter().copied();
    numbers
        .filter(|number| !there.contains_key(&refid(*number)))
        .collect()
}

/// Failing calls of one kind, counted by strace for each thread separately.
struct Faults {
    call: &'static str,
    error: &'static str,
    nth: usize,
    /// Whether all later calls fail as well.
    forever: bool,
    /// A disk retries before it gives up, and by then a thread waits for the call.
    slowly: bool,
}

impl Faults {
    fn expression(&self) -> String {
        let Self { call, error, nth, .. } = self;
        let forever = if self.forever { "+" } else { "" };
        let slowly = if self.slowly { ":delay_enter=20000" } else { "" };
        format!("{call}:error={error}:when={nth}{forever}{slowly}")
    }

    /// Posts messages one after the other. Each needs at least one such call, so the 200s must end, the daemon must
    /// exit with its own status, and the next start must have all acknowledged messages. Returns the result, and how
    /// long the exit took after the first message that was not acknowledged.
    fn meet(&self) -> (&'static str, Duration) {
        let mut bridge = Bridge::configured(&waiting());
        bridge.run();
        let mut acknowledged: Vec<usize> = (0..5).filter(|n| post(&bridge, *n).unwrap().0 == 200).collect();
        assert_eq!(acknowledged.len(), 5);
        bridge.stop();
        let what = self.expression();
        let started = bridge.run_with_faults(&[&what]);
        let mut took = Duration::ZERO;
        if started.is_ok() {
            let posted = 5..65 + 10 * self.nth;
            let mut refused = None;
            for number in posted.clone() {
                match post(&bridge, number) {
                    Some((200, _)) => {
                        assert!(refused.is_none(), "{what}: a 200 after a failed commit");
                        acknowledged.push(number);
                        continue;
                    }
                    Some((503, head)) => assert!(head.contains("retry-after"), "{what}: {head}"),
                    Some((status, _)) => panic!("{what}: {status}"),
                    None => break,
                }
                refused.get_or_insert_with(Instant::now);
            }
            if was_injected(&bridge) {
                assert!(
                    acknowledged.len() < posted.end,
                    "{what}: all messages were acknowledged, although commits failed"
                );
                let ended = bridge.end();
                assert_eq!(ended.code(), Some(STORE_FAILED), "{what}: {ended}");
                took = refused.map_or(Duration::ZERO, |refused| refused.elapsed());
                assert!(took < END, "{what}: it took {took:?} to end");
            } else {
                bridge.kill();
            }
        }
        let hit = was_injected(&bridge);
        bridge.run();
        assert_eq!(
            lost(&bridge, &acknowledged),
            [0; 0],
            "{what}: acknowledged messages were lost"
        );
        let outcome = match (started.is_ok(), hit) {
            (true, true) => "failed while working",
            (false, true) => "failed at start",
            (_, false) => "was not reached",
        };
        (outcome, took)
    }
}

/// In the quick form the calls that have shown faults: about half of the time, sled does not wake the caller that
/// waits for a write that fails slowly.
#[test]
#[ignore = "needs strace: tests/run"]
fn p4_a_failed_write_is_never_a_200_and_ends_the_daemon_with_a_status_of_its_own() {
    let case = |call, error, nth, forever, slowly| Faults {
        call,
        error,
        nth,
        forever,
        slowly,
    };
    let mut cases = vec![
        case("fdatasync", "EIO", 8, true, false),
        case("pwrite64", "EIO", 20, true, false),
        case("pwrite64", "ENOSPC", 12, true, false),
        case("sync_file_range", "EIO", 5, false, true),
        case("sync_file_range", "EIO", 7, true, true),
        case("pwrite64", "EIO", 6, false, true),
    ];
    for nth in 1..=rounds(0, 40) {
        let error = if nth % 2 == 0 { "EIO" } else { "ENOSPC" };
        for call in ["fdatasync", "pwrite64", "sync_file_range"] {
            cases.push(case(call, error, nth, nth % 4 < 2, nth % 8 < 4));
        }
    }
    let (mut seen, mut longest) = (BTreeMap::new(), Duration::ZERO);
    for faults in &cases {
        let (outcome, took) = faults.meet();
        *seen.entry(outcome).or_insert(0) += 1;
        longest = longest.max(took);
    }
    assert!(
        seen.get("failed while working")
            .is_some_and(|count| *count >= cases.len() / 2),
        "hardly any call failed: the test proves nothing {seen:?}"
    );
    report(
        "P4",
        &format!(
            "{} runs with failing calls: {seen:?}, no 200 for a failed commit, always status 74, at most {:.1} s after the first 503, 0 lost",
            cases.len(),
            longest.as_secs_f64()
        ),
    );
}

/// One call at start fails: the daemon either recovers or refuses to start, and loses nothing.
#[test]
#[ignore = "needs strace: tests/run"]
fn p4_a_passing_error_while_opening_loses_nothing() {
    let mut bridge = Bridge::start(&waiting());
    for number in 0..100 {
        let text = "long ".repeat(200);
        assert_eq!(bridge.post_message(&refid(number), "+13035550100", &text).0, 200);
    }
    bridge.kill();
    let (mut started, mut refused) = (0, 0);
    for nth in 1..=rounds(3, 30) {
        for call in ["pread64", "openat", "rename", "fsync", "ftruncate"] {
            // Skips the calls of the loader: a program that cannot be loaded tests nothing.
            let nth = if call == "openat" { nth + 12 } else { nth };
            match bridge.run_with_faults(&[&format!("{call}:error=EIO:when={nth}")]) {
                Ok(()) => {
                    assert_eq!(stored(&bridge).len(), 100, "the {nth}th {call} failed");
                    bridge.kill();
                    started += 1;
                }
                Err(_) => refused += 1,
            }
            bridge.run();
            assert_eq!(stored(&bridge).len(), 100, "after the {nth}th {call} failed");
            bridge.kill();
        }
    }
    assert!(started > 0, "a passing error was never overcome");
    report(
        "P4",
        &format!("one failed call at start: {started} started all the same, {refused} did not, 0 lost"),
    );
}

/// The last commit and the last checkpoint come after the signal to stop. So does the sync with which sled closes its
/// file, when everything is on disk already.
#[test]
#[ignore = "needs gcc: tests/run"]
fn p4_a_sync_that_fails_while_the_daemon_stops_ends_it_in_order() {
    let mut bridge = Bridge::start(&waiting());
    bridge.stop();
    for (name, allowed) in [("fdatasync", &[STORE_FAILED][..]), ("fsync", &[STORE_FAILED, 0])] {
        let call = CALLS.iter().position(|call| *call == name).unwrap();
        let all = stopped_with(&mut bridge, None).unwrap().2.calls[call];
        let mut failed = 0;
        for nth in 1..=all {
            let end = "EIO";
            // It may fail to start, or not make the call this time.
            if let Some((status, log, counts)) = stopped_with(&mut bridge, Some(Injection { call, nth, end }))
                && counts.is_hit
            {
                assert!(allowed.contains(&status), "{status}, {name} {nth}: {log}");
                failed += usize::from(log.contains("\"stopping\""));
            }
        }
        assert!(failed > 0, "no {name} was reached: the test proves nothing");
    }
    let (status, log, _) = stopped_with(&mut bridge, None).unwrap();
    assert_eq!(status, 0, "the next start is clean: {log}");
}

/// Starts and stops the daemon with a fault. Returns its exit status and its log; `None` if it did not start.
fn stopped_with(bridge: &mut Bridge, injection: Option<Injection>) -> Option<(i32, String, Counts)> {
    let counts = bridge.folder().join("counts");
    drop(std::fs::remove_file(&counts));
    let variables = variables(&bridge.store(), &counts, injection);
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, &**value)).collect();
    let smsbridge = Command::new(env!("CARGO_BIN_EXE_smsbridge"));
    bridge.run_command(smsbridge, &[], &variables).ok()?;
    let (status, log, _) = bridge.stop();
    Some((status.code().unwrap(), log.join("\n"), counted(&counts)))
}

/// A large store full of messages from 1970: the daemon removes them when it starts, and begins to compact the log.
async fn old_messages(folder: &Path) {
    let mut options = Options::new(folder, 0);
    options.skip_sync = true;
    let store = Sled::open(&options).unwrap();
    for number in 0..850 {
        let mut large = arrival(number, 0);
        large.message.text = "x".repeat(60_000);
        large.deliveries.clear();
        store.accept(large).await.unwrap();
    }
    store.close().await.unwrap();
}

/// The log is replaced by a copy while messages arrive. Whatever fails, the messages acknowledged meanwhile and
/// afterwards are in the log that the next start reads. Only a log of 48 MiB is replaced: long form only.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs strace: tests/run"]
async fn p4_an_error_during_compaction_loses_nothing() {
    if !is_long() {
        return report("P4", "a call that fails during compaction: long form only");
    }
    let old = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    old_messages(old.path()).await;
    let calls = [("rename", rounds(6, 8)), ("fsync", rounds(6, 40))];
    let mut seen = [0; 3];
    for (call, nth) in calls
        .iter()
        .flat_map(|(call, last)| (1..=*last).map(move |nth| (call, nth)))
    {
        let mut bridge = Bridge::configured(&waiting());
        super::aged::copy(old.path(), &bridge.store());
        let what = format!("{call}:error=EIO:when={nth}");
        let (mut acknowledged, mut after) = (Vec::new(), 0);
        if bridge.run_with_faults(&[&what]).is_ok() {
            let says = |words: &str| bridge.log().iter().any(|line| line.contains(words));
            let deadline = Instant::now() + TIMEOUT;
            for number in 0.. {
                match post(&bridge, number) {
                    Some((200, _)) => acknowledged.push(number),
                    Some((status, _)) => assert_eq!(status, 503, "{what}"),
                    None => break,
                }
                after += usize::from(says("was compacted") || says("was not compacted"));
                if after > 5 || Instant::now() > deadline {
                    break;
                }
            }
            let outcomes = ["the store failed", "was not compacted", "was compacted"];
            let outcome = outcomes.iter().position(|words| says(words));
            let outcome =
                outcome.unwrap_or_else(|| panic!("{what}: nothing was compacted: the test proves nothing"));
            seen[outcome] += 1;
            if outcome == 0 {
                let status = bridge.end();
                assert_eq!(status.code(), Some(STORE_FAILED), "{what}: {status}");
            } else {
                bridge.kill();
            }
        }
        bridge.run();
        assert_eq!(
            lost(&bridge, &acknowledged),
            [0; 0],
            "{what}: acknowledged messages were lost"
        );
        wait_for("the store to be writable", || {
            (post(&bridge, 1_000)?.0 == 200).then_some(())
        });
        bridge.kill();
    }
    let [ended, given_up, compacted] = seen;
    assert!(ended > 0, "no error came at a bad time: the test proves nothing");
    report(
        "P4",
        &format!(
            "one failed call around a compaction: {compacted} compacted, {given_up} left as they were, {ended} ended with 74, 0 lost"
        ),
    );
}
