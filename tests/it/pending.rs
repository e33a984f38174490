//! The reason why a delivery is pending, and the effect of a retry: as shown, and as seen by the destination.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::bridge::{Bridge, wait_for, wait_within};
use crate::servers::recorder::{Recorder, Reply};

mod pauses;

/// A single destination `crm`, which is `recorder`.
fn crm(recorder: &Recorder, more: &str) -> String {
    format!(
        "[destination.crm]\nkind = \"webhook\"\nurl = \"{}\"\n{more}\n[routing]\nunmatched = [\"crm\"]\n",
        recorder.url("/sms")
    )
}

/// Sends a message from the `n`th number; the id of its delivery.
fn post(bridge: &Bridge, refid: u32, n: u32) -> String {
    let (status, body) = bridge.post_message(&format!("{refid:032X}"), &format!("+130355501{n:02}"), "hello");
    assert_eq!(status, 200, "{body}");
    format!("{}-1", body["id"].as_str().unwrap())
}

fn delivery(bridge: &Bridge, id: &str) -> Value {
    bridge.admin("GET", &format!("/deliveries/{id}"), "").unwrap().1
}

/// Waits until a delivery has this reason for waiting, and returns what the API shows.
#[track_caller]
fn pending(bridge: &Bridge, id: &str, cause: &str) -> Value {
    wait_for(&format!("cause {cause}"), || {
        let pending = delivery(bridge, id)["pending"].clone();
        (pending["cause"] == cause).then_some(pending)
    })
}

fn shown(bridge: &Bridge, id: &str) -> String {
    let (code, out, err) = bridge.command(&["delivery", "show", id]);
    assert_eq!(code, 0, "{err}");
    let (_, message, _) = bridge.command(&["message", "show", id.rsplit_once('-').unwrap().0]);
    let (_, listed, _) = bridge.command(&["delivery", "list"]);
    // While it is blocked, neither reports an attempt; nor does the list.
    for line in (out.clone() + &message).lines() {
        assert!(
            !line.contains("next attempt") || !line.contains("(now)"),
            "{line}"
        );
    }
    let row = listed.lines().find(|line| line.contains(id)).unwrap();
    assert_ne!(
        row.split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .nth(5),
        Some("now"),
        "{row}"
    );
    out
}

