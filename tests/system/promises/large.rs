//! P13 with messages as large as `max_body` allows: memory is bounded in bytes, not in messages.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use smsbridge::store::sled::{Options, Sled};
use smsbridge::store::{Arrival, Store as _};

use super::disk::{Disk, yard};
use super::ledger::{nowhere, stored, unmatched};
use super::size::{BOUND_MIB, BOUND_QUICK_MIB, Stop, peak};
use super::{report, rounds};
use crate::bridge::refid;
use crate::bridge::{Bridge, try_http};
use crate::fixtures::arrival;

const MB: usize = 1_000_000;

fn now() -> i64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

/// A body that does not compress and is different for each message.
fn text(number: u64, length: usize) -> String {
    let line = format!("{number:08} Lorem ipsum dolor sit amet, consetetur sadipscing elitr. ");
    line.repeat(length / line.len())
}

/// Messages of this length for `desk`, accepted half an hour ago.
fn large(number: u64, length: usize) -> Arrival {
    let mut arrival = arrival(number, now() - 1_800_000);
    arrival.message.text = text(number, length);
    arrival
}

async fn fill(path: &Path, count: u64, length: usize) {
    let store = Sled::open(&Options::new(path, 0)).unwrap();
    futures_util::stream::iter(0..count)
        .map(|number| store.accept(large(number, length)))
        .buffered(4)
        .for_each(|accepted| async {
            accepted.unwrap();
        })
        .await;
    store.close().await.unwrap();
}

/// Reads the whole list page by page; returns the numbers of messages and pages.
fn read_all(bridge: &Bridge, query: &str) -> (usize, usize) {
    let (mut cursor, mut messages, mut pages) = (String::new(), 0, 0);
    loop {
        let (status, page) = bridge
            .admin("GET", &format!("/messages?limit=500{query}{cursor}"), "")
            .unwrap();
        assert_eq!(status, 200, "{page}");
        messages += page["items"].as_array().unwrap().len();
        pages += 1;
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (messages, pages),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a minute: tests/run"]
async fn p13_pages_backups_and_commands_are_bounded_by_bytes() {
    let count = rounds(40, 300);
    let mut bridge = Bridge::configured(&(nowhere("desk") + &unmatched(&["desk"])));
    fill(&bridge.store(), count as u64, MB).await;
    bridge.run();
    let start = peak(&bridge);

    let pages = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..8).map(|_| scope.spawn(|| read_all(&bridge, ""))).collect();
        let read: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        assert!(read.iter().all(|(messages, _)| *messages == count), "{read:?}");
        read[0].1
    });
    let listed = peak(&bridge);

    // Thirty more clients request it and do not read the answer. Small answers are still possible.
    let unread: Vec<_> = (0..30).map(|_| ask_and_wait(&bridge)).collect();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(bridge.status()["messages"]["pending"], count);
    let (status, refusal) = bridge.admin("GET", "/messages?limit=500", "").unwrap();
    assert!(
        status == 503 && refusal["error"].to_string().contains("try again"),
        "{refusal}"
    );
    drop(unread);
    crate::bridge::wait_for("room again", || {
        let answer = bridge.admin("GET", "/messages?limit=500", "");
        (answer.unwrap().0 == 200).then_some(())
    });
    let unread = peak(&bridge);

    let copied = bridge.command(&["backup", bridge.folder().join("copy").to_str().unwrap()]);
    assert_eq!(copied.0, 0, "{copied:?}");
    let backed_up = peak(&bridge);

    let ids: Vec<String> = (0..count as u128).map(|n| format!("{n:032x}-1")).collect();
    let body = serde_json::json!({ "ids": ids }).to_string();
    let (status, touched) = bridge.admin("POST", "/deliveries/retry", &body).unwrap();
    assert_eq!(status, 200, "{touched}");
    let retried = peak(&bridge);
    let words = format!(
        "{count} messages of 1 MB: {start} MiB after the start, {listed} after eight readers of {pages} pages, {unread} \
         after thirty who do not read, {backed_up} after a backup, {retried} after a retry of all"
    );
    report("P13", &words);
    assert!(retried <= BOUND_MIB, "over {BOUND_MIB} MiB: {words}");
}

/// A client that requests the list and does not read the answer.
fn ask_and_wait(bridge: &Bridge) -> std::os::unix::net::UnixStream {
    use std::io::Write as _;
    let mut stream = std::os::unix::net::UnixStream::connect(bridge.store().join("admin.sock")).unwrap();
    stream
        .write_all(b"GET /api/v1/messages?limit=500 HTTP/1.1\r\nhost: x\r\n\r\n")
        .unwrap();
    stream
}

/// All deliveries of a destination that is down are overdue, and are given up in steps.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a minute: tests/run"]
async fn p13_giving_up_is_bounded_by_bytes() {
    let count = rounds(80, 300);
    let impatient = "retry = { initial = \"1s\", max = \"1s\", give_up_after = \"10m\" }\n";
    let mut bridge = Bridge::configured(&(nowhere("desk") + impatient + &unmatched(&["desk"])));
    fill(&bridge.store(), count as u64, MB).await;
    bridge.run();
    let start = peak(&bridge);
    crate::bridge::wait_within(Duration::from_secs(120), "all to be given up", || {
        (bridge.status()["messages"]["dead"] == count).then_some(())
    });
    let given_up = peak(&bridge);
    let words =
        format!("{count} messages of 1 MB: {start} MiB after the start, {given_up} after giving all up");
    report("P13", &words);
    let bound = if count > 80 { BOUND_MIB } else { BOUND_QUICK_MIB };
    assert!(given_up <= bound, "over {bound} MiB: {words}");
}

