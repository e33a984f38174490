//! The last hour, minute by minute.

use serde_json::Value;

use crate::bridge::refid;
use crate::bridge::{Bridge, wait_for};
use crate::servers::recorder::{Recorder, Reply};

/// The sums over the hour of accepted, delivered and dead messages, and the last known number of pending deliveries.
fn sums(bridge: &Bridge) -> ([u64; 3], Option<u64>) {
    let minutes = bridge.admin("GET", "/series", "").unwrap().1["minutes"].take();
    let minutes: Vec<Value> = minutes.as_array().unwrap().clone();
    assert_eq!(minutes.len(), 60);
    let sum = |name: &str| {
        minutes
            .iter()
            .map(|minute| minute[name].as_u64().unwrap_or(0))
            .sum()
    };
    // Nothing is known about the minutes before the first start.
    let fields = ["accepted", "delivered", "dead", "pending"];
    assert!(fields.iter().all(|name| minutes[0][name].is_null()));
    assert!(fields.iter().all(|name| minutes[59][name].is_u64()));
    let last = minutes.last().unwrap()["pending"].as_u64();
    (["accepted", "delivered", "dead"].map(sum), last)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_series_counts_messages_and_survives_a_restart() {
    let crm = Recorder::start(|request| match request.json()["text"].as_str() {
        Some("bad") => Reply::new(400, "no"),
        _ => Reply::new(200, "ok"),
    })
    .await;
    let mut bridge = Bridge::start(&format!(
        "[destination.crm]\nkind = \"webhook\"\nurl = \"{}\"\n[destination.screen]\nkind = \"console\"\n\
         [routing]\nunmatched = [\"crm\", \"screen\"]\n",
        crm.url("/sms")
    ));
    assert_eq!(sums(&bridge), ([0, 0, 0], Some(0)));
    for n in 1..=20 {
        let text = if n % 10 == 0 { "bad" } else { "hello" };
        bridge.post_message(&refid(n), &format!("+130355501{n:02}"), text);
    }
    // Twenty messages are forty deliveries: a chart of messages counts each once.
    wait_for("the messages to end", || {
        (sums(&bridge).0 == [20, 18, 2]).then_some(())
    });
    bridge.stop();
    bridge.run();
    assert_eq!(sums(&bridge).0, [20, 18, 2]);
    bridge.post_message(&refid(99), "+13035550199", "hello");
    wait_for("one more", || (sums(&bridge).0 == [21, 19, 2]).then_some(()));
    let raw = bridge.admin("GET", "/series", "").unwrap().1.to_string();
    assert!(!raw.contains("hello") && !raw.contains("+1303"), "{raw}");
}
