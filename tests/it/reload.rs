//! Reloads that fail, reloads of files that are not regular, and reloads that overlap.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::poll;
use smsbridge::config::{Outside, Purpose};
use smsbridge::daemon::{Daemon, Sockets, Start};
use smsbridge::engine::clock::Clock;
use smsbridge::engine::events::Events;
use smsbridge::engine::lanes::{LaneContext, Lanes};
use smsbridge::metrics::Metrics;
use smsbridge::model::delivery::{Delivery, DeliveryId};
use smsbridge::model::message::{MessageId, Name};
use smsbridge::model::number::Number;
use smsbridge::plan::{self, Change, Loader, Plan};
use smsbridge::store::memory::Memory;
use smsbridge::store::{Arrival, Store as _};
use tokio::sync::{Semaphore, watch};

use crate::bridge::refid;
use crate::bridge::{Bridge, head, wait_for};
use crate::fixtures::message;
use crate::reloads::{SCREEN, SECOND, reload, secret};
use crate::servers::recorder::{Recorder, Reply};

fn fifo(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

/// Stops the daemon with SIGTERM and returns how long that took.
fn end(bridge: &mut Bridge) -> Duration {
    let started = Instant::now();
    bridge.signal("TERM");
    assert!(bridge.end().success());
    started.elapsed()
}

#[test]
fn a_secret_file_that_is_a_fifo_is_rejected_and_blocks_nothing() {
    let mut bridge = Bridge::configured(&format!("{SECOND}{SCREEN}"));
    let path = secret(&bridge);
    bridge.run_with(&[], &[("TOKIO_WORKER_THREADS", "2")]);
    std::fs::remove_file(&path).unwrap();
    fifo(&path);
    let reloads = [reload(&bridge), reload(&bridge)];
    bridge.signal("HUP");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(bridge.post_message(&refid(1), "+13035550100", "hello").0, 200);
    for reload in reloads {
        let (status, said) = reload.join().unwrap().expect("an answer to the reload");
        assert_eq!(status, 422, "{said}");
        let message = said["problems"][0]["message"].as_str().unwrap();
        assert!(message.contains("is a FIFO, not a regular file"), "{said}");
    }
    assert!(end(&mut bridge) < Duration::from_secs(10));
}

#[test]
fn a_configuration_that_is_not_a_regular_file_is_rejected_at_start_check_and_reload() {
    let mut bridge = Bridge::start(SCREEN);
    let path = bridge.folder().join("config.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    fifo(&path);
    let (status, said) = reload(&bridge).join().unwrap().expect("an answer to the reload");
    let message = said["problems"][0]["message"].as_str().unwrap();
    assert_eq!(
        (status, message),
        (422, "is a FIFO, not a regular file"),
        "{said}"
    );
    for command in ["check", "serve", "route"] {
        let (status, _, said) = bridge.command(&[command]);
        assert_eq!(status, 2, "{command}: {said}");
        assert!(
            said.contains("config.toml: is a FIFO, not a regular file"),
            "{command}: {said}"
        );
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, text).unwrap();
    assert_eq!(reload(&bridge).join().unwrap().unwrap().0, 200);
    assert!(end(&mut bridge) < Duration::from_secs(10));
}

/// A plan made of this configuration after [`head`].
fn plan(folder: &Path, rest: &str) -> Plan {
    let path = folder.join("config.toml");
    let data = format!("path = \"{}\"", folder.join("data").display());
    std::fs::write(&path, head().replace("path = \"data\"", &data) + rest).unwrap();
    let loaded = plan::load(&path, Purpose::Serve, &Outside::default(), None);
    loaded.unwrap_or_else(|problems| panic!("{problems}")).plan
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_that_overlap_run_one_after_the_other_and_the_newest_wins() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    let first = plan(folder.path(), SCREEN);
    std::fs::create_dir(folder.path().join("data")).unwrap();
    let (loads, at_once, gate) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(Semaphore::new(0)),
    );
    let loader = {
        let (loads, at_once, gate, path) = (loads.clone(), at_once.clone(), gate.clone(), path.clone());
        let runtime = tokio::runtime::Handle::current();
        Loader::new(&path.clone(), move |_, old| {
            assert_eq!(at_once.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
            loads.fetch_add(1, Ordering::SeqCst);
            // The configuration it has read is outdated when it continues.
            let loaded = plan::load(&path, Purpose::Serve, &Outside::default(), old);
            runtime.block_on(async { gate.acquire().await.unwrap().forget() });
            at_once.fetch_sub(1, Ordering::SeqCst);
            loaded
        })
    };
    let daemon = Daemon::start(Start {
        plan: first,
        loader,
        clock: Clock::system(),
        store: Arc::new(Memory::new()),
        metrics: Arc::default(),
        sockets: Sockets::default(),
    })
    .await
    .unwrap();
    let control = daemon.control().clone();
    let slow = tokio::spawn(async move { control.reload().await });
    wait_for("the first reload to have read", || {
        (loads.load(Ordering::SeqCst) == 1).then_some(())
    });
    let newer = plan(folder.path(), &SCREEN.replace("screen", "newer"));
    assert_eq!(newer.destinations.len(), 1);
    let mut later = Box::pin(join_all((0..20).map(|_| daemon.control().reload())));
    assert!(poll!(&mut later).is_pending());
    // A caller that stops waiting does not cancel the reload.
    slow.abort();
    gate.add_permits(2);
    for reloaded in later.await {
        let reloaded = reloaded.unwrap_or_else(|problems| panic!("{problems}"));
        let added = |change: &Change| change.key == "destination.newer" && change.what == "added";
        assert!(reloaded.changes.iter().any(added));
    }
    assert_eq!(
        loads.load(Ordering::SeqCst),
        2,
        "all that waited share one reload"
    );
    assert!(daemon.control().plan().destinations.contains_key("newer"));
    daemon.stop().await.unwrap();
}

/// Deliveries of a lane, and the plans with and without it.
struct Bench {
    lanes: Arc<Lanes>,
    plans: watch::Sender<Arc<Plan>>,
    with: Arc<Plan>,
    without: Arc<Plan>,
    server: Recorder,
}

const TAKES: Duration = Duration::from_millis(300);

impl Bench {
    async fn start() -> Self {
        let server = Recorder::start(|_| {
            let mut reply = Reply::new(200, "ok");
            reply.delay = TAKES;
            reply
        })
        .await;
        let folder = tempfile::tempdir().unwrap();
        let it = format!(
            "[destination.it]\nkind = \"webhook\"\nurl = \"{}/x\"\nconcurrency = 1\n",
            server.url("")
        );
        let with = Arc::new(plan(
            folder.path(),
            &format!("{it}[routing]\nunmatched = [\"it\"]\n"),
        ));
        let without = Arc::new(plan(folder.path(), SCREEN));
        let store = Arc::new(Memory::new());
        for number in 1..=8_u128 {
            let mut text = message("hello");
            text.id = MessageId(uuid::Uuid::from_u128(number));
            text.provider_id = number.to_string();
            text.from = Number::parse(&format!("+1303555{number:04}")).unwrap();
            let id = DeliveryId {
                message: text.id,
                ordinal: 1,
            };
            let deliveries = vec![Delivery::new(
                id,
                "it".parse().unwrap(),
                None,
                Clock::system().now(),
            )];
            let arrival = Arrival {
                dedup_since: text.received_at,
                message: text,
                deliveries,
            };
            store.accept(arrival).await.unwrap();
        }
        let lanes = Lanes::new(LaneContext {
            store,
            clock: Clock::system(),
            metrics: Arc::new(Metrics::default()),
            events: Events::default(),
        });
        let (plans, _) = watch::channel(with.clone());
        let bench = Self {
            lanes,
            plans,
            with,
            without,
            server,
        };
        bench.lanes.reconcile(&bench.plans.subscribe(), Some(&[]));
        bench.sent(1).await;
        bench
    }

    fn reload(&self, plan: &Arc<Plan>, paused: &[Name]) {
        self.plans.send_replace(plan.clone());
        self.lanes.reconcile(&self.plans.subscribe(), Some(paused));
    }

    async fn sent(&self, count: usize) {
        while self.server.received().len() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn a_destination_removed_and_added_at_once_keeps_its_one_lane() {
    // The lane may or may not have seen the plan without it in between.
    for seen in [false, true] {
        let bench = Bench::start().await;
        let name: Name = "it".parse().unwrap();
        for _ in 0..3 {
            bench.reload(&bench.without, &[]);
            if seen {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            bench.reload(&bench.with, &[]);
        }
        // With a second lane, there would be another request before this one is answered.
        tokio::time::sleep(TAKES / 2).await;
        assert_eq!(bench.server.received().len(), 1, "one at a time (seen: {seen})");
        bench.sent(3).await;
        bench.lanes.set_paused(&name, true);
        tokio::time::sleep(TAKES * 3).await;
        assert_eq!(
            bench.server.received().len(),
            3,
            "paused is paused (seen: {seen})"
        );
        bench.lanes.set_paused(&name, false);
        bench.sent(8).await;
        tokio::time::timeout(Duration::from_secs(10), bench.lanes.stop())
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_removed_destination_sends_nothing_and_continues_when_added_again() {
    let bench = Bench::start().await;
    bench.reload(&bench.without, &[]);
    tokio::time::sleep(TAKES * 3).await;
    assert_eq!(bench.server.received().len(), 1);
    assert!(
        bench.lanes.status(&"it".parse().unwrap()).is_none(),
        "its lane has ended"
    );
    bench.reload(&bench.with, &["it".parse().unwrap()]);
    tokio::time::sleep(TAKES).await;
    assert_eq!(bench.server.received().len(), 1, "paused before it was removed");
    bench.lanes.set_paused(&"it".parse().unwrap(), false);
    bench.sent(8).await;
    bench.lanes.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_reload_logs_the_same_error_for_every_trigger() {
    let bridge = Bridge::start("[routing]\nunmatched = []\n");
    let doubtful = "[destination.crm]\nkind = \"webhook\"\nurl = \"http://example.com/\"\nheaders = { authorization = \"Bearer abc\" }\n";
    bridge.configure(&format!("{doubtful}[routing]\nunmatched = [\"nobody\"]\n"));
    let failed = || -> Vec<String> {
        let log = bridge.log();
        let failed = log.iter().filter(|line| line.contains("\"reload failed: "));
        failed
            .map(|line| {
                assert!(line.contains("\"level\":\"ERROR\""), "{line}");
                let from = line.find("\"reload failed: ").unwrap();
                line[from..].to_owned()
            })
            .collect()
    };
    assert_eq!(bridge.command(&["reload"]).0, 2);
    let by_command = crate::bridge::wait_for("the errors", || (failed().len() == 2).then(failed));
    assert!(
        by_command[0].starts_with("\"reload failed: 1 error; previous"),
        "{by_command:?}"
    );
    assert!(by_command[1].contains("nobody"), "{by_command:?}");
    bridge.signal("HUP");
    let all = crate::bridge::wait_for("the errors", || (failed().len() == 4).then(failed));
    assert_eq!(all[..2], all[2..]);
}
