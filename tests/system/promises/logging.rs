//! P32: a log or a console that is not read delays nothing.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::ledger::{Receiver, drained, unmatched};
use super::{report, rounds};
use crate::bridge::refid;
use crate::bridge::{Bridge, TIMEOUT, http, try_http, wait_for};
use crate::faults::private_mounts;

/// Time limit for the daemon to end without pending deliveries, even if its log is blocked.
const END: Duration = Duration::from_secs(5);

/// Posts messages over several connections; each must be answered 200. Returns the longest time an answer took.
fn post(bridge: &Bridge, numbers: std::ops::Range<usize>) -> Duration {
    let url = bridge.url("/inbound/intelepeer");
    let next = std::sync::atomic::AtomicUsize::new(numbers.start);
    let one = |number: usize| {
        let from = format!("+1303555{:04}", number % 10_000);
        let body = Bridge::body(&refid(number), &from, "x").to_string();
        let started = Instant::now();
        let answer = try_http("POST", &url, &[("content-type", "application/json")], &body);
        let status = answer.map(|(status, ..)| status);
        assert_eq!(
            status,
            Some(200),
            "message {number} after {:?}",
            started.elapsed()
        );
        started.elapsed()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut slowest = Duration::ZERO;
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= numbers.end {
                            return slowest;
                        }
                        slowest = slowest.max(one(number));
                    }
                })
            })
            .collect();
        let slowest = threads.into_iter().map(|thread| thread.join().unwrap());
        slowest.max().unwrap()
    })
}

