//! P18: a wall clock that jumps by a day, forwards and back, while messages are accepted and delivered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use smsbridge::config::{Outside, Purpose};
use smsbridge::daemon::{Daemon, Sockets, Start};
use smsbridge::engine::clock::Clock;
use smsbridge::model::destination_state::DestinationState;
use smsbridge::model::message::Timestamp;
use smsbridge::plan::{self, Loader};
use smsbridge::store::Store;
use smsbridge::store::sled::{Options, Sled};

use super::ledger::{Receiver, nowhere, unmatched};
use super::{report, rounds};
use crate::bridge::refid;
use crate::bridge::{Bridge, head, http, wait_for};
use crate::servers::recorder::Reply;

const DAY: i64 = 86_400_000;
const RATE: usize = 50;

/// Starts a daemon in this process with a simulated clock.
pub async fn daemon(folder: &std::path::Path, clock: Clock) -> (Daemon, Arc<dyn Store>) {
    let path = folder.join("config.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let store = format!("path = \"{}\"", folder.join("data").display());
    std::fs::write(&path, text.replace("path = \"data\"", &store)).unwrap();
    let plan = plan::load(&path, Purpose::Serve, &Outside::default(), None)
        .ok()
        .unwrap()
        .plan;
    let options = Options::new(&plan.store.path, 0);
    let store: Arc<dyn Store> = Arc::new(
        tokio::task::spawn_blocking(move || Sled::open(&options))
            .await
            .unwrap()
            .unwrap(),
    );
    let start = Start {
        metrics: std::sync::Arc::default(),
        plan,
        loader: Loader::new(&path.clone(), move |_, old| {
            plan::load(&path, Purpose::Serve, &Outside::default(), old)
        }),
        clock,
        store: store.clone(),
        sockets: Sockets::default(),
    };
    (Daemon::start(start).await.unwrap(), store)
}

/// A machine whose wall clock and steady clock are this many milliseconds off.
#[derive(Clone, Default)]
pub struct Machine {
    wall: Arc<AtomicI64>,
    steady: Arc<AtomicI64>,
}

impl Machine {
    pub fn off_by(milliseconds: i64) -> Self {
        let machine = Self::default();
        machine.wall.store(milliseconds, Ordering::Relaxed);
        machine.steady.store(milliseconds, Ordering::Relaxed);
        machine
    }

    /// Lets time pass.
    pub fn pass(&self, milliseconds: i64) {
        self.wall.fetch_add(milliseconds, Ordering::Relaxed);
        self.steady.fetch_add(milliseconds, Ordering::Relaxed);
    }

    /// Sets the wall clock.
    fn set_date(&self, milliseconds: i64) {
        self.wall.store(milliseconds, Ordering::Relaxed);
    }

    /// Its clocks as seen by a process that starts now.
    pub fn clock(&self) -> Clock {
        let real = Clock::system();
        let (steady, Self { wall, steady: passed }) = (real.clone(), self.clone());
        Clock::apart(
            move || Timestamp(real.wall().0 + wall.load(Ordering::Relaxed)),
            move || Timestamp(steady.now().0 + passed.load(Ordering::Relaxed)),
        )
    }
}

async fn problems(daemon: &Daemon) -> String {
    let problems = daemon.control().status().await.unwrap().problems;
    let messages: Vec<String> = problems.into_iter().map(|problem| problem.message).collect();
    messages.join("; ")
}

fn post(daemon: &Daemon, number: usize) -> String {
    post_from(daemon, number, &format!("+1303555{:04}", number % 40))
}

