//! Outages of the database under load, with two daemons: nothing that was acknowledged is lost, and the messages of each
//! conversation keep their order.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{LEASE, owner};
use crate::bridge::{Bridge, refid, wait_for, wait_within};
use crate::postgres::{self, Cluster};
use crate::servers::recorder::{Received, Recorder, Reply, webhook};

/// Carriers with a conversation each.
const CARRIERS: usize = 6;

/// Upper bound of the deliveries that are in progress at once, and may be repeated after each outage.
const IN_PROGRESS: usize = 10;

/// What the carriers know: the number of each acknowledged message, by conversation, in order.
type Ledger = BTreeMap<usize, Vec<usize>>;

/// Carriers that send one message after the other, each to both daemons in turn until one acknowledges it.
struct Load {
    stop: Arc<AtomicBool>,
    ledger: Arc<Mutex<Ledger>>,
    /// The latest time when a message was acknowledged.
    latest: Arc<Mutex<Instant>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(bridges: &[Bridge; 2]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ledger: Arc<Mutex<Ledger>> = Arc::default();
        let latest = Arc::new(Mutex::new(Instant::now()));
        let next = Arc::new(AtomicUsize::new(1));
        let urls = [0, 1].map(|index| bridges[index].url("/inbound/intelepeer"));
        let threads = (0..CARRIERS)
            .map(|carrier| {
                let (stop, ledger, latest) = (stop.clone(), ledger.clone(), latest.clone());
                let (next, urls) = (next.clone(), urls.clone());
                std::thread::spawn(move || {
                    let from = format!("+1303555020{carrier}");
                    while !stop.load(Ordering::Relaxed) {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let body = Bridge::body(&refid(number), &from, &format!("text {number}")).to_string();
                        for attempt in carrier.. {
                            let kind = [("content-type", "application/json")];
                            let answer = crate::bridge::try_http("POST", &urls[attempt % 2], &kind, &body);
                            if answer.is_some_and(|(status, ..)| status == 200) {
                                ledger.lock().unwrap().entry(carrier).or_default().push(number);
                                *latest.lock().unwrap() = Instant::now();
                                // Deliveries must keep up.
                                std::thread::sleep(Duration::from_millis(30));
                                break;
                            }
                            if stop.load(Ordering::Relaxed) {
                                return;
                            }
                            std::thread::sleep(Duration::from_millis(20));
                        }
                    }
                })
            })
            .collect();
        Self {
            stop,
            ledger,
            latest,
            threads,
        }
    }

    fn acknowledged(&self) -> usize {
        self.ledger.lock().unwrap().values().map(Vec::len).sum()
    }

    /// Waits until this many further messages were acknowledged. Returns how long that took.
    fn continues(&self, count: usize) -> Duration {
        let (began, wanted) = (Instant::now(), self.acknowledged() + count);
        wait_within(Duration::from_secs(60), "more messages", || {
            (self.acknowledged() >= wanted).then_some(())
        });
        began.elapsed()
    }

    fn end(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        Arc::try_unwrap(self.ledger).unwrap().into_inner().unwrap()
    }
}

/// The numbers of what recorders received, in order.
fn numbers(received: &[Received]) -> Vec<usize> {
    let number = |one: &Received| {
        let json = one.json();
        let text = json["text"].as_str().unwrap_or_default().to_owned();
        text.strip_prefix("text ").and_then(|number| number.parse().ok())
    };
    received
        .iter()
        .map(|one| number(one).expect("a message of a carrier"))
        .collect()
}

