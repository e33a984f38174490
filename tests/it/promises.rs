//! Promises that need a daemon to be hurt. The quick form runs here; `SMSBRIDGE_ROUNDS` makes it long.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::bridge::{Bridge, try_http, wait_for};
use crate::daemon::{refid, webhook};
use crate::servers::recorder::{Recorder, Reply};

fn rounds(quick: u64) -> u64 {
    std::env::var("SMSBRIDGE_ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(quick)
}

/// A carrier that posts as fast as it can, notes what was acknowledged, and sends again what was not.
struct Carrier {
    address: Arc<Mutex<String>>,
    acknowledged: Arc<Mutex<BTreeMap<String, String>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Carrier {
    fn start(address: &str, connections: usize) -> Self {
        let address = Arc::new(Mutex::new(address.to_owned()));
        let acknowledged: Arc<Mutex<BTreeMap<String, String>>> = Arc::default();
        let (stop, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = (0..connections)
            .map(|_| {
                let (address, acknowledged) = (address.clone(), acknowledged.clone());
                let (stop, next) = (stop.clone(), next.clone());
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let refid = refid(next.fetch_add(1, Ordering::Relaxed));
                        let id = post_until_acknowledged(&address, &refid, &stop);
                        acknowledged.lock().unwrap().extend(id.map(|id| (refid, id)));
                    }
                })
            })
            .collect();
        Self {
            address,
            acknowledged,
            stop,
            threads,
        }
    }

    fn redirect(&self, address: &str) {
        *self.address.lock().unwrap() = address.to_owned();
    }

    fn end(self) -> BTreeMap<String, String> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        Arc::try_unwrap(self.acknowledged).unwrap().into_inner().unwrap()
    }
}

