//! P11 and P12: destinations do not wait for each other, and a backlog is delivered in order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::ledger::{drained, nowhere, unmatched};
use super::{report, rounds};
use crate::bridge::refid;
use crate::bridge::{Bridge, wait_within};
use crate::servers::recorder::webhook;
use crate::servers::recorder::{Recorder, Reply};

/// Accepts connections and never answers.
fn blackhole() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config =
        format!("[destination.hole]\nkind = \"webhook\"\nurl = \"http://{address}/sms\"\ntimeout = \"5s\"\n");
    (listener, config)
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_a_dead_slow_or_limited_destination_delays_no_other() {
    let arrivals: Arc<Mutex<BTreeMap<String, Instant>>> = Arc::default();
    let seen = arrivals.clone();
    let good = Recorder::start(move |received| {
        let text = received.json()["text"].as_str().unwrap_or_default().to_owned();
        seen.lock().unwrap().entry(text).or_insert_with(Instant::now);
        Reply::new(200, "ok")
    })
    .await;
    let slow = Recorder::start(|_| {
        let mut reply = Reply::new(200, "ok");
        reply.delay = Duration::from_secs(3);
        reply
    })
    .await;
    let limited = Recorder::start(|_| Reply::new(429, "{}").with("retry-after", "2")).await;
    let (_hole, hole) = blackhole();
    let config = webhook("good", &good, "") + &webhook("slow", &slow, "") + &webhook("limited", &limited, "");
    let names = ["hole", "slow", "limited", "gone", "good"];
    let bridge = Bridge::start(&(config + &hole + &nowhere("gone") + &unmatched(&names)));
    let count = rounds(150, 5_000);
    let mut sent = Vec::new();
    for number in 0..count {
        let (text, from) = (format!("text {number}"), format!("+1303555{:04}", number % 500));
        sent.push((text.clone(), Instant::now()));
        assert_eq!(bridge.post_message(&refid(number), &from, &text).0, 200);
        std::thread::sleep(Duration::from_millis(10));
    }
    // Long enough to measure the slowest deliveries, and short enough that a shared lane fails the test.
    let limit = Duration::from_secs(30 + count as u64 / 50);
    wait_within(
        limit,
        "all messages at the good one: it is delayed by the others",
        || (arrivals.lock().unwrap().len() == count).then_some(()),
    );
    let arrivals = arrivals.lock().unwrap();
    let mut took: Vec<Duration> = sent
        .iter()
        .map(|(text, at)| arrivals[text].duration_since(*at))
        .collect();
    took.sort_unstable();
    let p99 = took[count * 99 / 100];
    assert!(
        p99 < Duration::from_secs(1),
        "delayed by the others: p99 is {p99:?}"
    );
    report(
        "P11",
        &format!(
            "{count} messages beside a silent, a slow, a limited and a refusing one: p50 {:?}, p99 {p99:?}",
            took[count / 2]
        ),
    );
}