/// Waits until everything acknowledged was delivered, and compares. Prints a row for the record.
fn audit(what: &str, ledger: &Ledger, received: impl Fn() -> Vec<Received>, repeats_max: usize, row: &str) {
    let acknowledged: BTreeSet<usize> = ledger.values().flatten().copied().collect();
    let end = Instant::now() + Duration::from_secs(90);
    let missing = loop {
        let delivered: BTreeSet<usize> = numbers(&received()).into_iter().collect();
        let missing: Vec<usize> = acknowledged.difference(&delivered).copied().collect();
        if missing.is_empty() || Instant::now() > end {
            break missing;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let all = numbers(&received());
    let mut first: Vec<usize> = Vec::new();
    let mut seen = BTreeSet::new();
    for number in &all {
        if seen.insert(*number) {
            first.push(*number);
        }
    }
    let positions: BTreeMap<usize, usize> = first
        .iter()
        .enumerate()
        .map(|(at, number)| (*number, at))
        .collect();
    let is_ordered = ledger.values().all(|conversation| {
        let delivered = conversation.iter().filter_map(|number| positions.get(number));
        delivered.is_sorted()
    });
    let repeats = all.len() - first.len();
    println!(
        "REPORT {what}: {} acknowledged, {} lost, {repeats} repeated, {}; {row}",
        acknowledged.len(),
        missing.len(),
        if is_ordered { "in order" } else { "OUT OF ORDER" },
    );
    assert!(missing.is_empty(), "acknowledged and lost: {missing:?}");
    assert!(is_ordered, "the order of a conversation was not kept");
    assert!(repeats <= repeats_max, "{repeats} repeats");
}

fn start(url: &str, node: &str, recorder: &Recorder) -> Bridge {
    let rest = webhook("desk", recorder, "timeout = \"5s\"") + "[routing]\nunmatched = [\"desk\"]\n";
    let keys = format!("node = \"{node}\"\nlane_lease = \"4s\"");
    let mut bridge = Bridge::on_database(url, &keys, &rest);
    bridge.run();
    bridge
}

async fn recorder() -> Recorder {
    Recorder::answering(Reply {
        delay: Duration::from_millis(20),
        ..Reply::new(200, "")
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: tests/run"]
async fn nothing_is_lost_when_the_primary_dies_and_its_synchronous_standby_is_promoted() {
    let mut primary = Cluster::start("");
    let standby = primary.standby();
    primary.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'");
    primary.sql("postgres", "SELECT pg_reload_conf()");
    wait_for("a synchronous standby", || {
        let state = primary.sql("postgres", "SELECT sync_state FROM pg_stat_replication");
        (state == "sync").then_some(())
    });
    primary.sql("postgres", "CREATE DATABASE sms");
    let url = format!(
        "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/sms?sslmode=disable&connect_timeout=2",
        primary.port(),
        standby.port()
    );
    let recorder = recorder().await;
    let bridges = ["a", "b"].map(|node| start(&url, node, &recorder));
    let load = Load::start(&bridges);
    load.continues(200);
    primary.kill();
    let died = Instant::now();
    standby.sql("postgres", "SELECT pg_promote(true, 30)");
    let promoted = died.elapsed();
    load.continues(1);
    let back = died.elapsed();
    load.continues(200);
    let ledger = load.end();
    let row = format!("promoted after {promoted:.1?}, accepting again after {back:.1?}");
    audit("failover", &ledger, || recorder.received(), 2 * IN_PROGRESS, &row);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: tests/run"]
async fn nothing_is_lost_when_all_connections_are_terminated_again_and_again() {
    let cluster = postgres::shared();
    let database = cluster.create();
    let recorder = recorder().await;
    let bridges = ["a", "b"].map(|node| start(&cluster.url(&database), node, &recorder));
    let load = Load::start(&bridges);
    load.continues(100);
    for _ in 0..8 {
        cluster.sql(
            &database,
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        );
        std::thread::sleep(Duration::from_millis(400));
    }
    let back = load.continues(100);
    let ledger = load.end();
    let row = format!("100 further messages in {back:.1?}");
    audit(
        "terminated connections",
        &ledger,
        || recorder.received(),
        IN_PROGRESS,
        &row,
    );
}

/// Passes bytes on between daemons and a server, until it is cut: then it keeps its connections and drops the bytes, as a
/// broken network does.
struct Relay {
    port: u16,
    is_cut: Arc<AtomicBool>,
}

impl Relay {
    fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let is_cut = Arc::new(AtomicBool::new(false));
        let cut = is_cut.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(upstream) = TcpStream::connect(("127.0.0.1", server)) else {
                    continue;
                };
                let pairs = [
                    (client.try_clone().unwrap(), upstream.try_clone().unwrap()),
                    (upstream, client),
                ];
                for (from, to) in pairs {
                    let cut = cut.clone();
                    std::thread::spawn(move || pass(from, to, &cut));
                }
            }
        });
        Self { port, is_cut }
    }

    fn url(&self, database: &str) -> String {
        format!(
            "postgres://postgres@127.0.0.1:{}/{database}?sslmode=disable&connect_timeout=2",
            self.port
        )
    }

    fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::Relaxed);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, is_cut: &AtomicBool) {
    let mut buffer = vec![0; 64 << 10];
    let mut is_broken = false;
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        // A connection that lost bytes once cannot continue.
        is_broken |= is_cut.load(Ordering::Relaxed);
        if !is_broken && to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_daemon_that_is_cut_off_from_the_database_stops_and_another_takes_over() {
    let cluster = postgres::shared();
    let database = cluster.create();
    let relays = [(); 2].map(|()| Relay::to(cluster.port()));
    let recorders = [recorder().await, recorder().await];
    let bridges = [0, 1].map(|index| {
        start(
            &relays[index].url(&database),
            ["a", "b"][index],
            &recorders[index],
        )
    });
    // The daemon that started second may be the one that is to serve the destination.
    std::thread::sleep(LEASE * 2);
    let first = wait_for("an owner", || owner(cluster, &database));
    let load = Load::start(&bridges);
    load.continues(100);
    relays[first].cut(true);
    let cut = Instant::now();
    // Whoever posts to the daemon that is cut off is refused in time, with 503 instead of 408.
    let (refused, taken_over) = std::thread::scope(|scope| {
        let posting = scope.spawn(|| {
            let began = Instant::now();
            let (status, answer) =
                bridges[first].post_message(&refid(900_001), "+13035550299", "text 900001");
            (status, answer, began.elapsed())
        });
        wait_within(LEASE * 4, "a delivery by the other daemon", || {
            (!recorders[1 - first].received().is_empty()).then_some(())
        });
        let taken_over = cut.elapsed();
        (posting.join().unwrap(), taken_over)
    });
    assert!(
        refused.0 == 503 && refused.2 < Duration::from_secs(11),
        "{refused:?}"
    );
    assert!(taken_over < LEASE + Duration::from_secs(2), "{taken_over:?}");
    assert_eq!(owner(cluster, &database), Some(1 - first));
    // Attempts that began before the end of the lease may still arrive; then there are none.
    let before = recorders[first].received().len();
    load.continues(100);
    std::thread::sleep(LEASE);
    assert_eq!(
        recorders[first].received().len(),
        before,
        "the daemon that is cut off sends nothing"
    );
    relays[first].cut(false);
    wait_within(Duration::from_secs(30), "the daemon to be ready again", || {
        let (status, answer) = bridges[first].admin("GET", "/status", "")?;
        (status == 200 && answer["ready"] == true).then_some(())
    });
    load.continues(100);
    let ledger = load.end();
    let received = || {
        let [one, two] = [0, 1].map(|index| recorders[(first + index) % 2].received());
        [one, two].concat()
    };
    let row = format!(
        "taken over after {taken_over:.1?}, the daemon that was cut off answered 503 after {:.1?}",
        refused.2
    );
    // The lists of two recorders say nothing about the order across the hand-over back.
    let acknowledged: BTreeSet<usize> = ledger.values().flatten().copied().collect();
    wait_within(Duration::from_secs(60), "all messages", || {
        let delivered: BTreeSet<usize> = numbers(&received()).into_iter().collect();
        acknowledged.is_subset(&delivered).then_some(())
    });
    let repeats =
        numbers(&received()).len() - numbers(&received()).into_iter().collect::<BTreeSet<_>>().len();
    println!(
        "REPORT cut off: {} acknowledged, 0 lost, {repeats} repeated; {row}",
        acknowledged.len()
    );
    assert!(repeats <= IN_PROGRESS, "{repeats} repeats");
}

/// A file system in memory, for a tablespace.
struct Small(PathBuf);

impl Small {
    fn mount(cluster: &Cluster) -> Self {
        let place = cluster.data().parent().unwrap().join("small");
        std::fs::create_dir_all(place.join("x")).unwrap();
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=48m", "tmpfs"])
            .arg(&place));
        std::fs::create_dir_all(place.join("tablespace")).unwrap();
        run(Command::new("chown")
            .arg("postgres")
            .arg(place.join("tablespace")));
        Self(place)
    }

    /// Leaves no page free.
    fn fill(&self) {
        let mut ballast = std::fs::File::create(self.0.join("ballast")).unwrap();
        while ballast.write_all(&[0; 4096]).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, for a file system: tests/run"]
async fn nothing_is_lost_when_the_disk_of_the_database_is_full_for_a_while() {
    let cluster = Cluster::start("");
    let small = Small::mount(&cluster);
    let place = small.0.join("tablespace");
    cluster.sql(
        "postgres",
        &format!("CREATE TABLESPACE small LOCATION '{}'", place.display()),
    );
    cluster.sql("postgres", "CREATE DATABASE sms TABLESPACE small");
    let recorder = recorder().await;
    let bridges = ["a", "b"].map(|node| start(&cluster.url("sms"), node, &recorder));
    let load = Load::start(&bridges);
    load.continues(100);
    small.fill();
    // What room there is in the pages is used up first.
    wait_within(Duration::from_secs(90), "a refusal", || {
        let quiet = load.latest.lock().unwrap().elapsed();
        (quiet > Duration::from_secs(2)).then_some(())
    });
    for bridge in &bridges {
        wait_for("the status to say so", || {
            let status = bridge.status();
            let is_said = status["problems"]
                .to_string()
                .contains("the disk of the database server is full");
            (is_said && status["ready"] == false).then_some(())
        });
    }
    let accepted = load.acknowledged();
    small.free();
    let back = load.continues(100);
    for bridge in &bridges {
        wait_for("the daemon to be ready", || {
            (bridge.status()["ready"] == true).then_some(())
        });
    }
    let ledger = load.end();
    let row = format!("full after {accepted} messages, 100 further ones in {back:.1?}");
    audit("full disk", &ledger, || recorder.received(), IN_PROGRESS, &row);
}
