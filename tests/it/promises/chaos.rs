//! P7: no message disappears, whatever happens at the same time.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::ledger::{Carrier, Receiver, assert_no_findings, deliveries, drained, nowhere, stored, unmatched};
use super::rng::Rng;
use super::{report, rounds};
use crate::bridge::{Bridge, wait_for};
use crate::servers::recorder::Reply;

/// Three in ten requests fail: half of those permanently, half temporarily.
fn moody() -> impl Fn(&crate::servers::recorder::Received) -> Reply {
    let turn = AtomicUsize::new(0);
    move |_| match turn.fetch_add(1, Ordering::Relaxed) % 20 {
        3 | 11 | 17 => Reply::new(422, "never this one"),
        5 | 13 => Reply::new(503, "not now"),
        8 => Reply::new(409, "this one later"),
        _ => Reply::new(200, "ok"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_every_accepted_message_is_delivered_dead_or_pending_and_each_dead_one_has_a_reason() {
    let (rounds, mut rng) = (rounds(6, 200), Rng::new());
    let (crm, ops) = (Receiver::start(moody()).await, Receiver::start(moody()).await);
    let retry = "retry = { initial = \"10ms\", max = \"50ms\" }";
    let config = |turn: usize| {
        let timeout = format!("{retry}\ntimeout = \"{}s\"", 5 + turn % 3);
        crm.config("crm", &timeout)
            + &ops.config("ops", retry)
            + &nowhere("none")
            + &unmatched(&["crm", "ops", "none"])
    };
    let mut bridge = Bridge::start(&config(0));
    let carrier = Carrier::start(&bridge, 3, 0);
    let (mut kills, mut reloads) = (0, 0);
    for round in 0..rounds {
        std::thread::sleep(rng.moment(50, 400));
        if rng.below(3) == 0 {
            bridge.configure(&config(round));
            bridge.signal("HUP");
            reloads += 1;
        } else {
            bridge.kill();
            bridge.run();
            carrier.follow(&bridge);
            kills += 1;
        }
    }
    let acknowledged = carrier.end();
    // A delivery with an attempt in progress is not changed.
    let all = r#"{"destination":"none","state":"pending"}"#;
    wait_for("all to be discarded", || {
        let (_, touched) = bridge.admin("POST", "/deliveries/discard", all)?;
        (touched["attempting"] == 0).then_some(())
    });
    drained(&bridge, Duration::from_secs(120));
    bridge.kill();
    bridge.run();
    drained(&bridge, Duration::from_secs(20));
    assert_no_findings(&bridge);

    let stored = stored(&bridge);
    assert!(
        acknowledged.len() > 30,
        "only {} were acknowledged",
        acknowledged.len()
    );
    assert!(
        acknowledged.keys().all(|refid| stored.contains_key(refid)),
        "an acknowledged message was lost"
    );
    let arrived: [BTreeSet<String>; 2] = [&crm, &ops].map(|receiver| receiver.taken().into_iter().collect());
    let (mut delivered, mut dead) = (0, 0);
    for delivery in stored.values().flat_map(deliveries) {
        match delivery["state"].as_str().unwrap() {
            "delivered" => {
                let id = delivery["id"].as_str().unwrap();
                assert!(
                    arrived.iter().any(|arrived| arrived.contains(id)),
                    "{id} never arrived"
                );
                delivered += 1;
            }
            "dead" => {
                let reason = delivery["reason"].as_str().unwrap_or_default();
                assert!(!reason.is_empty(), "{delivery}");
                dead += 1;
            }
            other => panic!("{other}: {delivery}"),
        }
    }
    let counts = bridge.status()["messages"].clone();
    assert_eq!(counts["accepted"], stored.len());
    let count = |state: &str| counts[state].as_u64().unwrap() as usize;
    assert_eq!(
        (count("delivered"), count("dead") + count("acknowledged")),
        (delivered, dead)
    );
    assert_eq!(
        delivered + dead,
        stored.len() * 3,
        "every message has three deliveries"
    );
    report(
        "P7",
        &format!(
            "{kills} kills, {reloads} reloads: {} accepted, {delivered} delivered, {dead} dead, 0 unexplained",
            stored.len()
        ),
    );
}