const RATE: usize = 150;
const AT_ONCE: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn p12_a_backlog_drains_at_its_rate_and_each_conversation_in_order() {
    let refused: Mutex<BTreeSet<String>> = Mutex::default();
    let requests: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let times = requests.clone();
    let order: Arc<Mutex<Vec<(String, Instant)>>> = Arc::default();
    let kept = order.clone();
    // One message in thirty fails once, so that a later one of its conversation could overtake it.
    let receiver = Recorder::start(move |received| {
        times.lock().unwrap().push(Instant::now());
        let text = received.json()["text"].as_str().unwrap_or_default().to_owned();
        let number: usize = text
            .rsplit(' ')
            .next()
            .and_then(|number| number.parse().ok())
            .unwrap_or(1);
        if number.is_multiple_of(30) && refused.lock().unwrap().insert(text.clone()) {
            return Reply::new(409, "again");
        }
        kept.lock().unwrap().push((text, Instant::now()));
        Reply::new(200, "ok")
    })
    .await;
    let more = format!(
        "rate = \"{RATE}/s\"\nconcurrency = {AT_ONCE}\nretry = {{ initial = \"100ms\", max = \"300ms\" }}"
    );
    let mut bridge = Bridge::start(&(webhook("crm", &receiver, &more) + &unmatched(&["crm"])));
    bridge.admin("POST", "/destinations/crm/pause", "").unwrap();
    let count = rounds(1_200, 50_000);
    let senders = 8;
    std::thread::scope(|scope| {
        for sender in 0..senders {
            let bridge = &bridge;
            scope.spawn(move || {
                for number in (sender..count).step_by(senders) {
                    let from = format!("+13035550{sender}{:02}", number / senders % 20);
                    assert_eq!(
                        bridge
                            .post_message(&refid(number), &from, &format!("{from} {number}"))
                            .0,
                        200
                    );
                }
            });
        }
    });
    bridge.admin("POST", "/destinations/crm/resume", "").unwrap();
    let so_far = || order.lock().unwrap().len();
    let limit = Duration::from_secs(30 + 3 * (count / RATE) as u64);
    wait_within(limit, "half of the backlog", || {
        (so_far() > count / 2).then_some(())
    });
    bridge.kill();
    let killed = Instant::now();
    bridge.run();
    // New messages must arrive while the backlog is being delivered or right after it.
    for number in count..count + 20 {
        let from = format!("+1404555{number:06}");
        assert_eq!(
            bridge
                .post_message(&refid(number), &from[..12], &format!("{} {number}", &from[..12]))
                .0,
            200
        );
    }
    wait_within(limit, "the whole backlog and what came after it", || {
        (so_far() >= count + 20).then_some(())
    });
    drained(&bridge, Duration::from_secs(20));
    let order = order.lock().unwrap();
    let requests = requests.lock().unwrap();
    let (before, after) = requests.split_at(requests.partition_point(|at| *at < killed));
    // Excludes the last ones, where messages of one conversation wait for the second attempt of an earlier one.
    let rates = [
        pace("before the kill", before),
        pace("after it", &after[AT_ONCE..after.len() - count / 20]),
    ];
    assert_in_order(&order);
    report(
        "P12",
        &format!(
            "{count} drained at {:.0}/s and, after a kill, {:.0}/s of {RATE}/s, in order",
            rates[0], rates[1]
        ),
    );
}

/// Asserts that the requests per second are as configured, and in no second more.
fn pace(what: &str, requests: &[Instant]) -> f64 {
    let took = requests[requests.len() - 1].duration_since(requests[0]);
    let rate = (requests.len() - 1) as f64 / took.as_secs_f64();
    // The quick form shares the processors with other tests, which may slow it down but never speed it up.
    let least = rounds(60, 90) as f64 / 100.0;
    assert!(
        (least..=1.05).contains(&(rate / RATE as f64)),
        "{what}: {rate:.0}/s, though {RATE}/s was configured"
    );
    // Requests in flight may be delayed and arrive together with later ones.
    let most = RATE * 105 / 100 + 1 + AT_ONCE;
    for (index, from) in requests.iter().enumerate() {
        let second =
            requests[index..].partition_point(|at| at.duration_since(*from) < Duration::from_secs(1));
        assert!(
            second <= most,
            "{what}: {second} in one second, though {RATE}/s was configured"
        );
    }
    rate
}

/// The first arrival of each message within its conversation; messages in flight at the kill arrive once more.
fn assert_in_order(order: &[(String, Instant)]) {
    let mut last: BTreeMap<&str, usize> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (text, _) in order.iter().filter(|(text, _)| seen.insert(text.clone())) {
        let (from, number) = text.split_once(' ').unwrap();
        let number: usize = number.parse().unwrap();
        let before = last.insert(from, number);
        assert!(
            before.is_none_or(|before| before < number),
            "{text} was overtaken by {before:?}"
        );
    }
    assert!(
        order.len() - seen.len() <= AT_ONCE,
        "{} messages arrived twice after one kill",
        order.len() - seen.len()
    );
}
