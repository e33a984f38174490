//! P10: what is retried and when, per kind and answer, on a clock that the test controls.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use smsbridge::config::{Outside, Purpose};
use smsbridge::engine::clock::Clock;
use smsbridge::engine::events::{Event, Events};
use smsbridge::engine::lanes::{LaneContext, Lanes};
use smsbridge::metrics::{Metrics, Outcome};
use smsbridge::model::delivery::{Delivery, DeliveryId, State};
use smsbridge::model::message::{Message, MessageId, Timestamp};
use smsbridge::store::memory::Memory;
use smsbridge::store::{Arrival, Claim, DeliveryQuery, MessageState, Store};
use tokio::time::Instant;

use super::report;
use crate::bridge::head;
use crate::fixtures::message;
use crate::servers::fake_smtp::{FakeSmtp, Turn};
use crate::servers::recorder::{Recorder, Reply};

const RETRY: &str =
    "retry = { initial = \"4s\", max = \"16s\", give_up_after = \"60s\" }\nrate = \"100/s\"\n";
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(200);

/// The required outcome of an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expect {
    /// The whole destination waits, twice as long each time.
    BacksOff,
    /// The message waits alone, twice as long each time, and others continue.
    BacksOffAlone,
    /// The whole destination pauses for the requested time.
    Waits(Duration),
    /// Given up at once, after this many requests.
    Dies(usize),
    /// Nothing is given up; the destination is probed at intervals.
    Parks,
}
use Expect::{BacksOff, BacksOffAlone, Dies, Parks, Waits};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Kind, status, a header field, body, required outcome.
type Case = (
    &'static str,
    u16,
    Option<(&'static str, &'static str)>,
    &'static str,
    Expect,
);

const LIMIT_NONE: &str = r#"{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":0}"#;
const LIMIT_MS: &str = r#"{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":7000}"#;

