//! P13 and P14: how much memory a backlog takes, and how soon the daemon is back with one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use smsbridge::store::Store as _;
use smsbridge::store::sled::{Options, Sled};

use super::ledger::{nowhere, unmatched};
use super::{report, rounds};
use crate::bridge::{Bridge, try_http};
use crate::daemon::refid;
use crate::store_long::arrival;

/// Puts texts into a store, all waiting for `desk`.
async fn fill(path: &Path, count: usize) {
    let store = Sled::open(&Options::new(path, 0)).unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let now = i64::try_from(now.as_millis()).unwrap();
    futures_util::stream::iter(0..count as u64)
        .map(|number| store.accept(arrival(number, now)))
        .buffered(512)
        .for_each(|accepted| async {
            accepted.unwrap();
        })
        .await;
    store.close().await.unwrap();
}

fn waiting() -> String {
    nowhere("desk") + &unmatched(&["desk"])
}

/// The most memory the process ever had, in MiB.
fn peak(bridge: &Bridge) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", bridge.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// The promise, and what the quick form holds, which has a fiftieth of the promised backlog.
const BOUND_MIB: u64 = 256;
const BOUND_QUICK_MIB: u64 = 128;

#[tokio::test(flavor = "multi_thread")]
async fn p13_memory_is_bounded_at_any_backlog_and_any_inbound_rate() {
    let (count, connections) = (rounds(20_000, 1_000_000), 64);
    let mut bridge = Bridge::configured(&waiting());
    fill(&bridge.store(), count).await;
    bridge.run();
    let after_start = peak(&bridge);
    let (stop, next) = (Arc::new(AtomicBool::new(false)), AtomicUsize::new(0));
    let (taken, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let number = 1 << 40 | next.fetch_add(1, Ordering::Relaxed);
                    let body = Bridge::body(&refid(number), "+13035550100", &"long ".repeat(400)).to_string();
                    let url = bridge.url("/inbound/intelepeer");
                    match try_http("POST", &url, &[("content-type", "application/json")], &body) {
                        Some((200, ..)) => taken.fetch_add(1, Ordering::Relaxed),
                        Some((503, ..)) | None => refused.fetch_add(1, Ordering::Relaxed),
                        Some((status, ..)) => panic!("{status}"),
                    };
                }
            });
        }
        std::thread::sleep(Duration::from_secs(if count > 100_000 { 30 } else { 3 }));
        // Somebody looks through it all at the same time.
        for _ in 0..5 {
            let (status, _) = bridge
                .admin("GET", "/messages?limit=500&text=nowhere", "")
                .unwrap();
            assert_eq!(status, 200);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let peak = peak(&bridge);
    let bound = if count > 20_000 {
        BOUND_MIB
    } else {
        BOUND_QUICK_MIB
    };
    let words = format!(
        "{count} waiting and {connections} connections: {after_start} MiB after the start, at most {peak} MiB, {} taken, {} not",
        taken.into_inner(),
        refused.into_inner()
    );
    report("P13", &words);
    assert!(peak <= bound, "over {bound} MiB: {words}");
}

/// Linux counts in these for programs, whatever its own clock is.
const TICKS: u64 = 100;

/// Processor time the daemon has used: unlike the time that passed, it does not depend on who else is busy here.
fn processor_time(bridge: &Bridge) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", bridge.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 1_000 / TICKS)
}

/// The promise is 2 s for 100 000. A build for tests is not optimised; it gets ten times as long.
fn bound(count: usize) -> Duration {
    let slowness = if cfg!(debug_assertions) { 10 } else { 1 };
    Duration::from_millis(2_000 * slowness * count as u64 / 100_000).max(Duration::from_secs(2))
}

#[tokio::test(flavor = "multi_thread")]
async fn p14_the_daemon_is_ready_soon_after_a_kill() {
    let count = rounds(10_000, 100_000);
    let mut bridge = Bridge::configured(&waiting());
    fill(&bridge.store(), count).await;
    let (mut passed, mut worked) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let started = Instant::now();
        bridge.run();
        passed.push(started.elapsed());
        worked.push(processor_time(&bridge));
        assert_eq!(bridge.status()["messages"]["pending"], count + passed.len() - 1);
        bridge.text(&refid(passed.len()), "+13035550100", "between two kills");
        bridge.kill();
    }
    let words = format!("{count} waiting: ready after {passed:?}, {worked:?} of work");
    report("P14", &words);
    worked.sort_unstable();
    assert!(worked[1] <= bound(count), "over {:?}: {words}", bound(count));
}
