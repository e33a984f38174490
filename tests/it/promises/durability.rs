//! P2 and P3: kills at any instant, and the checks afterwards.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::ledger::{Carrier, Receiver, audit, nowhere, unmatched};
use super::rng::Rng;
use super::{report, rounds};
use crate::bridge::Bridge;
use crate::servers::recorder::Reply;

/// The work of the daemon when it is killed.
#[derive(Clone, Copy)]
enum Moment {
    Working,
    Starting,
    Reloading,
    BackingUp,
}

const MOMENTS: [Moment; 4] = [
    Moment::Working,
    Moment::Starting,
    Moment::Reloading,
    Moment::BackingUp,
];

fn kill_at(moment: Moment, bridge: &mut Bridge, rng: &mut Rng, configs: &[String; 2]) {
    std::thread::sleep(rng.moment(20, 300));
    match moment {
        Moment::Working => bridge.kill(),
        Moment::Starting => {
            bridge.kill();
            bridge.run_and_kill(rng.moment(0, 120));
        }
        Moment::Reloading => {
            bridge.configure(&configs[rng.below(2)]);
            bridge.signal("HUP");
            std::thread::sleep(rng.moment(0, 30));
            bridge.kill();
        }
        Moment::BackingUp => {
            let copy = bridge.folder().join(format!("copy-{}", rng.next()));
            let mut backup = Command::new(env!("CARGO_BIN_EXE_smsbridge"))
                .arg("backup")
                .arg(copy)
                .arg("--config")
                .arg(bridge.folder().join("config.toml"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(rng.moment(5, 80));
            bridge.kill();
            backup.wait().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_kill_9_at_any_instant_loses_nothing_acknowledged() {
    let (rounds, mut rng) = (rounds(8, 500), Rng::new());
    let receiver = Receiver::good().await;
    let retry = "retry = { initial = \"50ms\", max = \"200ms\" }";
    let config = |more: &str| receiver.config("crm", &format!("{retry}\n{more}")) + &unmatched(&["crm"]);
    let configs = [config(""), config("timeout = \"9s\"")];
    let mut bridge = Bridge::start(&configs[0]);
    let carrier = Carrier::start(&bridge, 4, 0);
    for round in 0..rounds {
        kill_at(MOMENTS[round % 4], &mut bridge, &mut rng, &configs);
        bridge.run();
        carrier.follow(&bridge);
    }
    std::thread::sleep(Duration::from_millis(300));
    let acknowledged = carrier.end();
    assert!(
        acknowledged.len() > 50,
        "only {} were acknowledged",
        acknowledged.len()
    );
    let repeats = receiver.expect(&acknowledged, 1, Duration::from_secs(60));
    // The default `concurrency` of a webhook is 8.
    assert!(
        repeats <= 8 * rounds,
        "at most the sends in flight are repeated per kill: {repeats}"
    );
    report(
        "P2",
        &format!(
            "{rounds} kills, {} acknowledged, 0 lost, {repeats} sent twice",
            acknowledged.len()
        ),
    );
}

/// Two destinations, one that fails often, so that kills come between all kinds of commits.
#[tokio::test(flavor = "multi_thread")]
async fn p3_after_every_kill_each_message_is_there_whole_or_not_at_all() {
    let (rounds, mut rng) = (rounds(6, 150), Rng::new());
    let turn = std::sync::atomic::AtomicUsize::new(0);
    let receiver =
        Receiver::start(
            move |_| match turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 3 {
                0 => Reply::new(409, "again"),
                _ => Reply::new(200, "ok"),
            },
        )
        .await;
    let retry = "retry = { initial = \"20ms\", max = \"50ms\" }";
    let config = receiver.config("crm", retry) + &nowhere("ops") + &unmatched(&["crm", "ops"]);
    let mut bridge = Bridge::start(&config);
    let carrier = Carrier::start(&bridge, 4, 0);
    for _ in 0..rounds {
        std::thread::sleep(rng.moment(20, 250));
        bridge.kill();
        let acknowledged = carrier.acknowledged();
        bridge.run();
        audit(&bridge, &acknowledged, &["crm", "ops"]);
        carrier.follow(&bridge);
    }
    let acknowledged = carrier.end();
    bridge.kill();
    bridge.run();
    audit(&bridge, &acknowledged, &["crm", "ops"]);
    receiver.expect(&acknowledged, 1, Duration::from_secs(60));
    report(
        "P3",
        &format!(
            "{rounds} kills, {} messages audited after each",
            acknowledged.len()
        ),
    );
}
