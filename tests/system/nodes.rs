//! Several daemons on one database: which one delivers, also after one dies or is suspended.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::bridge::{Bridge, refid, wait_for, wait_within};
use crate::postgres;
use crate::servers::recorder::{Received, Recorder, Reply, webhook};

mod outages;

/// Long enough for the commits of a busy disk.
const LEASE: Duration = Duration::from_secs(4);

/// Two daemons with the same configuration, which deliver to a recorder.
fn two(url: &str, rest: &str) -> [Bridge; 2] {
    ["a", "b"].map(|node| {
        let keys = format!("node = \"{node}\"\nlane_lease = \"4s\"");
        let mut bridge = Bridge::on_database(url, &keys, rest);
        bridge.run();
        bridge
    })
}

fn rest(recorder: &Recorder) -> String {
    webhook("desk", recorder, "timeout = \"5s\"") + "[routing]\nunmatched = [\"desk\"]\n"
}

/// Sends message `n`, one of 10 conversations, and requires that it is acknowledged.
fn send(bridge: &Bridge, n: usize) {
    let from = format!("+1303555010{}", n % 10);
    let (status, answer) = bridge.post_message(&refid(n), &from, &format!("text {n}"));
    assert_eq!(status, 200, "{answer}");
}

/// The numbers of the messages that the recorder got, in order, without repetitions of a delivery.
fn numbers(received: &[Received]) -> Vec<usize> {
    let mut numbers: Vec<usize> = Vec::new();
    for one in received {
        let text = one.json()["text"].as_str().unwrap_or_default().to_owned();
        let number = text.strip_prefix("text ").and_then(|number| number.parse().ok());
        let number = number.unwrap_or_else(|| panic!("an unknown message: {}", one.body));
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    numbers
}

/// All messages arrived, those of each conversation in the order in which they were sent.
fn assert_complete(received: &[Received], count: usize) {
    let mut conversations: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for number in numbers(received) {
        conversations.entry(number % 10).or_default().push(number);
    }
    assert_eq!(conversations.values().map(Vec::len).sum::<usize>(), count);
    assert!(
        conversations.values().all(|numbers| numbers.is_sorted()),
        "{conversations:?}"
    );
}

/// The index of the daemon that serves the destination.
fn owner(cluster: &postgres::Cluster, database: &str) -> Option<usize> {
    let owner = "SELECT owner FROM lane WHERE destination = 'desk' AND lease_until > clock_timestamp()";
    match cluster.sql(database, owner).as_str() {
        "a" => Some(0),
        "b" => Some(1),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: tests/run"]
async fn two_daemons_deliver_each_message_once_and_one_survives_the_other() {
    let cluster = postgres::shared();
    let database = cluster.create();
    let recorder = Recorder::answering(Reply::new(200, "")).await;
    let mut bridges = two(&cluster.url(&database), &rest(&recorder));
    let first = wait_for("an owner", || owner(cluster, &database));
    (0..100).for_each(|n| send(&bridges[n % 2], n));
    wait_for("all messages", || {
        (numbers(&recorder.received()).len() == 100).then_some(())
    });
    assert_eq!(recorder.received().len(), 100, "each was delivered once");
    assert_complete(&recorder.received(), 100);

    // The owner dies while messages arrive at the other one.
    bridges[first].kill();
    let (died, other) = (Instant::now(), 1 - first);
    (100..150).for_each(|n| send(&bridges[other], n));
    wait_within(LEASE * 4, "all messages", || {
        (numbers(&recorder.received()).len() == 150).then_some(())
    });
    let took = died.elapsed();
    assert!(took < LEASE + Duration::from_secs(2), "taken over after {took:?}");
    assert_complete(&recorder.received(), 150);
    assert_eq!(owner(cluster, &database), Some(other));

    // The same webhook at both daemons is one message. Stopping one hands over at once.
    bridges[first].run();
    let answers = [0, 1].map(|index| bridges[index].post_message(&refid(200), "+13035550100", "text 200"));
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    assert_eq!(answers[0].1["id"], answers[1].1["id"]);
    let began = Instant::now();
    let last = wait_for("an owner", || owner(cluster, &database));
    bridges[last].stop();
    send(&bridges[1 - last], 201);
    wait_for("the last message", || {
        (numbers(&recorder.received()).len() == 152).then_some(())
    });
    assert!(began.elapsed() < LEASE, "handed over after {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_daemon_that_stood_still_writes_nothing_about_what_another_has_taken_over() {
    let cluster = postgres::shared();
    let database = cluster.create();
    // The destination of one daemon does not answer until long after the lease, that of the other one does.
    let recorder = Recorder::answering(Reply::new(200, "")).await;
    let hanging = Recorder::answering(Reply {
        delay: LEASE * 5,
        ..Reply::new(500, "too late")
    });
    let hanging = hanging.await;
    let mut bridges = two(&cluster.url(&database), &rest(&hanging));
    // The destination may belong to the daemon that started second.
    std::thread::sleep(LEASE * 2);
    let first = wait_for("an owner", || owner(cluster, &database));
    (0..10).for_each(|n| send(&bridges[first], n));
    wait_for("attempts", || (hanging.received().len() >= 2).then_some(()));
    bridges[first].signal("STOP");
    let other = 1 - first;
    bridges[other].configure(&rest(&recorder));
    bridges[other].signal("HUP");
    wait_within(LEASE * 4, "all messages", || {
        (numbers(&recorder.received()).len() == 10).then_some(())
    });
    let settled = || {
        let stages = "SELECT count(*) FROM delivery WHERE stage = 3";
        cluster.sql(&database, stages) == "10"
    };
    wait_for("their outcomes", || settled().then_some(()));
    let before = cluster.sql(
        &database,
        "SELECT message, md5(record) FROM delivery ORDER BY message",
    );
    std::thread::sleep(LEASE);
    bridges[first].signal("CONT");
    // It notices that it has lost the lane, and drops the outcomes of its attempts, which have timed out meanwhile.
    bridges[first].logged("another daemon serves destination desk now");
    std::thread::sleep(LEASE);
    let after = cluster.sql(
        &database,
        "SELECT message, md5(record) FROM delivery ORDER BY message",
    );
    assert_eq!(before, after, "the outcomes of the other daemon are unchanged");
    assert_complete(&recorder.received(), 10);
    for bridge in &mut bridges {
        bridge.stop();
    }
}
