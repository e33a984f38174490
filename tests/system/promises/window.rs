//! P8 and P9 with a disk that is slow to sync: a crash after the commit and before the answer.

use std::collections::BTreeSet;
use std::time::Duration;

use super::ledger::{Receiver, drained, stored, unmatched};
use super::{report, rounds};
use crate::bridge::{Bridge, refid, wait_for};

/// The sync has ended and the answer is delayed; the daemon is killed in between; the carrier sends the message again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs strace: tests/run"]
async fn p8_a_crash_between_commit_and_reply_makes_no_second_message() {
    let receiver = Receiver::good().await;
    let config = receiver.config("crm", "") + &unmatched(&["crm"]);
    let rounds = rounds(2, 50);
    for round in 0..rounds {
        let mut bridge = Bridge::configured(&config);
        bridge.run();
        bridge.stop();
        bridge
            .run_with_faults(&["fdatasync:delay_exit=3000000:when=1+"])
            .unwrap();
        let answer = std::thread::scope(|scope| {
            let url = bridge.url("/inbound/intelepeer");
            let body = Bridge::body(&refid(round), "+13035550100", "once").to_string();
            let posting = scope.spawn(move || {
                crate::bridge::try_http("POST", &url, &[("content-type", "application/json")], &body)
            });
            // The trace shows a delayed call as soon as it was made.
            let trace = bridge.folder().join("strace");
            wait_for("the commit of the message", || {
                let trace = std::fs::read_to_string(&trace).unwrap_or_default();
                trace.contains("fdatasync(").then_some(())
            });
            std::thread::sleep(Duration::from_millis(200));
            bridge.kill();
            posting.join().unwrap()
        });
        assert!(answer.is_none(), "it was answered: {answer:?}");
        bridge.run();
        let (status, body) = bridge.post_message(&refid(round), "+13035550100", "once");
        assert_eq!(
            (status, body["status"].as_str()),
            (200, Some("duplicate")),
            "the commit before the crash is not recognized"
        );
        drained(&bridge, Duration::from_secs(20));
        assert_eq!(stored(&bridge).len(), 1);
    }
    let taken = receiver.taken();
    let distinct: BTreeSet<&String> = taken.iter().collect();
    assert_eq!((taken.len(), distinct.len()), (rounds, rounds));
    report(
        "P8",
        &format!("{rounds} crashes between commit and reply: one message each"),
    );
}

/// The messages of one conversation follow each other without waiting for the disk. A crash then repeats as many of them
/// as may be in flight, and in their order.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs strace: tests/run"]
async fn p9_a_kill_repeats_at_most_concurrency_messages_of_one_conversation() {
    const AT_ONCE: usize = 4;
    let receiver = Receiver::good().await;
    let config = receiver.config("crm", &format!("concurrency = {AT_ONCE}")) + &unmatched(&["crm"]);
    let (kills, each, mut repeats) = (rounds(2, 50), 12, 0);
    let mut bridge = Bridge::start(&config);
    for kill in 0..kills {
        bridge.admin("POST", "/destinations/crm/pause", "").unwrap();
        let keys: Vec<String> = (each * kill..each * (kill + 1))
            .map(|number| {
                let (status, body) = bridge.post_message(&refid(number), "+13035550100", "one of many");
                assert_eq!(status, 200);
                format!("{}-1", body["id"].as_str().unwrap())
            })
            .collect();
        bridge.stop();
        let before = receiver.taken().len();
        bridge
            .run_with_faults(&["fdatasync:delay_exit=2000000:when=1+"])
            .unwrap();
        bridge.admin("POST", "/destinations/crm/resume", "").unwrap();
        let so_far = || receiver.taken().len() - before;
        wait_for("the first few", || (so_far() >= AT_ONCE).then_some(()));
        // The first outcome is not on disk for two seconds.
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(so_far(), AT_ONCE, "more are in flight than `concurrency` allows");
        bridge.kill();
        bridge.run();
        drained(&bridge, Duration::from_secs(20));
        let all = receiver.taken();
        let (first, second) = all[before..].split_at(AT_ONCE);
        assert_eq!(first, &keys[..AT_ONCE]);
        // The first outcome, or the first few, may have reached the disk.
        let recorded = keys.len() - second.len();
        assert!(recorded < AT_ONCE, "{recorded} were not repeated");
        assert_eq!(second, &keys[recorded..], "the rest comes once, in order");
        repeats += AT_ONCE - recorded;
    }
    report(
        "P9",
        &format!("{kills} kills amid a conversation: {repeats} repeats, in order, same keys"),
    );
}
