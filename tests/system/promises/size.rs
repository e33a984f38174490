//! P13 and P14: the memory that a backlog takes, and the time of a start with one.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use smsbridge::store::Store as _;
use smsbridge::store::sled::{Options, Sled};

use super::cgroup::Cgroup;
use super::disk::{Disk, run, yard};
use super::ledger::{nowhere, stored, unmatched};
use super::{report, rounds};
use crate::bridge::refid;
use crate::bridge::{Bridge, try_http};
use crate::fixtures::arrival;

/// Puts messages into a store, all pending for `desk`.
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

/// The peak memory of the process in MiB.
pub fn peak(bridge: &Bridge) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", bridge.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// The promise, and the bound of the quick form, which has a fiftieth of the promised backlog.
pub const BOUND_MIB: u64 = 256;
pub const BOUND_QUICK_MIB: u64 = 128;

/// The daemon in a control group with exactly the promised memory and no swap, and its peak memory without the page
/// cache.
struct Confined {
    group: Cgroup,
    peak: AtomicU64,
}

impl Confined {
    fn new() -> Self {
        Self {
            group: Cgroup::with_memory(BOUND_MIB << 20),
            peak: AtomicU64::new(0),
        }
    }

    /// A command that moves into the group and becomes the daemon.
    fn command(&self) -> Command {
        let mut command = self.group.enter();
        command.arg(env!("CARGO_BIN_EXE_smsbridge"));
        command
    }

    /// Samples the memory in use until `stop` is set.
    fn sample(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            self.peak
                .fetch_max(self.group.anonymous() >> 20, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Describes the peak; asserts that there was no OOM kill.
    fn seen(&self) -> String {
        assert_eq!(
            self.group.kills(),
            0,
            "the kernel ended the daemon: over {BOUND_MIB} MiB"
        );
        let peak = self.peak.load(Ordering::Relaxed);
        assert!(peak > 0, "the group was empty: the test proves nothing");
        format!("in a group of {BOUND_MIB} MiB at most {peak} MiB without page cache, no OOM kill")
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, for a control group: tests/run"]
async fn p13_memory_is_bounded_at_any_backlog_and_any_inbound_rate() {
    let (count, connections) = (rounds(20_000, 1_000_000), 64);
    let confined = Confined::new();
    let mut bridge = Bridge::configured(&waiting());
    fill(&bridge.store(), count).await;
    bridge.run_command(confined.command(), &[], &[]).unwrap();
    let after_start = peak(&bridge);
    let (stop, next) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (taken, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
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
        scope.spawn(|| confined.sample(&stop));
        std::thread::sleep(Duration::from_secs(if count > 100_000 { 30 } else { 3 }));
        // An operator lists everything at the same time.
        for _ in 0..5 {
            let (status, _) = bridge
                .admin("GET", "/messages?limit=500&text=nowhere", "")
                .unwrap();
            assert_eq!(status, 200);
        }
    });
    let peak = peak(&bridge);
    let bound = if count > 20_000 {
        BOUND_MIB
    } else {
        BOUND_QUICK_MIB
    };
    let words = format!(
        "{count} pending and {connections} connections: {after_start} MiB after the start, at most {peak} MiB, {}; {} taken, {} not",
        confined.seen(),
        taken.into_inner(),
        refused.into_inner()
    );
    report("P13", &words);
    assert!(peak <= bound, "over {bound} MiB: {words}");
    bridge.kill();
}

/// More than the store's queue holds and one commit takes, 1 024 each.
const CROWD: usize = 3_000;

/// Many connections, and a disk that hangs repeatedly for four seconds: messages that do not fit into the queue
/// are refused with `Retry-After`, those that fit are kept, and no answer takes long.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, for a control group: tests/run"]
async fn p13_overload_is_a_503_in_time_and_accepted_messages_are_kept() {
    let confined = Confined::new();
    allow_files(4 * CROWD);
    let yard = yard();
    let disk = Disk::ext4(yard.path(), "slow", 512 << 20);
    let mut bridge = Bridge::placed(&disk.path().join("store"), "min_free = \"1MiB\"", &waiting());
    let config = bridge.folder().join("config.toml");
    let room = format!("[server]\nmax_connections = {}\n", 2 * CROWD);
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replacen("[server]\n", &room, 1)).unwrap();
    bridge.run_command(confined.command(), &[], &[]).unwrap();
    let address = bridge.url("").strip_prefix("http://").unwrap().to_owned();
    let until = Instant::now() + Duration::from_secs(rounds(12, 60) as u64);
    let stop = AtomicBool::new(false);
    let posted = std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| confined.sample(&stop));
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                disk.freeze();
                std::thread::sleep(Duration::from_secs(4));
                disk.thaw();
                std::thread::sleep(Duration::from_millis(300));
            }
        });
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(crowd(&address, until)))
    });
    let of = |status| {
        posted
            .iter()
            .filter(|posted| posted.status == status)
            .collect::<Vec<_>>()
    };
    let (taken, refused, closed) = (of(200), of(503), of(0).len());
    let answered = posted.iter().filter(|posted| posted.status != 0);
    let longest = answered.map(|posted| posted.took).max().unwrap();
    let quickest = refused.iter().map(|posted| posted.took).min();
    let peak = peak(&bridge);
    let words = format!(
        "{CROWD} connections on a slow disk: {} taken, {} refused with 503 and Retry-After, {closed} closed, the slowest answer after {:.1} s, the quickest 503 after {quickest:.1?}; {peak} MiB, {}",
        taken.len(),
        refused.len(),
        longest.as_secs_f64(),
        confined.seen()
    );
    report("P13", &words);
    assert!(
        !taken.is_empty() && refused.len() > CROWD / 10,
        "no overload: the test proves nothing {words}"
    );
    // The promise is 10 s, of the program as it is released. A build for tests on a slow machine does not even read
    // the heads of thousands of requests within `header_timeout`.
    let (bound, may_close) = if cfg!(debug_assertions) {
        (Duration::from_secs(60), posted.len() / 10)
    } else {
        (Duration::from_secs(10), 0)
    };
    assert!(longest < bound, "an answer took too long: {words}");
    assert!(
        closed <= may_close,
        "connections were closed without an answer: {words}"
    );
    assert!(peak <= BOUND_MIB, "over {BOUND_MIB} MiB: {words}");
    bridge.kill();
    bridge.run();
    let there = stored(&bridge);
    let lost = taken
        .iter()
        .filter(|posted| !there.contains_key(&refid(posted.number)))
        .count();
    assert_eq!(lost, 0, "acknowledged messages were lost: {words}");
}

