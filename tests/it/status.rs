//! What the operator is told of destinations, whatever was reloaded or restarted meanwhile.

use std::time::Duration;

use serde_json::Value;

use crate::bridge::{Bridge, wait_for};
use crate::daemon::refid;
use crate::servers::recorder::{Recorder, Reply};

/// A webhook destination that is not tried again by itself during a test.
fn destination(name: &str, recorder: &Recorder, more: &str) -> String {
    format!(
        "[destination.{name}]\nkind = \"webhook\"\nurl = \"{}\"\nretry = {{ initial = \"10m\" }}\n{more}\n",
        recorder.url("/sms")
    )
}

fn config(destinations: &[String], unmatched: &str) -> String {
    destinations.concat() + &format!("[routing]\nunmatched = [{unmatched}]\n")
}

/// What the status says of a destination.
fn told(status: &Value, name: &str) -> Value {
    let destinations = status["destinations"].as_array().unwrap();
    let told = destinations
        .iter()
        .find(|destination| destination["name"] == name);
    told.unwrap_or_else(|| panic!("no {name}: {status}")).clone()
}

fn wait_for_state(bridge: &Bridge, name: &str, state: &str) -> Value {
    wait_for(&format!("{name} to be {state}"), || {
        let told = told(&bridge.status(), name);
        (told["state"] == state).then_some(told)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_leaves_a_destination_as_it_is_and_probes_it_at_once() {
    for (code, state) in [(403, "parked"), (503, "down")] {
        let recorder = Recorder::start(move |_| Reply {
            delay: Duration::from_millis(200),
            ..Reply::new(code, "no")
        })
        .await;
        let crm = |more: &str| config(&[destination("crm", &recorder, more)], "\"crm\"");
        let bridge = Bridge::start(&crm(""));
        bridge.text(&refid(1), "+13035550100", "hello");
        let before = wait_for_state(&bridge, "crm", state);
        // With the same file, and with another one.
        for (probes, more) in [(2, ""), (3, "timeout = \"7s\"")] {
            bridge.configure(&crm(more));
            assert_eq!(bridge.command(&["reload"]).0, 0);
            wait_for("the probe to end", || {
                let status = bridge.status();
                let now = told(&status, "crm");
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

/// Ends the daemon, and starts it again.
fn restart(bridge: &mut Bridge) {
    assert!(bridge.stop().0.success());
    bridge.run();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_is_untested_until_it_was_tried_and_a_restart_knows_how_it_stood() {
    let codes = [
        ("crm", 200),
        ("ops", 403),
        ("gone", 503),
        ("pager", 429),
        ("new", 200),
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
    let mut bridge = Bridge::start(&config(&destinations, "\"crm\", \"ops\", \"gone\", \"pager\""));
    let (_, said, _) = bridge.command(&["status"]);
    assert!(
        said.contains("ready, no problems; untested: crm, gone, new, ops, pager\n"),
        "{said}"
    );
    let untested = "smsbridge_destination_state{destination=\"crm\",state=\"untested\"} 1";
    assert!(bridge.metrics().contains(untested), "{}", bridge.metrics());
    bridge.text(&refid(1), "+13035550100", "hello");
    let states = [
        ("crm", "up"),
        ("ops", "parked"),
        ("gone", "down"),
        ("pager", "limited"),
    ];
    let before: Vec<Value> = states
        .iter()
        .map(|(name, state)| wait_for_state(&bridge, name, state))
        .collect();

    restart(&mut bridge);
    let status = bridge.status();
    for ((name, state), before) in states.iter().zip(before) {
        let after = told(&status, name);
        for key in ["state", "since", "delivered_at", "reason"] {
            assert_eq!(after[key], before[key], "{name} was {state}, its {key}: {status}");
        }
    }
    assert_eq!(told(&status, "new")["state"], "untested");
    wait_for("the probes after the restart", || {
        let counts = recorders.iter().map(|recorder| recorder.received().len());
        (counts.collect::<Vec<_>>() == [1, 2, 2, 1, 0]).then_some(())
    });
    // A changed destination was not tried as it is now.
    let changed = destination("crm", &recorders[0], "timeout = \"7s\"");
    bridge.configure(&config(&[changed], "\"crm\""));
    assert_eq!(bridge.command(&["reload"]).0, 0);
    wait_for_state(&bridge, "crm", "untested");
    assert_eq!(bridge.command(&["destination", "test", "crm"]).0, 0);
    wait_for_state(&bridge, "crm", "up");
}