fn retry(bridge: &Bridge, ids: &[&str]) -> Vec<Value> {
    let (status, body) = bridge
        .admin("POST", "/deliveries/retry", &json!({ "ids": ids }).to_string())
        .unwrap();
    assert_eq!(status, 200, "{body}");
    body["results"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_to_a_paused_destination_shows_when_and_a_retry_respects_the_pause() {
    let recorder = Recorder::answering(Reply::new(429, "slow down").with("retry-after", "600")).await;
    let bridge = Bridge::start(&crm(&recorder, "concurrency = 1"));
    let first = post(&bridge, 1, 1);
    pending(&bridge, &first, "limited");
    let [second, third] = [(2, 2), (3, 3)].map(|(refid, n)| post(&bridge, refid, n));
    let waits = pending(&bridge, &third, "limited");
    assert!(
        waits["why"].as_str().unwrap().contains("is rate limiting"),
        "{waits}"
    );
    assert!(waits["ahead"].as_u64().unwrap() >= 1, "{waits}");
    let next: Moment = waits["next_attempt"].as_str().unwrap().into();
    assert!(next.is_in(590, 610), "{waits}");
    let said = shown(&bridge, &third);
    assert!(
        said.contains("is rate limiting") && said.contains("ahead of it"),
        "{said}"
    );
    assert!(
        said.contains("it asked for a pause until") && said.contains("in 9m"),
        "{said}"
    );

    let sent = recorder.received().len();
    let results = retry(&bridge, &[&first, &second, &third]);
    assert_eq!(results.len(), 3, "{results:?}");
    assert!(
        results.iter().all(|result| result["outcome"] == "waiting"),
        "{results:?}"
    );
    assert!(
        results
            .iter()
            .all(|result| result["pending"]["cause"] == "limited"),
        "{results:?}"
    );
    let (code, said, _) = bridge.command(&["delivery", "retry", &second]);
    assert!(
        code == 0 && said.contains("nothing was sent: destination crm is rate limiting"),
        "{said}"
    );
    let (_, said, _) = bridge.command(&[
        "delivery",
        "retry",
        "--destination",
        "crm",
        "--state",
        "pending",
        "--yes",
    ]);
    assert!(said.contains("is rate limiting"), "{said}");
    // Neither does a pause and a resume by an operator.
    for what in ["pause", "resume"] {
        assert_eq!(bridge.command(&["destination", what, "crm"]).0, 0);
    }
    pending(&bridge, &second, "limited");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(
        recorder.received().len(),
        sent,
        "the service was asked before its time"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_delivery_keeps_its_creation_time_and_gets_a_new_give_up_time() {
    let recorder = Recorder::start(|received| {
        let is_refused = received.json()["text"] == "refused";
        Reply::new(if is_refused { 400 } else { 503 }, "no")
    })
    .await;
    let retry_keys = "retry = { initial = \"10m\", give_up_after = \"3s\" }";
    let bridge = Bridge::start(&crm(&recorder, retry_keys));
    let (_, body) = bridge.post_message(&format!("{:032X}", 1), "+13035550101", "refused");
    let id = format!("{}-1", body["id"].as_str().unwrap());
    let before = wait_for("a dead delivery", || {
        Some(delivery(&bridge, &id)).filter(|delivery| delivery["state"] == "dead")
    });
    assert!(before["retried_at"].is_null(), "{before}");
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(bridge.command(&["destination", "pause", "crm"]).0, 0);
    retry(&bridge, &[&id]);
    let after = delivery(&bridge, &id);
    assert_eq!(after["created_at"], before["created_at"]);
    let created: Moment = before["created_at"].as_str().unwrap().into();
    let retried: Moment = after["retried_at"].as_str().unwrap().into();
    assert!(retried.0.duration_since(created.0).unwrap() >= Duration::from_secs(4));
    assert_eq!(destination(&bridge)["oldest"], after["retried_at"]);
    let (_, shown, _) = bridge.command(&["delivery", "show", &id]);
    assert!(shown.lines().any(|line| line.starts_with("retried")), "{shown}");
}

fn destination(bridge: &Bridge) -> Value {
    let (_, all) = bridge.admin("GET", "/destinations", "").unwrap();
    let all = all.as_array().unwrap();
    let crm = all.iter().find(|destination| destination["name"] == "crm");
    crm.cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_to_a_parked_or_down_destination_says_so_and_a_retry_probes_it() {
    for (status, cause) in [(403, "parked"), (500, "down")] {
        let recorder = Recorder::answering(Reply::new(status, "no")).await;
        let bridge = Bridge::start(&crm(&recorder, "retry = { initial = \"10m\" }"));
        let first = post(&bridge, 1, 1);
        pending(&bridge, &first, cause);
        let second = post(&bridge, 2, 2);
        let waits = pending(&bridge, &second, cause);
        let next: Moment = waits["next_attempt"].as_str().unwrap().into();
        assert!(next.is_in(20, 610), "{waits}");
        assert!(shown(&bridge, &second).contains("no attempt before"), "{waits}");
        let results = retry(&bridge, &[&second]);
        assert_eq!(results[0]["outcome"], "tried", "{results:?}");
        wait_for("the probe", || (recorder.received().len() == 2).then_some(()));
        wait_for("the delivery that was named", || {
            (delivery(&bridge, &second)["attempts_made"] == 1).then_some(())
        });
        assert_eq!(delivery(&bridge, &first)["attempts_made"], 1);
        pending(&bridge, &second, cause);
        assert_eq!(recorder.received().len(), 2, "one probe, and no more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_destination_is_sent_nothing_by_a_retry() {
    let recorder = Recorder::answering(Reply::new(200, "ok")).await;
    let bridge = Bridge::start(&crm(&recorder, ""));
    assert_eq!(bridge.command(&["destination", "pause", "crm"]).0, 0);
    let first = post(&bridge, 1, 1);
    let waits = pending(&bridge, &first, "paused");
    assert_eq!(
        (&waits["next_attempt"], &waits["ahead"]),
        (&Value::Null, &json!(0))
    );
    assert!(shown(&bridge, &first).contains("paused by the operator"));
    let results = retry(&bridge, &[&first]);
    assert_eq!(
        (&results[0]["outcome"], &results[0]["pending"]["cause"]),
        (&json!("waiting"), &json!("paused"))
    );
    let all = ["--destination", "crm", "--state", "pending", "--yes"];
    let (code, said, _) = bridge.command(&[&["delivery", "retry"], &all[..]].concat());
    assert_eq!(
        (code, said.as_str()),
        (
            0,
            "1 delivery was due already\nnothing was sent: destination crm is paused by the operator\n"
        )
    );
    let body = json!({ "destination": "crm", "state": "pending" }).to_string();
    let (_, answer) = bridge.admin("POST", "/deliveries/retry", &body).unwrap();
    assert_eq!(
        (
            &answer["deliveries"],
            &answer["already_due"],
            &answer["attempting"]
        ),
        (&json!(0), &json!(1), &json!(0))
    );
    let (code, _, said) = bridge.command(&["delivery", "acknowledge", &first]);
    assert_eq!(code, 1);
    assert!(
        said.contains("1 delivery not changed: unknown, not dead, or acknowledged already"),
        "{said}"
    );
    std::thread::sleep(Duration::from_millis(300));
    assert!(recorder.received().is_empty());
    assert_eq!(bridge.command(&["destination", "resume", "crm"]).0, 0);
    wait_for("the delivery", || {
        (delivery(&bridge, &first)["state"] == "delivered").then_some(())
    });
    let unknown = format!("{}-9", first.rsplit_once('-').unwrap().0);
    let results = retry(&bridge, &[&first, &unknown]);
    assert_eq!(
        (&results[0]["outcome"], &results[1]["outcome"]),
        (&json!("delivered"), &json!("unknown"))
    );
    assert_eq!(recorder.received().len(), 1);
}

/// After an outage the failed deliveries are sent with the rest, and lists show the same as a single delivery.
#[tokio::test(flavor = "multi_thread")]
async fn deliveries_that_failed_during_an_outage_are_due_when_it_ends() {
    let is_well = Arc::new(AtomicBool::new(false));
    for (status, cause) in [(429, "limited"), (503, "down")] {
        is_well.store(false, Ordering::SeqCst);
        let well = is_well.clone();
        let recorder = Recorder::start(move |received| match well.load(Ordering::SeqCst) {
            true => Reply::new(200, "ok"),
            false if received.method == http::Method::POST => Reply::new(status, "no"),
            false => Reply::new(200, "ok"),
        })
        .await;
        let config = crm(
            &recorder,
            "retry = { initial = \"10m\", max = \"1h\" }\nconcurrency = 1",
        );
        let bridge = Bridge::start(&config);
        let first = post(&bridge, 1, 1);
        pending(&bridge, &first, cause);
        let [behind, other] = [(2, 1), (3, 2)].map(|(refid, n)| post(&bridge, refid, n));
        for id in [&first, &behind, &other] {
            let waits = pending(&bridge, id, cause);
            let (_, page) = bridge
                .admin("GET", "/deliveries?destination=crm&state=pending", "")
                .unwrap();
            let listed = page["items"].as_array().unwrap().iter();
            let listed = listed.clone().find(|item| item["id"] == **id).unwrap();
            assert_eq!(listed["pending"]["why"], waits["why"], "{listed}");
        }
        assert_eq!(
            pending(&bridge, &first, cause)["ahead"],
            0,
            "it is probed with the oldest"
        );
        assert_eq!(pending(&bridge, &other, cause)["ahead"], 2);
        is_well.store(true, Ordering::SeqCst);
        assert_eq!(bridge.command(&["destination", "test", "crm"]).0, 0);
        wait_for("all deliveries", || {
            let is_done = |id| delivery(&bridge, id)["state"] == "delivered";
            [&first, &behind, &other]
                .iter()
                .all(|id| is_done(id))
                .then_some(())
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_while_stopping_is_rejected_and_lists_show_attempts_in_progress() {
    let recorder = Recorder::start(|_| Reply {
        delay: Duration::from_secs(6),
        ..Reply::new(200, "ok")
    })
    .await;
    let mut bridge = Bridge::start(&crm(&recorder, "concurrency = 1"));
    let first = post(&bridge, 1, 1);
    wait_for("the attempt", || (recorder.received().len() == 1).then_some(()));
    let (_, page) = bridge
        .admin("GET", "/deliveries?destination=crm&state=pending", "")
        .unwrap();
    assert_eq!(page["items"][0]["pending"]["cause"], "attempting", "{page}");
    bridge.signal("TERM");
    wait_for("the refusal", || {
        let (code, _, said) = bridge.command(&["delivery", "retry", &first]);
        (code == 3 && said.contains("smsbridge is stopping")).then_some(())
    });
    bridge.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn discarded_deliveries_and_those_in_progress_are_counted() {
    let recorder = Recorder::start(|_| Reply {
        delay: Duration::from_secs(30),
        ..Reply::new(200, "ok")
    })
    .await;
    let bridge = Bridge::start(&crm(&recorder, "concurrency = 1"));
    for n in 1..=3 {
        post(&bridge, n, n);
    }
    wait_for("the attempt", || (recorder.received().len() == 1).then_some(()));
    let command = ["delivery", "discard", "--destination", "crm", "--yes"];
    let (code, said, _) = bridge.command(&command);
    assert_eq!(
        (code, said.as_str()),
        (
            0,
            "2 deliveries discarded; 1 delivery has an attempt in progress\n"
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_attempt_delays_its_conversation_and_those_beyond_concurrency() {
    let recorder = Recorder::start(|_| Reply {
        delay: Duration::from_secs(8),
        ..Reply::new(200, "ok")
    })
    .await;
    let bridge = Bridge::start(&crm(&recorder, "concurrency = 2"));
    let first = post(&bridge, 1, 1);
    let under_way = pending(&bridge, &first, "attempting");
    assert!(under_way["attempting_since"].is_string(), "{under_way}");
    let later = post(&bridge, 2, 1);
    let waits = pending(&bridge, &later, "conversation");
    assert_eq!((&waits["behind"], &waits["ahead"]), (&json!(first), &json!(1)));
    assert!(shown(&bridge, &later).contains(&format!(
        "earlier message of the conversation comes first ({first})"
    )));
    let other = post(&bridge, 3, 2);
    pending(&bridge, &other, "attempting");
    let last = post(&bridge, 4, 3);
    let waits = pending(&bridge, &last, "queue");
    assert_eq!(waits["ahead"], 3, "{waits}");
    let results = retry(&bridge, &[&first, &last]);
    assert_eq!(
        (&results[0]["outcome"], &results[1]["outcome"]),
        (&json!("attempting"), &json!("waiting"))
    );
    assert!(recorder.received().len() <= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limited_delivery_shows_the_time_of_its_attempt() {
    let began = Instant::now();
    let last = std::sync::Arc::new(AtomicU64::new(0));
    let seen = last.clone();
    let recorder = Recorder::start(move |_| {
        seen.store(
            u64::try_from(began.elapsed().as_millis()).unwrap(),
            Ordering::Relaxed,
        );
        Reply::new(200, "ok")
    })
    .await;
    let bridge = Bridge::start(&crm(&recorder, "rate = \"1/s\""));
    let ids: Vec<String> = (1..=5).map(|n| post(&bridge, n, n)).collect();
    let waits = pending(&bridge, &ids[4], "rate");
    let next: Moment = waits["next_attempt"].as_str().unwrap().into();
    let told = began.elapsed() + next.time_left();
    wait_within(Duration::from_secs(20), "the last", || {
        (delivery(&bridge, &ids[4])["state"] == "delivered").then_some(())
    });
    let went = Duration::from_millis(last.load(Ordering::Relaxed));
    let apart = went.abs_diff(told);
    assert!(
        apart < Duration::from_millis(900),
        "shown {told:?}, sent {went:?}"
    );
}

/// A time as the API shows it.
struct Moment(SystemTime);

impl From<&str> for Moment {
    fn from(text: &str) -> Self {
        Self(humantime::parse_rfc3339(text).unwrap())
    }
}

impl Moment {
    fn time_left(&self) -> Duration {
        self.0.duration_since(SystemTime::now()).unwrap_or_default()
    }

    /// Returns true if it is this many seconds ahead.
    fn is_in(&self, least: u64, most: u64) -> bool {
        (least..=most).contains(&self.time_left().as_secs())
    }
}