fn post_from(daemon: &Daemon, number: usize, from: &str) -> String {
    let url = format!("http://{}/inbound/intelepeer", daemon.public_addresses()[0]);
    let body = Bridge::body(&refid(number), from, "x").to_string();
    let (status, _, body) = http("POST", &url, &[("content-type", "application/json")], &body);
    assert_eq!(status, 200, "{body}");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    body["status"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn p18_a_clock_that_jumps_a_day_loses_nothing_and_makes_no_burst() {
    let failing = Receiver::start(|_| Reply::new(503, "not now")).await;
    let (good, limited) = (Receiver::good().await, Receiver::good().await);
    let tried = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = tried.clone();
    let counted = Receiver::start(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Reply::new(503, "not now")
    })
    .await;
    drop(failing);
    // `give_up_after` is half a day: an age by the jumping clock would exceed it immediately.
    let retry = "retry = { initial = \"1s\", max = \"1s\", give_up_after = \"12h\" }";
    let config = good.config("good", "")
        + &counted.config("down", retry)
        + &limited.config("limited", &format!("rate = \"{RATE}/s\""))
        + &unmatched(&["good", "down", "limited"]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.toml"), head() + &config).unwrap();

    let jump = Arc::new(AtomicI64::new(0));
    let (real, jumped) = (Clock::system(), jump.clone());
    let steady = real.clone();
    let clock = Clock::apart(
        move || Timestamp(real.wall().0 + jumped.load(Ordering::Relaxed)),
        move || steady.now(),
    );
    let (running, store) = daemon(folder.path(), clock).await;
    let began = Instant::now();
    let jumps = rounds(6, 200);
    let mut number = 0;
    for round in 0..jumps {
        jump.store([1, -1, 0][round % 3] * DAY, Ordering::Relaxed);
        for _ in 0..10 {
            assert_eq!(post(&running, number), "accepted");
            number += 1;
        }
        assert_eq!(post(&running, number - 1), "duplicate", "of just now");
        assert_eq!(post(&running, 0), "duplicate", "of a day ago or ahead");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (elapsed, taken) = (began.elapsed().as_secs_f64(), limited.taken().len());
        assert!(
            taken as f64 <= elapsed * RATE as f64 + 2.0,
            "a burst: {taken} in {elapsed:.2} s"
        );
    }
    wait_for("every message", || {
        (good.taken().len() == number && limited.taken().len() == number).then_some(())
    });
    let (elapsed, tried) = (began.elapsed().as_secs_f64(), tried.load(Ordering::Relaxed));
    assert!(
        tried as f64 <= elapsed / 0.1 + 2.0,
        "a burst of retries: {tried} in {elapsed:.1} s"
    );
    assert!(tried > 1, "it was tried again");
    let counts = store.counts().await.unwrap();
    assert_eq!(
        (counts.dead, counts.pending),
        (0, number as u64),
        "nothing was given up"
    );
    running.stop().await.unwrap();
    drop(store);
    report(
        "P18",
        &format!(
            "{jumps} jumps of a day, {number} messages: 0 lost, 0 given up, no burst, {tried} tries in {elapsed:.1} s"
        ),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn p18_a_start_far_ahead_removes_nothing_for_a_day() {
    let good = Receiver::good().await;
    let refusing = Receiver::start(|_| Reply::new(400, "no")).await;
    let config =
        good.config("good", "") + &refusing.config("refusing", "") + &unmatched(&["good", "refusing"]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.toml"), head() + &config).unwrap();
    let count = 7;
    let (running, store) = daemon(folder.path(), Machine::default().clock()).await;
    for number in 0..count {
        assert_eq!(post(&running, number), "accepted");
    }
    while store.counts().await.unwrap().pending > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.stop().await.unwrap();
    drop(store);

    // Far beyond `retain`, and the status reports it.
    let machine = Machine::off_by(100 * DAY);
    let (running, store) = daemon(folder.path(), machine.clock()).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let counts = store.counts().await.unwrap();
    assert_eq!(
        (counts.messages_purged, counts.dead),
        (0, count as u64),
        "something was forgotten"
    );
    let said = problems(&running).await;
    assert!(said.contains("the machine's clock is 100 days ahead"), "{said}");
    assert_eq!(post(&running, 0), "duplicate", "of what is known");
    machine.pass(DAY / 2);
    running.stop().await.unwrap();
    drop(store);

    // A restart does not end the doubt about the date; setting the date does.
    let (running, store) = daemon(folder.path(), machine.clock()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(store.counts().await.unwrap().messages_purged, 0);
    assert!(
        problems(&running).await.contains("for another 1"),
        "{}",
        problems(&running).await
    );
    machine.set_date(DAY / 2);
    let said = problems(&running).await;
    assert!(!said.contains("clock"), "{said}");
    machine.set_date(100 * DAY + DAY / 2);

    // A machine that was actually off for that long.
    machine.pass(DAY / 2);
    running.stop().await.unwrap();
    drop(store);
    let (running, store) = daemon(folder.path(), machine.clock()).await;
    let began = std::time::Instant::now();
    while store.counts().await.unwrap().messages_purged < count as u64 {
        assert!(began.elapsed() < Duration::from_secs(60), "nothing was purged");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!problems(&running).await.contains("clock"));
    running.stop().await.unwrap();
    report(
        "P18",
        &format!("a start 100 days ahead: 0 of {count} forgotten on the first day"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn p18_a_start_a_day_ahead_gives_up_nothing_and_delays_nothing_when_the_clock_is_corrected() {
    let (is_up, tried) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (up, count_tries) = (is_up.clone(), tried.clone());
    let receiver = Receiver::start(move |_| {
        count_tries.fetch_add(1, Ordering::Relaxed);
        if up.load(Ordering::Relaxed) {
            Reply::new(200, "ok")
        } else {
            Reply::new(503, "not now")
        }
    })
    .await;
    let retry = "retry = { initial = \"1s\", max = \"1s\", give_up_after = \"12h\" }";
    let config = receiver.config("down", retry)
        + "[[route]]\nname = \"kept\"\nfrom = [\"+13039990000\"]\ndeliver = []\n"
        + &unmatched(&["down"]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.toml"), head() + &config).unwrap();
    let count = 50;
    let (running, store) = daemon(folder.path(), Machine::default().clock()).await;
    for number in 0..count {
        assert_eq!(post(&running, number), "accepted");
    }
    running.stop().await.unwrap();
    drop(store);

    let machine = Machine::off_by(DAY);
    tried.store(0, Ordering::Relaxed);
    let (running, store) = daemon(folder.path(), machine.clock()).await;
    // The second failure in a row counts for the whole destination.
    wait_for("some attempts", || {
        (tried.load(Ordering::Relaxed) >= 5).then_some(())
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let counts = store.counts().await.unwrap();
    assert_eq!(
        (counts.dead, counts.pending),
        (0, count as u64),
        "given up after {tried:?} attempts"
    );
    let down = running.control().status().await.unwrap().destinations.remove(0);
    assert_eq!(down.state, DestinationState::Down);

    // The date is set while the daemon runs, and the newest message is not pending.
    machine.set_date(0);
    let now = machine.clock().wall();
    let shown = running.control().status().await.unwrap().destinations.remove(0);
    let until = shown.until.unwrap();
    assert!(
        until.since(now) < Duration::from_secs(60),
        "the next attempt is shown for {until}"
    );
    assert_eq!(post_from(&running, count, "+13039990000"), "accepted");
    running.stop().await.unwrap();
    drop(store);

    is_up.store(true, Ordering::Relaxed);
    let (running, store) = daemon(folder.path(), Machine::default().clock()).await;
    wait_for("what waited", || (receiver.taken().len() == count).then_some(()));
    running.stop().await.unwrap();
    drop(store);
    report(
        "P18",
        &format!("a start a day ahead: 0 of {count} given up, and none waits when the date is set back"),
    );
}

/// A machine without a battery-backed clock: its clock starts decades in the past and is set while the daemon runs.
#[tokio::test(flavor = "multi_thread")]
async fn p18_messages_received_decades_behind_are_kept_when_the_clock_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let config = nowhere("down") + "[[route]]\nname = \"kept\"\ndeliver = []\n" + &unmatched(&["down"]);
    std::fs::write(folder.path().join("config.toml"), head() + &config).unwrap();
    let (running, store) = daemon(folder.path(), Machine::default().clock()).await;
    assert_eq!(post(&running, 0), "accepted");
    running.stop().await.unwrap();
    drop(store);

    let machine = Machine::off_by(-20 * 365 * DAY);
    let (running, store) = daemon(folder.path(), machine.clock()).await;
    let said = problems(&running).await;
    assert!(said.contains(" days behind the time that is known"), "{said}");
    assert_eq!(post(&running, 0), "duplicate");
    assert_eq!(post(&running, 1), "accepted");
    machine.set_date(0);
    assert!(!problems(&running).await.contains("clock"));
    running.stop().await.unwrap();
    drop(store);

    let (running, store) = daemon(folder.path(), Machine::default().clock()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(store.counts().await.unwrap().messages_purged, 0);
    assert_eq!(post(&running, 1), "duplicate");
    running.stop().await.unwrap();
}