fn cases() -> Vec<Case> {
    let asked = |seconds: &'static str| Some(("retry-after", seconds));
    vec![
        ("webhook", 503, None, "", BacksOff),
        ("webhook", 500, None, "", BacksOff),
        ("webhook", 409, None, "", BacksOffAlone),
        ("webhook", 429, asked("9"), "", Waits(seconds(9))),
        ("webhook", 503, asked("20"), "", Waits(seconds(20))),
        ("webhook", 429, asked("0"), "", BacksOff),
        ("webhook", 503, asked("0"), "", BacksOff),
        ("webhook", 503, asked("-1"), "", BacksOff),
        (
            "webhook",
            429,
            asked("Sun, 06 Nov 1994 08:49:37 GMT"),
            "",
            BacksOff,
        ),
        ("webhook", 409, asked("0"), "", BacksOffAlone),
        ("webhook", 400, None, "", Dies(1)),
        ("webhook", 422, None, "", Dies(1)),
        ("slack", 500, None, "rollup_error", BacksOff),
        (
            "slack",
            429,
            asked("9"),
            r#"{"ok":false,"error":"rate_limited"}"#,
            Waits(seconds(9)),
        ),
        (
            "slack",
            429,
            None,
            r#"{"ok":false,"error":"rate_limited","retry_after":0}"#,
            BacksOff,
        ),
        ("slack", 400, None, "invalid_payload", Dies(2)),
        ("slack", 403, None, "invalid_token", Parks),
        ("slack", 404, None, "no_service", Parks),
        ("slack", 410, None, "channel_is_archived", Parks),
        ("matrix", 502, None, "", BacksOff),
        ("matrix", 429, None, LIMIT_MS, Waits(seconds(7))),
        ("matrix", 429, asked("11"), LIMIT_MS, Waits(seconds(11))),
        ("matrix", 429, None, LIMIT_NONE, BacksOff),
        ("matrix", 413, None, r#"{"errcode":"M_TOO_LARGE"}"#, Dies(1)),
        ("matrix", 401, None, r#"{"errcode":"M_UNKNOWN_TOKEN"}"#, Parks),
        ("hookshot", 503, None, "", BacksOff),
        ("hookshot", 429, asked("9"), "", Waits(seconds(9))),
    ]
}

/// The answer of a mail server to the recipient, and the required outcome.
fn mail_cases() -> Vec<(&'static str, Expect)> {
    vec![
        ("451 4.7.1 greylisted", BacksOffAlone),
        ("421 4.3.2 closing", BacksOff),
        ("550 5.1.1 no such user", Dies(1)),
        ("530 5.7.0 log in first", Parks),
    ]
}

fn config(kind: &str, url: &str) -> String {
    let settings = match kind {
        "webhook" => format!("kind = \"webhook\"\nurl = \"{url}/x\""),
        "slack" => format!("kind = \"slack\"\nwebhook_url = \"{url}/x\""),
        "matrix" => format!(
            "kind = \"matrix\"\nhomeserver = \"{url}\"\nroom = \"!a:b.example\"\naccess_token = \"t\"\njoin = false"
        ),
        "hookshot" => format!("kind = \"matrix\"\nwebhook_url = \"{url}/x\""),
        other => panic!("{other}"),
    };
    format!("[destination.it]\n{settings}\n{RETRY}")
}

/// A lane on a store in memory, and the time of each request from the start of the test.
struct Bench {
    store: Arc<Memory>,
    clock: Clock,
    metrics: Arc<Metrics>,
    lanes: Arc<Lanes>,
    requests: Arc<Mutex<Vec<Duration>>>,
    _plan: tokio::sync::watch::Sender<Arc<smsbridge::plan::Plan>>,
}

impl Bench {
    async fn new(config: &str, requests: Arc<Mutex<Vec<Duration>>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, head() + config + "[routing]\nunmatched = [\"it\"]\n").unwrap();
        let loaded = smsbridge::plan::load(&path, Purpose::Serve, &Outside::default(), None);
        let plan = loaded
            .map_err(|problems| format!("{:?}", problems.all().len()))
            .unwrap()
            .plan;
        let (sender, plan) = tokio::sync::watch::channel(Arc::new(plan));
        let store = Arc::new(Memory::new());
        let clock = Clock::system();
        let metrics = Arc::new(Metrics::default());
        let lanes = Lanes::new(LaneContext {
            store: store.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            events: Events::default(),
        });
        lanes.reconcile(&plan, Some(&[]));
        Self {
            store,
            clock,
            metrics,
            lanes,
            requests,
            _plan: sender,
        }
    }

    /// A webhook that gives this answer, and the times of its requests.
    async fn webhook(answer: impl Fn(usize) -> Reply + Send + Sync + 'static) -> (Self, Recorder) {
        let began = Instant::now();
        let requests: Arc<Mutex<Vec<Duration>>> = Arc::default();
        let keep = requests.clone();
        let server = Recorder::start(move |_| {
            let mut requests = keep.lock().unwrap();
            requests.push(began.elapsed());
            answer(requests.len())
        })
        .await;
        let bench = Self::new(&config("webhook", &server.url("")), requests).await;
        (bench, server)
    }

    /// Adds messages, each of its own conversation.
    async fn accept(&self, numbers: RangeInclusive<u128>) {
        self.accept_each(numbers, |_| {}).await;
    }

    /// Changes the configuration and measures again.
    async fn accept_each(&self, numbers: RangeInclusive<u128>, change: impl Fn(&mut Message)) {
        for number in numbers {
            let mut text = message("hello");
            change(&mut text);
            text.id = MessageId(uuid::Uuid::from_u128(number));
            text.provider_id = number.to_string();
            text.from = smsbridge::model::number::Number::parse(&format!("+1303555{number:04}")).unwrap();
            let id = DeliveryId {
                message: text.id,
                ordinal: 1,
            };
            let delivery = Delivery::new(id, "it".parse().unwrap(), None, self.clock.now());
            let arrival = Arrival {
                dedup_since: text.received_at,
                message: text,
                deliveries: vec![delivery],
            };
            self.store.accept(arrival).await.unwrap();
        }
        self.lanes.wake(&"it".parse().unwrap());
    }

    /// Advances the time in small steps; everything in progress ends in each.
    async fn pass(&self, time: Duration) {
        self.settle().await;
        let end = Instant::now() + time;
        while Instant::now() < end {
            tokio::time::advance(STEP).await;
            self.settle().await;
        }
    }

    /// The clock stands still as long as a blocking task runs, so real sockets get real time.
    async fn settle(&self) {
        let name = "it".parse().unwrap();
        loop {
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            if self.lanes.status(&name).unwrap().running == 0 {
                return;
            }
            tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(1)))
                .await
                .unwrap();
        }
    }

    async fn deliveries(&self) -> Vec<Delivery> {
        let query = DeliveryQuery {
            limit: 1_000,
            ..DeliveryQuery::default()
        };
        self.store.deliveries(&query).await.unwrap().items
    }

    /// The numbers of the dead messages, all of them given up after `give_up_after`.
    async fn given_up(&self, what: &str) -> Vec<u128> {
        let deliveries = self.deliveries().await;
        let mut numbers: Vec<u128> = deliveries
            .iter()
            .filter_map(|delivery| {
                let State::Dead { at, reason } = &delivery.state else {
                    return None;
                };
                let waited = at.since(delivery.created_at);
                assert!(reason.starts_with("given up"), "{what}: {reason}");
                assert!(
                    (GIVE_UP_AFTER..=GIVE_UP_AFTER + seconds(1)).contains(&waited),
                    "{what}: given up after {waited:?}"
                );
                Some(delivery.id.message.0.as_u128())
            })
            .collect();
        numbers.sort_unstable();
        numbers
    }

    fn state(&self) -> &'static str {
        self.lanes.status(&"it".parse().unwrap()).unwrap().state.as_str()
    }

    fn gaps(&self) -> Vec<Duration> {
        let requests = self.requests.lock().unwrap();
        requests.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

/// The maximum delay after the nth failure.
fn ceiling(nth: usize) -> Duration {
    seconds(4 << nth.min(2)).min(seconds(16))
}

async fn judge(what: &str, bench: &Bench, expect: Expect) {
    bench.pass(GIVE_UP_AFTER / 2).await;
    let halfway = bench.deliveries().await;
    let gaps = bench.gaps();
    let count = bench.requests.lock().unwrap().len();
    let waiting = halfway.iter().filter(|delivery| delivery.is_waiting()).count();
    match expect {
        Dies(requests) => {
            assert_eq!(
                (count, waiting),
                (requests * 2, 0),
                "{what}: each message is tried once"
            );
        }
        BacksOff => {
            for (nth, gap) in gaps.iter().enumerate() {
                assert!(*gap >= ceiling(nth) / 10, "{what}: {gaps:?}");
                assert!(*gap <= ceiling(nth) + STEP * 2, "{what}: {gaps:?}");
            }
            assert!(
                count >= 3 && waiting == 2,
                "{what}: {count} requests, {waiting} waiting"
            );
            let state = if what.contains(" 429 ") { "limited" } else { "down" };
            assert_eq!(bench.state(), state, "{what}");
        }
        BacksOffAlone => {
            // Two messages with their own retries: the bounds are the delays with the most and the least jitter.
            assert!(
                (4..=40).contains(&count) && waiting == 2,
                "{what}: {count} requests"
            );
            assert!(
                gaps[0] <= STEP,
                "{what}: the second message does not wait for the first: {gaps:?}"
            );
            assert_eq!(bench.state(), "up", "{what}");
        }
        Waits(asked) => {
            assert!(
                count >= 2 && waiting == 2,
                "{what}: {count} requests, {waiting} waiting"
            );
            for gap in &gaps {
                assert!(
                    *gap >= asked,
                    "{what}: the whole destination was to be left alone: {gaps:?}"
                );
                assert!(*gap <= asked + seconds(16) + STEP * 2, "{what}: {gaps:?}");
            }
            assert!(gaps[0] <= asked + STEP * 2, "{what}: {gaps:?}");
            assert_eq!(bench.state(), "limited", "{what}");
        }
        Parks => {
            assert_eq!((waiting, bench.state()), (2, "parked"), "{what}");
            assert!((2..=20).contains(&count), "{what}: {count} requests");
        }
    }
    bench.pass(GIVE_UP_AFTER).await;
    let before = bench.requests.lock().unwrap().clone();
    match expect {
        Parks => {
            let deliveries = bench.deliveries().await;
            let waiting = deliveries.iter().filter(|delivery| delivery.is_waiting());
            assert_eq!((waiting.count(), deliveries.len()), (2, 2), "{what}");
        }
        Dies(_) => {
            let deliveries = bench.deliveries().await;
            assert_eq!(deliveries.len(), 2, "{what}");
            for delivery in deliveries {
                assert!(
                    matches!(&delivery.state, State::Dead { reason, .. } if !reason.is_empty()),
                    "{what}: {:?}",
                    delivery.state
                );
            }
        }
        BacksOff | BacksOffAlone | Waits(_) => assert_eq!(bench.given_up(what).await, [1, 2], "{what}"),
    }
    bench.pass(seconds(30)).await;
    let after = bench.requests.lock().unwrap().len();
    assert_eq!(
        after > before.len(),
        expect == Parks,
        "{what}: only a parked one is still tried"
    );
    if expect != Parks {
        let last = before.last().unwrap();
        assert!(
            *last <= GIVE_UP_AFTER + STEP * 3,
            "{what}: tried after it was given up, at {last:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn p10_every_kind_retries_waits_parks_or_gives_up_by_its_answers() {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (kind, status, field, body, expect) in cases() {
        let what = format!("{kind} {status} {field:?} {body}");
        let began = Instant::now();
        let requests: Arc<Mutex<Vec<Duration>>> = Arc::default();
        let keep = requests.clone();
        let server = Recorder::start(move |received| {
            if received.method == http::Method::GET {
                return Reply::new(404, r#"{"errcode":"M_NOT_FOUND"}"#);
            }
            keep.lock().unwrap().push(began.elapsed());
            let reply = Reply::new(status, body);
            match field {
                Some((name, value)) => reply.with(name, value),
                None => reply,
            }
        })
        .await;
        let bench = Bench::new(&config(kind, &server.url("")), requests).await;
        bench.accept(1..=2).await;
        judge(&what, &bench, expect).await;
        bench.lanes.stop().await;
        *seen.entry(kind.to_owned()).or_default() += 1;
    }
    for (answer, expect) in mail_cases() {
        let began = Instant::now();
        let requests: Arc<Mutex<Vec<Duration>>> = Arc::default();
        let keep = requests.clone();
        let server = FakeSmtp::start(&[], move |_, _, line| {
            if !line.starts_with("RCPT") {
                return None;
            }
            keep.lock().unwrap().push(began.elapsed());
            Some(Turn::Say(answer))
        })
        .await;
        let smtp = format!(
            "[smtp.main]\nhost = \"127.0.0.1\"\nport = {}\nsecurity = \"none\"\n",
            server.port
        );
        let mail = "[destination.it]\nkind = \"email\"\nsmtp = \"main\"\nfrom = \"sms@example.com\"\nto = [\"desk@example.com\"]\n";
        let bench = Bench::new(&(smtp + mail + RETRY), requests).await;
        bench.accept(1..=2).await;
        judge(&format!("email {answer}"), &bench, expect).await;
        bench.lanes.stop().await;
        *seen.entry("email".to_owned()).or_default() += 1;
    }
    report("P10", &format!("answers tried on a paused clock: {seen:?}"));
}

#[tokio::test(start_paused = true)]
async fn p10_a_pause_longer_than_give_up_after_is_respected_and_so_is_give_up_after() {
    let (bench, _server) = Bench::webhook(|_| Reply::new(429, "").with("retry-after", "3600")).await;
    bench.accept(1..=2).await;
    bench.pass(seconds(25)).await;
    bench.accept(3..=3).await;
    bench.pass(seconds(34)).await;
    assert!(bench.given_up("before").await.is_empty());
    bench.pass(seconds(2)).await;
    assert_eq!(bench.given_up("the first two").await, [1, 2]);
    bench.pass(seconds(60)).await;
    assert_eq!(bench.given_up("the later one").await, [1, 2, 3]);
    let requests = bench.requests.lock().unwrap().len();
    assert_eq!(requests, 1, "it was asked though it wanted to be left alone");
}

#[tokio::test(start_paused = true)]
async fn p10_a_tried_message_is_given_up_in_time_behind_many_newer_ones() {
    for status in [429, 503] {
        let (bench, _server) = Bench::webhook(move |_| Reply::new(status, "").with("retry-after", "9")).await;
        bench.accept(1..=1).await;
        bench.pass(seconds(3)).await;
        bench.accept(2..=200).await;
        bench.pass(seconds(58)).await;
        assert_eq!(bench.given_up("the first one").await, [1], "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn p10_an_overdue_backlog_is_not_given_up_after_one_refusal() {
    for status in [429, 503] {
        let (bench, _server) = Bench::webhook(move |nth| match nth {
            1 => Reply::new(status, ""),
            _ => Reply::new(200, "ok"),
        })
        .await;
        let name = "it".parse().unwrap();
        bench.lanes.set_paused(&name, true);
        bench.accept(1..=5).await;
        bench.pass(GIVE_UP_AFTER + seconds(30)).await;
        assert!(bench.deliveries().await.iter().all(Delivery::is_waiting));
        bench.lanes.set_paused(&name, false);
        bench.pass(seconds(30)).await;
        let deliveries = bench.deliveries().await;
        let delivered = deliveries
            .iter()
            .filter(|delivery| matches!(delivery.state, State::Delivered { .. }));
        assert_eq!(delivered.count(), 4, "{status}: all but the one that was refused");
    }
}

/// A claim by another lane ends the lease: the outcome of the first lane is not recorded.
#[tokio::test]
async fn an_outcome_with_a_lost_lease_is_neither_counted_nor_published() {
    for (status, outcome) in [(200, "delivered"), (503, "retried"), (400, "dead")] {
        let asked = Arc::new(tokio::sync::Notify::new());
        let ask = asked.clone();
        let (bench, server) = Bench::webhook(move |_| {
            ask.notify_one();
            Reply {
                delay: Duration::from_millis(300),
                ..Reply::new(status, "")
            }
        })
        .await;
        let mut events = bench.lanes.events().subscribe();
        bench.accept(1..=1).await;
        asked.notified().await;
        let delivery = bench.deliveries().await.remove(0);
        bench.lanes.set_paused(&delivery.destination, true);
        let claim = Claim {
            delivery: delivery.clone(),
            message: Arc::new(message("hello")),
            thread: None,
            // The first lease of this store.
            token: 1,
        };
        bench.store.release(claim).await;
        while bench.lanes.status(&delivery.destination).unwrap().running > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(
            bench.deliveries().await,
            [delivery],
            "{outcome}: nothing is recorded"
        );
        let counted = bench.metrics.deliveries.get_or_create(&Outcome {
            destination: "it".to_owned(),
            outcome,
        });
        assert_eq!(counted.get(), 0, "{outcome}");
        while let Ok(event) = events.try_recv() {
            let is_outcome =
                matches!(&event, Event::Delivery { state, .. } if *state != MessageState::Pending);
            assert!(!is_outcome, "{outcome}: {event:?}");
        }
        assert_eq!(server.received().len(), 1, "{outcome}");
    }
}

/// Retry and resend refuse it, but a store or backup of an earlier version may have a pending one.
#[tokio::test(start_paused = true)]
async fn a_redacted_message_is_given_up_unsent() {
    let (bench, _server) = Bench::webhook(|_| Reply::new(200, "ok")).await;
    bench
        .accept_each(1..=1, |message| message.redacted_at = Some(Timestamp(1)))
        .await;
    bench.accept(2..=2).await;
    bench.pass(seconds(1)).await;
    let deliveries = bench.deliveries().await;
    assert!(
        matches!(&deliveries[1].state, State::Dead { reason, .. } if reason.contains("store.redact_after")),
        "{deliveries:?}"
    );
    assert!(matches!(deliveries[0].state, State::Delivered { .. }));
    assert_eq!(bench.requests.lock().unwrap().len(), 1);
}