struct Posted {
    number: usize,
    status: u16,
    took: Duration,
}

/// Stops threads when it is dropped, also when the test has failed and waits for them.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Many connections at once, each of which posts one message after the other.
async fn crowd(address: &str, until: Instant) -> Vec<Posted> {
    let next = AtomicUsize::new(0);
    let connections = (0..CROWD).map(|_| async {
        let mut posted = Vec::new();
        while Instant::now() < until {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let began = Instant::now();
            let (status, took) = post(address, number)
                .await
                .unwrap_or_else(|_| (0, began.elapsed()));
            posted.push(Posted { number, status, took });
            if status != 200 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        posted
    });
    futures_util::future::join_all(connections)
        .await
        .into_iter()
        .flatten()
        .collect()
}

/// The status of the answer, which is 200 or a 503 with `Retry-After`, and its duration; an error if there was none.
/// The time that the kernel takes to connect is not included: it drops connections that do not fit into its queue, and
/// the other side's kernel retries after one, three, seven and fifteen seconds.
async fn post(address: &str, number: usize) -> std::io::Result<(u16, Duration)> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let body = Bridge::body(&refid(number), "+13035550100", &"long ".repeat(200)).to_string();
    let head = format!(
        "POST /inbound/intelepeer HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let began = Instant::now();
    stream.write_all((head + &body).as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    if answer.is_empty() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let answer = answer.to_lowercase();
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    assert!(
        status == 200 || status == 503 && answer.contains("\r\nretry-after: "),
        "{answer}"
    );
    Ok((status, began.elapsed()))
}

/// Raises the limit of open files of this process and its children.
fn allow_files(count: usize) {
    let process = std::process::id().to_string();
    run(Command::new("prlimit").args(["--pid", &process, &format!("--nofile={count}:")]));
}

/// The ticks per second in `/proc`.
const TICKS: u64 = 100;

/// The processor time of the daemon, which does not depend on other load on the machine.
fn processor_time(bridge: &Bridge) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", bridge.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 1_000 / TICKS)
}

/// The promise is 2 s with 100 000 pending messages, for the released program. A test build is not optimised and may
/// take ten times as long, which only shows that the time is bounded: `tests/torture` takes a release build.
fn bound(count: usize) -> (Duration, &'static str) {
    let (slowness, build) = if cfg!(debug_assertions) {
        (10, "a build for tests")
    } else {
        (1, "a release build")
    };
    let bound = Duration::from_millis(2_000 * slowness * count as u64 / 100_000);
    (bound.max(Duration::from_secs(2)), build)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a processor of its own: tests/run"]
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
        bridge.post_message(&refid(passed.len()), "+13035550100", "between two kills");
        bridge.kill();
    }
    let (bound, build) = bound(count);
    let words = format!(
        "{count} waiting, {build}, which may take {bound:?}: ready after {passed:.1?}, {worked:.1?} of work"
    );
    report("P14", &words);
    worked.sort_unstable();
    passed.sort_unstable();
    // On a shared machine only the processor time is meaningful.
    let judged = if cfg!(debug_assertions) { &worked } else { &passed };
    assert!(judged[1] <= bound, "over {bound:?}: {words}");
}