/// Many destinations that accept messages and do not answer, each with several at once.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a minute: tests/run"]
async fn p13_what_is_being_sent_is_bounded_by_bytes() {
    use crate::servers::recorder::Reply;
    let silent = crate::servers::recorder::Recorder::start(|_| Reply {
        delay: Duration::from_secs(600),
        ..Reply::new(200, "")
    })
    .await;
    let (destinations, each) = (20, 8);
    let names: Vec<String> = (0..destinations).map(|n| format!("desk-{n}")).collect();
    let config: String = names
        .iter()
        .map(|name| {
            crate::servers::recorder::webhook(
                name,
                &silent,
                &format!("concurrency = {each}\ntimeout = \"60s\"\n"),
            )
        })
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut bridge = Bridge::configured(&(config + &unmatched(&names)));
    let store = Sled::open(&Options::new(bridge.store(), 0)).unwrap();
    for number in 0..each {
        let mut arrival = large(number, MB);
        let first = arrival.deliveries.remove(0);
        for (ordinal, name) in (1..).zip(&names) {
            let mut delivery = first.clone();
            delivery.id.ordinal = ordinal;
            delivery.destination = name.parse().unwrap();
            arrival.deliveries.push(delivery);
        }
        store.accept(arrival).await.unwrap();
    }
    store.close().await.unwrap();
    drop(store);
    bridge.run();
    let start = peak(&bridge);
    // Every destination gets its first message, no matter how many others do not answer.
    crate::bridge::wait_within(Duration::from_secs(60), "every destination", || {
        (silent.received().len() >= destinations).then_some(())
    });
    std::thread::sleep(Duration::from_secs(3));
    let (sending, sent) = (peak(&bridge), silent.received().len());
    let words = format!(
        "{destinations} destinations with {each} messages of 1 MB each: {start} MiB after the start, {sending} with \
         {sent} on their way"
    );
    report("P13", &words);
    assert!(sending <= BOUND_MIB, "over {BOUND_MIB} MiB: {words}");
    bridge.kill();
}

/// The largest configurable bodies, from many connections, while the disk hangs.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, for a file system: tests/run"]
async fn p13_a_flood_of_large_bodies_on_a_hanging_disk_is_a_503() {
    let connections = rounds(64, 256);
    let yard = yard();
    let disk = Disk::ext4(yard.path(), "slow", 2 << 30);
    let config = nowhere("desk") + &unmatched(&["desk"]);
    let mut bridge = Bridge::placed(&disk.path().join("store"), "min_free = \"1MiB\"", &config);
    let path = bridge.folder().join("config.toml");
    let large =
        std::fs::read_to_string(&path)
            .unwrap()
            .replacen("[server]\n", "[server]\nmax_body = \"1MiB\"\n", 1);
    std::fs::write(&path, large).unwrap();
    bridge.run();
    let (stop, next) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (taken, refused) = (std::sync::Mutex::new(Vec::new()), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        for _ in 0..connections {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let body =
                        Bridge::body(&refid(number), "+13035550100", &text(number as u64, MB)).to_string();
                    let url = bridge.url("/inbound/intelepeer");
                    match try_http("POST", &url, &[("content-type", "application/json")], &body) {
                        Some((200, ..)) => taken.lock().unwrap().push(number),
                        // Some are refused before they have sent everything.
                        Some((503 | 408, ..)) | None => {
                            refused.fetch_add(1, Ordering::Relaxed);
                            std::thread::sleep(Duration::from_millis(200));
                        }
                        Some((status, ..)) => panic!("{status}"),
                    };
                }
            });
        }
        for _ in 0..rounds(4, 20) {
            disk.freeze();
            std::thread::sleep(Duration::from_secs(3));
            disk.thaw();
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    let (peak, taken, refused) = (peak(&bridge), taken.into_inner().unwrap(), refused.into_inner());
    let words = format!(
        "{connections} connections with bodies of 1 MB on a disk that hangs: at most {peak} MiB, {} taken, {refused} not",
        taken.len()
    );
    report("P13", &words);
    assert!(peak <= BOUND_MIB, "over {BOUND_MIB} MiB: {words}");
    assert!(
        !taken.is_empty() && refused > 0,
        "no overload: the test proves nothing {words}"
    );
    bridge.kill();
    bridge.run();
    let there = stored(&bridge);
    let lost = taken
        .iter()
        .filter(|number| !there.contains_key(&refid(**number)))
        .count();
    assert_eq!(lost, 0, "acknowledged messages were lost: {words}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a minute: tests/run"]
async fn p13_a_start_with_large_messages_is_bounded() {
    let count = rounds(3_000, 16_000);
    let mut bridge = Bridge::configured(&(nowhere("desk") + &unmatched(&["desk"])));
    fill(&bridge.store(), count as u64, 60_000).await;
    bridge.run();
    let start = peak(&bridge);
    let words = format!("{count} messages of 60 kB: {start} MiB after the start");
    report("P13", &words);
    // sled alone would keep all of the quick form in memory.
    let bound = if count > 3_000 { BOUND_MIB } else { BOUND_QUICK_MIB };
    assert!(start <= bound, "over {bound} MiB: {words}");
}
