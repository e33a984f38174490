//! P18: a wall clock that jumps by a day, forwards and back, while texts come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use smsbridge::clock::Clock;
use smsbridge::config::{Outside, Purpose};
use smsbridge::daemon::{Daemon, Sockets, Start};
use smsbridge::message::Timestamp;
use smsbridge::plan::{self, Loader};
use smsbridge::store::Store;
use smsbridge::store::sled::{Options, Sled};

use super::ledger::{Receiver, unmatched};
use super::{report, rounds};
use crate::bridge::{Bridge, head, http, wait_for};
use crate::daemon::refid;
use crate::servers::recorder::Reply;

const DAY: i64 = 86_400_000;
const RATE: usize = 50;

async fn daemon(folder: &std::path::Path, clock: Clock) -> (Daemon, Arc<dyn Store>) {
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

fn post(daemon: &Daemon, number: usize) -> String {
    let url = format!("http://{}/inbound/intelepeer", daemon.public_addresses()[0]);
    let from = format!("+1303555{:04}", number % 40);
    let body = Bridge::body(&refid(number), &from, "x").to_string();
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
    // Half a day of patience: an age told by the jumping clock would be over it at once.
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
    wait_for("every text", || {
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

    // The machine comes up a day behind its newest text, as `serve` finds it: what waits does not wait a day.
    let taking = Receiver::good().await;
    let config = good.config("good", "") + &taking.config("down", "") + &limited.config("limited", "");
    let config = head() + &config + &unmatched(&["good", "down", "limited"]);
    std::fs::write(folder.path().join("config.toml"), config).unwrap();
    let latest = Timestamp(Clock::system().wall().0 + DAY);
    let (running, store) = daemon(folder.path(), Clock::since(latest)).await;
    wait_for("what waited", || (taking.taken().len() == number).then_some(()));
    assert_eq!(post(&running, 0), "duplicate");
    running.stop().await.unwrap();
    drop(store);
    report(
        "P18",
        &format!(
            "{jumps} jumps of a day, {number} texts: 0 lost, 0 given up, no burst, {tried} tries in {elapsed:.1} s"
        ),
    );
}
