//! A delivery that is pending for `fallback_after` is handed over to the fallback, whatever it waits for, and the original
//! goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bridge::refid;
use crate::bridge::{Bridge, wait_for};
use crate::servers::recorder::webhook;
use crate::servers::recorder::{Recorder, Reply};

/// `fallback_after` in these tests.
const AFTER: Duration = Duration::from_secs(1);

/// How long after it the fallback must have the message.
const LATEST: Duration = Duration::from_secs(2);

fn config(crm: &Recorder, more: &str, pager: &Recorder) -> String {
    let crm = webhook(
        "crm",
        crm,
        &format!("fallback = \"pager\"\nfallback_after = \"1s\"\n{more}"),
    );
    crm + &webhook("pager", pager, "") + "[routing]\nunmatched = [\"crm\"]\n"
}

fn text(bridge: &Bridge, n: usize, from: usize) -> String {
    let (status, body) =
        bridge.post_message(&refid(n), &format!("+13035550{from:03}"), &format!("message {n}"));
    assert_eq!(status, 200, "{body}");
    body["id"].as_str().unwrap().to_owned()
}

/// The notes of the messages that the fallback has, in order.
fn notes(pager: &Recorder) -> Vec<(String, String)> {
    let all = pager.received();
    let mut all: Vec<_> = all
        .iter()
        .map(|received| {
            let body = received.json();
            let note = &body["fallback"];
            assert_eq!(note["destination"], "crm");
            let part = |value: &Value| value.as_str().unwrap().to_owned();
            (part(&body["text"]), part(&note["reason"]))
        })
        .collect();
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_delivery_goes_to_the_fallback_whatever_it_waits_for() {
    let hanging = Reply {
        delay: Duration::from_secs(8),
        ..Reply::new(200, "ok")
    };
    let cases = [
        (
            "parked",
            Reply::new(401, "no"),
            "parked, configuration needs fixing: HTTP 401 Unauthorized",
        ),
        (
            "down",
            Reply::new(503, "later"),
            "unreachable: HTTP 503 Service Unavailable",
        ),
        (
            "limited",
            Reply::new(429, "slow").with("retry-after", "600"),
            "rate limiting: HTTP 429 Too Many Requests",
        ),
        ("hanging", hanging, "no attempt has ended yet"),
        ("paused", Reply::new(200, "ok"), "paused by an operator"),
    ];
    for (what, reply, why) in cases {
        let crm = Recorder::answering(reply).await;
        let pager = Recorder::answering(Reply::new(200, "ok")).await;
        let bridge = Bridge::start(&config(&crm, "concurrency = 1\ntimeout = \"10s\"", &pager));
        if what == "paused" {
            assert_eq!(bridge.command(&["destination", "pause", "crm"]).0, 0);
        }
        let began = Instant::now();
        // The second is behind the first in its conversation, the third behind them at the destination.
        for (n, from) in [(1, 1), (2, 1), (3, 2)] {
            text(&bridge, n, from);
        }
        let accepted = began.elapsed();
        wait_for(what, || (pager.received().len() == 3).then_some(()));
        let took = began.elapsed();
        assert!(
            took >= AFTER && took <= accepted + AFTER + LATEST,
            "{what}: {took:?}"
        );
        println!("{what}: the fallback had 3 messages after {took:?}");
        for (nth, (text, reason)) in notes(&pager).into_iter().enumerate() {
            assert_eq!(text, format!("message {}", nth + 1));
            assert!(
                reason.starts_with(&format!("not delivered within 1s: {why}")),
                "{what}: {reason}"
            );
            assert!(
                reason.ends_with("; it may still arrive there"),
                "{what}: {reason}"
            );
        }
        let (_, destination) = bridge.admin("GET", "/destinations", "").unwrap();
        let crm = destination
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["name"] == "crm");
        assert_eq!(crm.unwrap()["pending"], 3, "{what}: the originals go on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_hands_each_message_over_once_and_the_original_arrives_later() {
    let is_fixed = Arc::new(AtomicBool::new(false));
    let fixed = is_fixed.clone();
    let crm = Recorder::start(move |_| match fixed.load(Ordering::Relaxed) {
        true => Reply::new(200, "ok"),
        false => Reply::new(401, "no"),
    })
    .await;
    let pager = Recorder::answering(Reply::new(200, "ok")).await;
    let mut bridge = Bridge::start(&config(&crm, "", &pager));
    let first = text(&bridge, 1, 1);
    bridge.kill();
    bridge.run();
    let restarted = Instant::now();
    wait_for("the fallback", || (pager.received().len() == 1).then_some(()));
    assert!(restarted.elapsed() <= AFTER + LATEST, "{:?}", restarted.elapsed());
    // A kill before the outcome is on disk would repeat it.
    wait_for("its outcome", || {
        (bridge.status()["messages"]["pending"] == 1).then_some(())
    });
    // Killed afterwards, and with another `fallback_after`.
    bridge.kill();
    bridge.run();
    bridge.configure(&config(&crm, "", &pager).replace("\"1s\"", "\"500ms\""));
    assert_eq!(bridge.command(&["reload"]).0, 0);
    text(&bridge, 2, 2);
    wait_for("the fallback of the second", || {
        (pager.received().len() == 2).then_some(())
    });
    let (_, shown, _) = bridge.command(&["message", "show", &first]);
    assert!(
        shown.contains(" to pager, fallback of crm (not delivered within 1s: parked, configuration needs fixing: HTTP 401"),
        "{shown}"
    );
    is_fixed.store(true, Ordering::Relaxed);
    assert_eq!(bridge.command(&["reload"]).0, 0, "it probes at once");
    wait_for("the originals", || {
        (bridge.status()["messages"]["pending"] == 0).then_some(())
    });
    let (_, shown, _) = bridge.command(&["message", "show", &first]);
    assert!(
        shown.contains(" to crm: delivered at ") && shown.contains(" to pager, fallback of crm"),
        "{shown}"
    );
    assert_eq!(pager.received().len(), 2, "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_a_time_interval_holds_is_not_late() {
    let crm = Recorder::answering(Reply::new(503, "later")).await;
    let pager = Recorder::answering(Reply::new(200, "ok")).await;
    let rest = config(&crm, "hold_during = [\"always\"]", &pager) + "[time_interval.always]\n";
    let bridge = Bridge::start(&rest);
    // The second is behind the first in its conversation.
    text(&bridge, 1, 1);
    text(&bridge, 2, 1);
    tokio::time::sleep(AFTER * 2).await;
    assert!(pager.received().is_empty() && crm.received().is_empty());
}