/// The bridge's id, once it answered 200. A refused or broken connection is tried again, as a carrier would.
fn post_until_acknowledged(address: &Mutex<String>, refid: &str, stop: &AtomicBool) -> Option<String> {
    let body = Bridge::body(refid, "+13035550100", "ledger").to_string();
    loop {
        let url = address.lock().unwrap().clone();
        let answer = try_http("POST", &url, &[("content-type", "application/json")], &body);
        if let Some((200, _, body)) = answer {
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            return Some(body["id"].as_str().unwrap().to_owned());
        }
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_kill_9_at_any_instant_loses_nothing_acknowledged() {
    let rounds = rounds(8);
    let recorder = Recorder::start(|_| Reply::new(200, "ok")).await;
    let config = webhook(
        "crm",
        &recorder,
        "retry = { initial = \"50ms\", max = \"200ms\" }",
    );
    let mut bridge = Bridge::start(&(config + "[routing]\nunmatched = [\"crm\"]\n"));
    let carrier = Carrier::start(&bridge.url("/inbound/intelepeer"), 4);
    let mut pause = 137;
    for _ in 0..rounds {
        // A different instant each time, spread without a clock: 20 to 400 ms.
        pause = (pause * 7919 + 13) % 381;
        std::thread::sleep(Duration::from_millis(20 + pause));
        bridge.kill();
        bridge.run();
        carrier.redirect(&bridge.url("/inbound/intelepeer"));
    }
    std::thread::sleep(Duration::from_millis(300));
    let acknowledged = carrier.end();
    assert!(
        acknowledged.len() > 50,
        "only {} texts were acknowledged",
        acknowledged.len()
    );
    let delivered = || {
        recorder
            .received()
            .iter()
            .map(|received| received.header("webhook-id").to_owned())
            .collect::<Vec<_>>()
    };
    let missing = || {
        let delivered: BTreeSet<String> = delivered().into_iter().collect();
        acknowledged
            .values()
            .filter(|id| !delivered.contains(&format!("{id}-1")))
            .cloned()
            .collect::<Vec<_>>()
    };
    wait_for("every acknowledged text", || missing().is_empty().then_some(()));
    let all = delivered();
    let distinct: BTreeSet<&String> = all.iter().collect();
    let repeats = all.len() - distinct.len();
    println!(
        "{rounds} kills: {} acknowledged, {} delivered, {repeats} repeated",
        acknowledged.len(),
        distinct.len()
    );
    assert!(
        repeats as u64 <= rounds,
        "at most the one send in flight is repeated per kill: {repeats}"
    );
}

/// A destination that nobody answers at, so that everything waits.
const NOWHERE: &str = "[destination.crm]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:9/sms\"\n\
                       [routing]\nunmatched = [\"crm\"]\n";

fn pending(bridge: &Bridge) -> u64 {
    let (exit, status, error) = bridge.command(&["status", "--json"]);
    assert_eq!(exit, 0, "{error}");
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    status["messages"]["pending"].as_u64().unwrap()
}

#[test]
fn p4_a_failed_sync_is_never_a_200_and_ends_the_daemon_with_a_status_of_its_own() {
    let mut bridge = Bridge::configured(NOWHERE);
    bridge.run();
    let before: Vec<u16> = (0..20)
        .map(|number| bridge.text(&refid(number), "+13035550100", "x").0)
        .collect();
    assert_eq!(before, [200; 20]);
    bridge.stop();
    bridge.run_with_faults(&["fdatasync:error=EIO:when=8+"]).unwrap();
    let url = bridge.url("/inbound/intelepeer");
    let mut acknowledged = 20;
    for number in 20..60 {
        let body = Bridge::body(&refid(number), "+13035550100", "x").to_string();
        match try_http("POST", &url, &[("content-type", "application/json")], &body) {
            Some((200, ..)) => acknowledged += 1,
            Some((503, head, _)) => assert!(head.to_lowercase().contains("retry-after"), "{head}"),
            Some((status, ..)) => panic!("{status}"),
            None => break,
        }
    }
    assert!(acknowledged < 60, "no sync failed: is the test blind?");
    assert_eq!(bridge.end().code(), Some(74));
    bridge.run();
    assert!(
        pending(&bridge) >= acknowledged,
        "{} of {acknowledged}",
        pending(&bridge)
    );
}

#[test]
fn p4_a_read_error_while_opening_loses_nothing() {
    let mut bridge = Bridge::start(NOWHERE);
    for number in 0..300 {
        assert_eq!(
            bridge
                .text(&refid(number), "+13035550100", &"long ".repeat(100))
                .0,
            200
        );
    }
    bridge.kill();
    let mut started = 0;
    for nth in 1..12 {
        if bridge
            .run_with_faults(&[&format!("pread64:error=EIO:when={nth}")])
            .is_ok()
        {
            assert_eq!(pending(&bridge), 300, "the {nth}th read failed");
            started += 1;
            bridge.kill();
        }
        let trace = std::fs::read_to_string(bridge.folder().join("strace")).unwrap();
        assert!(
            trace.contains("INJECTED"),
            "no {nth}th read failed: is the test blind?"
        );
    }
    assert!(started > 0, "a passing error was never overcome");
    bridge.run();
    assert_eq!(pending(&bridge), 300);
}

#[test]
fn p5_a_hung_disk_is_a_503_in_time() {
    let mut bridge = Bridge::configured(NOWHERE);
    bridge
        .run_with_faults(&["fdatasync:delay_enter=12000000:when=8"])
        .unwrap();
    let mut late = None;
    for number in 0..12 {
        let started = std::time::Instant::now();
        let (status, _) = bridge.text(&refid(number), "+13035550100", "x");
        assert!(status == 200 || status == 503, "{status}");
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "{status} after {:?}",
            started.elapsed()
        );
        if status == 503 {
            late = Some(number);
            break;
        }
    }
    let late = late.expect("no sync hung: is the test blind?");
    wait_for("the disk to come back", || {
        (bridge.text(&refid(late), "+13035550100", "x").0 == 200).then_some(())
    });
}
