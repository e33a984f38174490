//! The status of destinations, over reloads and restarts.

use std::time::Duration;

use serde_json::Value;

use crate::bridge::refid;
use crate::bridge::{Bridge, wait_for};
use crate::servers::recorder::{Recorder, Reply};

/// A webhook destination without automatic retries during a test.
fn destination(name: &str, recorder: &Recorder, more: &str) -> String {
    format!(
        "[destination.{name}]\nkind = \"webhook\"\nurl = \"{}\"\nretry = {{ initial = \"10m\" }}\n{more}\n",
        recorder.url("/sms")
    )
}

fn config(destinations: &[String], unmatched: &str) -> String {
    destinations.concat() + &format!("[routing]\nunmatched = [{unmatched}]\n")
}

/// A destination in the status.
fn shown(status: &Value, name: &str) -> Value {
    let destinations = status["destinations"].as_array().unwrap();
    let shown = destinations
        .iter()
        .find(|destination| destination["name"] == name);
    shown.unwrap_or_else(|| panic!("no {name}: {status}")).clone()
}

fn wait_for_state(bridge: &Bridge, name: &str, state: &str) -> Value {
    wait_for(&format!("{name} to be {state}"), || {
        let shown = shown(&bridge.status(), name);
        (shown["state"] == state).then_some(shown)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_keeps_the_state_of_a_destination_and_probes_it_immediately() {
    for (code, state) in [(403, "parked"), (503, "down")] {
        let recorder = Recorder::start(move |_| Reply {
            delay: Duration::from_millis(200),
            ..Reply::new(code, "no")
        })
        .await;
        let crm = |more: &str| config(&[destination("crm", &recorder, more)], "\"crm\"");
        let bridge = Bridge::start(&crm(""));
        bridge.post_message(&refid(1), "+13035550100", "hello");
        let before = wait_for_state(&bridge, "crm", state);
        // Reloads the same file, and then another one.
        for (probes, more) in [(2, ""), (3, "timeout = \"7s\"")] {
            bridge.configure(&crm(more));
            assert_eq!(bridge.command(&["reload"]).0, 0);
            wait_for("the probe to end", || {
                let status = bridge.status();
                let now = shown(&status, "crm");
                assert_eq!(
                    (&now["state"], &now["since"], &now["reason"]),
                    (&before["state"], &before["since"], &before["reason"]),
                    "{now}"
                );
                assert!(status["problems"].to_string().contains("crm"), "{status}");
                let is_over = recorder.received().len() == probes && now["attempting_since"].is_null();
                is_over.then_some(())
            });
        }
    }
}

/// Stops the daemon and starts it again.
fn restart(bridge: &mut Bridge) {
    assert!(bridge.stop().0.success());
    bridge.run();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_is_untested_until_its_first_attempt_and_keeps_its_state_over_a_restart() {
    let codes = [
        ("crm", 200),
        ("ops", 403),
        ("gone", 503),
        ("pager", 429),
        ("new", 200),
        ("bad", 400),
    ];
    let mut recorders = Vec::new();
    for (_, code) in codes {
        let reply = Reply::new(code, "said");
        let asks = code == 429;
        let reply = if asks {
            reply.with("retry-after", "3600")
        } else {
            reply
        };
        recorders.push(Recorder::answering(reply).await);
    }
    let destinations: Vec<String> = codes
        .iter()
        .zip(&recorders)
        .map(|((name, _), recorder)| destination(name, recorder, ""))
        .collect();
    let mut bridge = Bridge::start(&config(
        &destinations,
        "\"crm\", \"ops\", \"gone\", \"pager\", \"bad\"",
    ));
    let (_, said, _) = bridge.command(&["status"]);
    assert!(
        said.contains("ready, no problems; untested: bad, crm, gone, new, ops, pager\n"),
        "{said}"
    );
    let untested = "smsbridge_destination_state{destination=\"crm\",state=\"untested\"} 1";
    assert!(bridge.metrics().contains(untested), "{}", bridge.metrics());
    bridge.post_message(&refid(1), "+13035550100", "hello");
    let states = [
        ("crm", "up"),
        ("ops", "parked"),
        ("gone", "down"),
        ("pager", "limited"),
        ("bad", "up"),
    ];
    let before: Vec<Value> = states
        .iter()
        .map(|(name, state)| wait_for_state(&bridge, name, state))
        .collect();

    restart(&mut bridge);
    let status = bridge.status();
    for ((name, state), before) in states.iter().zip(before) {
        let after = shown(&status, name);
        for key in ["state", "since", "delivered_at", "reason"] {
            assert_eq!(after[key], before[key], "{name} was {state}, its {key}: {status}");
        }
    }
    assert_eq!(shown(&status, "new")["state"], "untested");
    wait_for("the probes after the restart", || {
        let counts = recorders.iter().map(|recorder| recorder.received().len());
        (counts.collect::<Vec<_>>() == [1, 2, 2, 1, 0, 1]).then_some(())
    });
    // A changed destination is untested.
    let changed = destination("crm", &recorders[0], "timeout = \"7s\"");
    bridge.configure(&config(&[changed], "\"crm\""));
    assert_eq!(bridge.command(&["reload"]).0, 0);
    wait_for_state(&bridge, "crm", "untested");
    assert_eq!(bridge.command(&["destination", "test", "crm"]).0, 0);
    wait_for_state(&bridge, "crm", "up");
}

/// The problems of a destination: kind, severity, cause, pending and dead.
fn problems(status: &Value, name: &str) -> Vec<(String, String, String, u64, u64)> {
    let all = status["problems"].as_array().unwrap().iter();
    let of = all.filter(|problem| problem["destination"] == name);
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    of.map(|problem| {
        (
            word(&problem["kind"]),
            word(&problem["severity"]),
            word(&problem["cause"]),
            problem["pending"].as_u64().unwrap(),
            problem["dead"].as_u64().unwrap(),
        )
    })
    .collect()
}

fn row(
    kind: &str,
    severity: &str,
    cause: &str,
    pending: u64,
    dead: u64,
) -> (String, String, String, u64, u64) {
    (
        kind.to_owned(),
        severity.to_owned(),
        cause.to_owned(),
        pending,
        dead,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn every_problem_of_a_destination_shows_cause_address_and_backlog() {
    let failing = Recorder::start(|received| match received.body.contains("bad") {
        true => Reply::new(400, "bad"),
        false => Reply::new(503, "maintenance"),
    })
    .await;
    let limiting = Recorder::answering(Reply::new(429, "").with("retry-after", "3600")).await;
    let deferring = Recorder::answering(Reply::new(409, "mailbox full")).await;
    let late = "late_after = \"1s\"";
    let destinations = [
        destination("crm", &failing, ""),
        destination("pager", &limiting, late),
        destination("box", &deferring, late),
    ];
    let bridge = Bridge::start(&config(&destinations, "\"crm\", \"pager\", \"box\""));
    bridge.post_message(&refid(1), "+13035550100", "bad");
    wait_for("the dead letter", || {
        (shown(&bridge.status(), "crm")["dead"] == 1).then_some(())
    });
    bridge.post_message(&refid(2), "+13035550101", "good");
    let status = wait_for("the late ones", || {
        let status = bridge.status();
        let all = ["crm", "pager", "box"].map(|name| problems(&status, name).len());
        (all == [2, 1, 1]).then_some(status)
    });
    let reason = "HTTP 503 Service Unavailable: maintenance";
    assert_eq!(
        problems(&status, "crm"),
        [
            row("down", "error", reason, 1, 1),
            row("dead", "error", "HTTP 400 Bad Request: bad", 1, 1)
        ]
    );
    assert_eq!(
        problems(&status, "pager"),
        [row("limited", "warning", "HTTP 429 Too Many Requests", 2, 0)]
    );
    assert_eq!(
        problems(&status, "box"),
        [row("late", "warning", "HTTP 409 Conflict: mailbox full", 2, 0)]
    );
    let address = failing.url("").replace("http://", "");
    let severities: Vec<&Value> = status["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| &problem["severity"])
        .collect();
    assert_eq!(severities, ["error", "error", "warning", "warning"]);
    let (_, screen, _) = bridge.command(&["status"]);
    for problem in status["problems"].as_array().unwrap() {
        let name = problem["destination"].as_str().unwrap();
        let start = format!("  ! destination {name} ");
        assert!(screen.contains(&start), "{start}: {screen}");
        if name == "crm" {
            assert_eq!(problem["address"], address.as_str());
        }
    }
    assert!(
        screen.contains(&format!("destination crm ({address}) has been down")),
        "{screen}"
    );
}

#[test]
fn a_reload_by_a_signal_that_fails_is_a_problem_until_one_succeeds() {
    let good = "[destination.screen]\nkind = \"console\"\n[routing]\nunmatched = [\"screen\"]\n";
    let bridge = Bridge::start(good);
    let reload_problem = || {
        let status = bridge.status();
        let problems = status["problems"].as_array().unwrap().clone();
        problems.into_iter().find(|problem| problem["kind"] == "reload")
    };
    assert_eq!(reload_problem(), None);
    bridge.configure(&good.replace("[\"screen\"]", "[\"scren\"]"));
    bridge.signal("HUP");
    let problem = wait_for("the problem", reload_problem);
    let file = bridge.folder().join("config.toml");
    let line = std::fs::read_to_string(&file).unwrap().lines().count();
    let cause = format!(
        "{}:{line}:14: routing.unmatched: unknown destination `scren`",
        file.display()
    );
    assert!(
        problem["cause"].as_str().unwrap().starts_with(&cause),
        "{problem}"
    );
    assert!(
        problem["since"].is_string() && problem["severity"] == "error",
        "{problem}"
    );
    let (_, screen, _) = bridge.command(&["status"]);
    assert!(
        screen.contains(&format!("  ! the last reload failed: {cause}")),
        "{screen}"
    );
    // A file that is no longer valid TOML must not prevent `status`.
    bridge.configure(&format!("{good}broken =\n"));
    bridge.signal("HUP");
    let cause = format!("{}:{}:", file.display(), line + 1);
    wait_for("the syntax error", || {
        let (_, screen, _) = bridge.command(&["status"]);
        screen
            .contains(&format!("  ! the last reload failed: {cause}"))
            .then_some(())
    });
    bridge.configure(good);
    bridge.signal("HUP");
    wait_for("no problem", || reload_problem().is_none().then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_outage_is_logged_after_a_test_and_after_the_next_message() {
    let code = std::sync::Arc::new(std::sync::atomic::AtomicU16::new(403));
    let answers = code.clone();
    let recorder =
        Recorder::start(move |_| Reply::new(answers.load(std::sync::atomic::Ordering::Relaxed), "")).await;
    let bridge = Bridge::start(&config(&[destination("crm", &recorder, "")], "\"crm\""));
    let recoveries = || {
        let lines = bridge.log().into_iter();
        lines
            .filter(|line| line.contains("destination crm recovered after "))
            .count()
    };
    let set = |value| code.store(value, std::sync::atomic::Ordering::Relaxed);
    bridge.post_message(&refid(1), "+13035550100", "hello");
    wait_for_state(&bridge, "crm", "parked");
    // Nothing is pending any more, so only a test can show that it works.
    // The attempt that failed may not be settled yet.
    wait_for("the discarding", || {
        bridge.admin(
            "POST",
            "/deliveries/discard",
            r#"{"destination":"crm","state":"pending"}"#,
        );
        (shown(&bridge.status(), "crm")["pending"] == 0).then_some(())
    });
    set(200);
    assert_eq!(bridge.command(&["destination", "test", "crm"]).0, 0);
    wait_for("the recovery", || (recoveries() == 1).then_some(()));
    assert_eq!(shown(&bridge.status(), "crm")["state"], "up");
    set(503);
    bridge.post_message(&refid(2), "+13035550100", "hello");
    wait_for_state(&bridge, "crm", "down");
    // Pausing and resuming hide no problem.
    bridge.command(&["destination", "pause", "crm"]);
    bridge.command(&["destination", "resume", "crm"]);
    assert_eq!(shown(&bridge.status(), "crm")["state"], "down");
    set(200);
    assert_eq!(bridge.command(&["reload"]).0, 0);
    wait_for("the second recovery", || (recoveries() == 2).then_some(()));
}

#[test]
fn a_start_below_min_free_is_a_warning_with_both_figures() {
    let screen = "[destination.screen]\nkind = \"console\"\n[routing]\nunmatched = [\"screen\"]\n";
    let folder = tempfile::tempdir().unwrap();
    let mut bridge = Bridge::placed(folder.path(), "min_free = \"9000TiB\"\n", screen);
    bridge.run();
    let line = bridge.logged("not ready: listening on ");
    assert!(line.contains("\"WARN\""), "{line}");
    let figures = " free, 8.8 PiB must stay free (`store.min_free`); free disk space, or lower `store.min_free` and restart";
    assert!(
        line.contains("the store is full: ") && line.contains(figures),
        "{line}"
    );
    let ready = bridge.log().iter().any(|line| line.contains("\"ready: "));
    assert!(!ready, "{:#?}", bridge.log());
    let status = bridge.status();
    let problem = &status["problems"][0];
    assert_eq!(
        (&problem["kind"], &problem["severity"]),
        (&"store".into(), &"error".into()),
        "{status}"
    );
    assert!(
        problem["message"].as_str().unwrap().contains(figures),
        "{problem}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_refuses_every_message_is_up_and_its_last_attempt_says_so() {
    let recorder = Recorder::answering(Reply::new(409, "no such room")).await;
    let crm = destination("crm", &recorder, "");
    let bridge = Bridge::start(&config(std::slice::from_ref(&crm), "\"crm\""));
    let last = |bridge: &Bridge| shown(&bridge.status(), "crm")["last_attempt"].take();
    assert_eq!(last(&bridge), Value::Null, "nothing was attempted");
    bridge.post_message(&refid(1), "+13035550100", "hello");
    let up = wait_for_state(&bridge, "crm", "up");
    assert_eq!(
        (&up["last_attempt"]["verdict"], &up["delivered_at"]),
        (&"transient".into(), &Value::Null)
    );
    let (_, said, _) = bridge.command(&["status"]);
    assert!(
        said.contains("; last attempt failed: crm\n")
            && said.contains("  last attempt failed: HTTP 409 Conflict"),
        "{said}"
    );
    // With another configuration, nothing is known.
    bridge.configure(&config(&[crm + "timeout = \"7s\"\n"], "\"crm\""));
    bridge.command(&["destination", "pause", "crm"]);
    assert_eq!(bridge.command(&["reload"]).0, 0);
    wait_for("the reload", || (last(&bridge) == Value::Null).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_is_over_with_its_pause_when_nothing_is_pending() {
    let busy = Reply::new(429, "slow down").with("retry-after", "3");
    let recorder = Recorder::answering(busy).await;
    let crm = destination("crm", &recorder, "").replace("10m", "1s");
    let bridge = Bridge::start(&config(&[crm], "\"crm\""));
    bridge.post_message(&refid(1), "+13035550100", "hello");
    wait_for_state(&bridge, "crm", "limited");
    let (code, said, _) = bridge.command(&["delivery", "discard", "--destination", "crm", "--yes"]);
    assert!(code == 0 && said.starts_with("1 delivery discarded"), "{said}");
    let after = wait_for_state(&bridge, "crm", "up");
    assert_eq!((&after["until"], &after["reason"]), (&Value::Null, &Value::Null));
    assert_eq!(after["last_attempt"]["verdict"], "transient");
}