/// The number of dropped lines according to the metrics.
fn dropped(bridge: &Bridge) -> u64 {
    let lines = bridge.metrics();
    let lines = lines
        .lines()
        .filter(|line| line.starts_with("smsbridge_log_lines_dropped_total{"));
    lines
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

/// Asserts that the daemon is ready and its status names the blocked log output.
fn is_ready_and_says(bridge: &Bridge, place: &str) {
    assert_eq!(http("GET", &bridge.url("/readyz"), &[], "").0, 200);
    let words = format!("log output to {place} has been blocked");
    wait_for(&words, || {
        bridge.status()["problems"]
            .to_string()
            .contains(&words)
            .then_some(())
    });
}

/// Posts until lines are dropped, and returns how many messages that took.
fn post_until_dropped(bridge: &Bridge) -> (usize, Duration) {
    let (step, mut posted, mut slowest) = (rounds(2_000, 20_000), 0, Duration::ZERO);
    while dropped(bridge) == 0 {
        assert!(posted < 40 * step, "no line was dropped: the test proves nothing");
        slowest = slowest.max(post(bridge, posted..posted + step));
        posted += step;
    }
    (posted, slowest)
}

fn end(bridge: &mut Bridge) -> Duration {
    let started = Instant::now();
    bridge.signal("TERM");
    assert!(bridge.end().success());
    let took = started.elapsed();
    assert!(took < END, "it took {took:?} to end");
    took
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a minute: tests/run"]
async fn p32_an_unread_log_delays_nothing() {
    let receiver = Receiver::good().await;
    let mut bridge = Bridge::start(&(receiver.config("crm", "concurrency = 8") + &unmatched(&["crm"])));
    bridge.stop_reading_log(true);
    let (posted, slowest) = post_until_dropped(&bridge);
    drained(&bridge, TIMEOUT);
    is_ready_and_says(&bridge, "standard error");

    bridge.stop_reading_log(false);
    let line = bridge.logged("log lines were dropped");
    assert!(line.contains("INFO"), "it names the level: {line}");
    wait_for("the problem to end", || {
        let problems = bridge.status()["problems"].to_string();
        (!problems.contains("has been blocked")).then_some(())
    });

    bridge.stop_reading_log(true);
    post(&bridge, posted..posted + 2_000);
    is_ready_and_says(&bridge, "standard error");
    let took = end(&mut bridge);
    report(
        "P32",
        &format!(
            "standard error: {posted} messages, the slowest answer after {slowest:.1?}, ended after {took:.1?}"
        ),
    );
}

/// A fake journal whose reading can be stopped.
struct Journal {
    lines: Arc<Mutex<Vec<String>>>,
    stopped: Arc<AtomicBool>,
}

impl Journal {
    fn start(socket: &Path) -> Self {
        let socket = UnixDatagram::bind(socket).unwrap();
        let journal = Self {
            lines: Arc::default(),
            stopped: Arc::default(),
        };
        let (lines, stopped) = (journal.lines.clone(), journal.stopped.clone());
        std::thread::spawn(move || {
            let mut buffer = vec![0; 256 * 1024];
            while let Ok(length) = socket.recv(&mut buffer) {
                let line = String::from_utf8_lossy(&buffer[..length]).into_owned();
                lines.lock().unwrap().push(line);
                while stopped.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        });
        journal
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

/// The daemon with this folder mounted in place of journald's.
fn beside(journal: &Path, bridge: &Bridge) -> Command {
    let script = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && \
                  mount --bind \"$1\" /run/systemd/journal && exec \"$0\" serve --config \"$2\"";
    let mut command = private_mounts(script);
    command.arg(journal).arg(bridge.folder().join("config.toml"));
    command
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs mounts of its own: tests/run"]
async fn p32_a_journal_that_hangs_delays_nothing() {
    let receiver = Receiver::good().await;
    let mut bridge = Bridge::configured(&(receiver.config("crm", "concurrency = 8") + &unmatched(&["crm"])));
    let config = bridge.folder().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"json\"", "\"journald\"")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::start(&folder.path().join("socket"));
    let command = beside(folder.path(), &bridge);
    bridge.run_logging(command, &[], || journal.lines()).unwrap();
    let ready = journal
        .lines()
        .into_iter()
        .find(|line| line.contains("ready: "))
        .unwrap();
    for field in [
        "PRIORITY\n\u{1}\0\0\0\0\0\0\u{0}5\n",
        "SYSLOG_IDENTIFIER\n",
        "smsbridge\n",
        "F_VERSION\n",
        "CODE_LINE",
    ] {
        assert!(ready.contains(field), "{field:?} is missing in {ready:?}");
    }

    journal.stopped.store(true, Ordering::Relaxed);
    let (posted, slowest) = post_until_dropped(&bridge);
    drained(&bridge, TIMEOUT);
    is_ready_and_says(&bridge, "the journal");

    journal.stopped.store(false, Ordering::Relaxed);
    wait_for("the number of dropped lines", || {
        let mut lines = journal.lines().into_iter();
        lines.find(|line| line.contains("log lines were dropped"))
    });

    journal.stopped.store(true, Ordering::Relaxed);
    post(&bridge, posted..posted + 2_000);
    let took = end(&mut bridge);
    report(
        "P32",
        &format!(
            "the journal: {posted} messages, the slowest answer after {slowest:.1?}, ended after {took:.1?}"
        ),
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a minute: tests/run"]
async fn p32_an_unread_console_delays_nothing() {
    let receiver = Receiver::good().await;
    let config = receiver.config("crm", "concurrency = 8")
        + "[destination.screen]\nkind = \"console\"\nretry = { initial = \"100ms\", max = \"1s\" }\n"
        + &unmatched(&["crm", "screen"]);
    let mut bridge = Bridge::start(&config);
    bridge.stop_reading_console(true);
    let messages = rounds(3_000, 30_000);
    let slowest = post(&bridge, 0..messages);
    wait_for("the other destination's messages", || {
        (receiver.taken().len() >= messages).then_some(())
    });
    assert_eq!(http("GET", &bridge.url("/readyz"), &[], "").0, 200);
    let screen = || {
        let status = bridge.status();
        let mut all = status["destinations"].as_array().unwrap().iter();
        all.find(|one| one["name"] == "screen").unwrap().clone()
    };
    wait_for("the console to be down", || {
        (screen()["state"] == "down").then_some(())
    });
    let written = messages - usize::try_from(screen()["pending"].as_u64().unwrap()).unwrap();
    assert!(written < messages, "{written}: the test proves nothing");

    bridge.stop_reading_console(false);
    drained(&bridge, TIMEOUT);
    let mut lines = bridge.console();
    lines.sort_unstable();
    assert_eq!(lines.len(), messages, "each message is written once");

    bridge.stop_reading_console(true);
    post(&bridge, messages..2 * messages);
    let took = end(&mut bridge);
    report(
        "P32",
        &format!(
            "the console: {messages} messages, the slowest answer after {slowest:.1?}, ended after {took:.1?}"
        ),
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, for a file system: tests/run"]
async fn p32_a_log_file_on_a_full_disk_delays_nothing_and_continues_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::ext4(folder.path(), "log", 4 * 1024 * 1024);
    let (log, filler) = (disk.path().join("log"), disk.path().join("filler"));
    let receiver = Receiver::good().await;
    let mut bridge = Bridge::configured(&(receiver.config("crm", "concurrency = 8") + &unmatched(&["crm"])));
    let mut shell = Command::new("sh");
    shell
        .args([
            "-c",
            "exec \"$0\" serve --config \"$1\" 2>>\"$2\"",
            env!("CARGO_BIN_EXE_smsbridge"),
        ])
        .arg(bridge.folder().join("config.toml"))
        .arg(&log);
    let lines = || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    bridge.run_logging(shell, &[], lines).unwrap();
    assert_eq!(
        std::fs::write(&filler, vec![0; 8 * 1024 * 1024])
            .unwrap_err()
            .raw_os_error(),
        Some(28)
    );
    let mut posted = 0;
    while dropped(&bridge) == 0 {
        assert!(posted < 20_000, "no line was dropped: the test proves nothing");
        post(&bridge, posted..posted + 100);
        posted += 100;
    }
    assert_eq!(http("GET", &bridge.url("/readyz"), &[], "").0, 200);
    std::fs::remove_file(&filler).unwrap();
    post(&bridge, posted..posted + 10);
    wait_for("the number of dropped lines", || {
        lines()
            .into_iter()
            .find(|line| line.contains("log lines were dropped"))
    });
    drained(&bridge, TIMEOUT);
    let dropped = dropped(&bridge);
    end(&mut bridge);
    let broken = lines()
        .into_iter()
        .filter(|line| serde_json::from_str::<serde_json::Value>(line).is_err());
    // A full disk sometimes frees a block, which has space for part of a line; that line counts as dropped.
    let broken = broken.count();
    assert!(
        broken as u64 <= dropped,
        "{broken} lines are cut, {dropped} were dropped"
    );
}
