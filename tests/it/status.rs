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
