//! Dead deliveries that need no attention any more: acknowledged ones, and those whose message a fallback or a resend
//! delivered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::bridge::refid;
use crate::bridge::{Bridge, wait_for};
use crate::servers::recorder::{Recorder, Reply};

/// A destination `crm` that refuses everything, and one to fall back to.
fn config(crm: &Recorder, fallback: &str) -> String {
    format!(
        "[destination.crm]\nkind = \"webhook\"\nurl = \"{}\"\n{fallback}\n[destination.screen]\nkind = \"console\"\n\
         [routing]\nunmatched = [\"crm\"]\n",
        crm.url("/sms")
    )
}

fn dead(bridge: &Bridge) -> Vec<Value> {
    let path = "/deliveries?destination=crm&state=dead";
    let items = bridge.admin("GET", path, "").unwrap().1["items"].take();
    items.as_array().unwrap().clone()
}

/// Sends this many messages, waits until their deliveries are dead, and returns the ids of these, newest first.
fn die(bridge: &Bridge, from: u32, to: u32) -> Vec<String> {
    for n in from..=to {
        bridge.post_message(&refid(n as usize), &format!("+130355501{n:02}"), "hello");
    }
    let dead = wait_for("the dead", || {
        let dead = dead(bridge);
        (dead.len() == to as usize).then_some(dead)
    });
    dead.iter()
        .map(|delivery| delivery["id"].as_str().unwrap().to_owned())
        .collect()
}

/// The dead deliveries of `crm` that need attention, by the status and by the metric, and whether they are a problem.
fn attention(bridge: &Bridge) -> (u64, bool) {
    // The queries follow each other, and a delivery may end in between.
    wait_for("status and metrics to agree", || {
        let status = bridge.status();
        let mut destinations = status["destinations"].as_array().unwrap().iter();
        let crm = destinations
            .find(|destination| destination["name"] == "crm")
            .unwrap();
        let count = crm["dead"].as_u64().unwrap();
        let metric = format!("smsbridge_queue_dead{{destination=\"crm\"}} {count}\n");
        let mut problems = status["problems"].as_array().unwrap().iter();
        let is_problem = problems.any(|problem| problem["kind"] == "dead");
        bridge.metrics().contains(&metric).then_some((count, is_problem))
    })
}

fn run(bridge: &Bridge, arguments: &[&str]) -> String {
    let (code, out, err) = bridge.command(arguments);
    assert_eq!(code, 0, "{arguments:?}: {out}{err}");
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_deliveries_are_no_problem_and_stay_listed_over_a_restart() {
    let crm = Recorder::answering(Reply::new(400, "no")).await;
    let mut bridge = Bridge::start(&config(&crm, ""));
    let ids = die(&bridge, 1, 3);
    assert_eq!(attention(&bridge), (3, true));
    assert_eq!(
        run(&bridge, &["delivery", "acknowledge", &ids[0]]),
        "1 delivery acknowledged\n"
    );
    assert_eq!(attention(&bridge), (2, true));
    let (code, said, _) = bridge.command(&["delivery", "acknowledge", &ids[0]]);
    assert_eq!((code, said.as_str()), (1, "0 deliveries acknowledged\n"));

    // A script needs --yes; the state is always `dead`.
    let (code, _, err) = bridge.command(&["delivery", "acknowledge", "--destination", "crm"]);
    assert!(
        code == 2 && err.contains("2 dead deliveries of crm") && err.contains("--yes"),
        "{err}"
    );
    let pending = [
        "delivery",
        "acknowledge",
        "--destination",
        "crm",
        "--state",
        "pending",
        "--yes",
    ];
    assert_eq!(bridge.command(&pending).0, 2);
    let body = json!({ "destination": "crm", "state": "pending" }).to_string();
    assert_eq!(
        bridge.admin("POST", "/deliveries/acknowledge", &body).unwrap().0,
        400
    );
    let since = [
        "delivery",
        "acknowledge",
        "--destination",
        "crm",
        "--yes",
        "--since",
    ];
    let later = "2200-01-01T00:00:00Z";
    assert_eq!(
        run(&bridge, &[&since[..], &[later]].concat()),
        "0 deliveries acknowledged\n"
    );
    assert_eq!(
        run(&bridge, &[&since[..], &["1h"]].concat()),
        "2 deliveries acknowledged\n"
    );
    assert_eq!(attention(&bridge), (0, false));

    let check = |bridge: &Bridge| {
        let dead = dead(bridge);
        assert_eq!(dead.len(), 3);
        for delivery in dead {
            assert_eq!(delivery["acknowledged_by"], "operator");
            assert!(delivery["acknowledged_at"].is_string());
        }
        assert_eq!(attention(bridge), (0, false));
    };
    check(&bridge);
    let listed = run(&bridge, &["delivery", "list", "--state", "dead"]);
    assert_eq!(listed.matches("dead, acknowledged").count(), 3, "{listed}");
    assert!(run(&bridge, &["delivery", "show", &ids[0]]).contains("; acknowledged at "));
    bridge.stop();
    bridge.run();
    check(&bridge);
    // A backup contains it, too.
    let copy = bridge.folder().join("copy");
    let copy = copy.to_str().unwrap();
    run(&bridge, &["backup", copy]);
    bridge.stop();
    std::fs::rename(bridge.folder().join("data"), bridge.folder().join("old")).unwrap();
    run(&bridge, &["restore", copy]);
    bridge.run();
    check(&bridge);

    // A delivery that dies again needs attention again.
    run(&bridge, &["delivery", "retry", &ids[0]]);
    wait_for("it to die again", || {
        (attention(&bridge) == (1, true)).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_deliveries_with_a_delivered_fallback_or_discarded_need_no_acknowledgement() {
    let crm = Recorder::answering(Reply::new(400, "no")).await;
    let bridge = Bridge::start(&config(&crm, "fallback = \"screen\""));
    let ids = die(&bridge, 1, 1);
    wait_for("the fallback", || {
        (dead(&bridge)[0]["acknowledged_by"] == "fallback").then_some(())
    });
    assert_eq!(attention(&bridge), (0, false));
    let shown = run(&bridge, &["delivery", "show", &ids[0]]);
    assert!(
        shown.contains("; acknowledged: delivered by fallback screen at "),
        "{shown}"
    );
    // Lists, the message itself and every search show it as delivered.
    let found = |state: &str| {
        let path = format!("/messages?state={state}");
        bridge.admin("GET", &path, "").unwrap().1["items"].take()
    };
    assert_eq!(found("dead"), json!([]));
    let delivered = &found("delivered")[0];
    assert_eq!(delivered["state"], "delivered");
    assert_eq!(delivered["deliveries"][0]["state"], "dead");
    assert_eq!(delivered["deliveries"][0]["delivered_by"], "screen");
    let listed = run(&bridge, &["message", "list", "--state", "delivered"]);
    assert!(listed.contains("  delivered (fallback)  "), "{listed}");
    let shown = run(&bridge, &["message", "show", "latest"]);
    assert!(
        shown.contains("\nstate        delivered by fallback screen\n")
            && shown.contains(" to screen, fallback of crm: delivered at "),
        "{shown}"
    );
    let listed = run(&bridge, &["delivery", "list", "--state", "dead"]);
    assert!(listed.contains("  dead (fallback)  "), "{listed}");
    run(&bridge, &["destination", "pause", "crm"]);
    bridge.post_message(&refid(2), "+13035550102", "hello");
    run(&bridge, &["delivery", "discard", "--destination", "crm", "--yes"]);
    assert_eq!(dead(&bridge).len(), 2);
    assert_eq!(attention(&bridge), (0, false));
    let listed = run(&bridge, &["delivery", "list", "--state", "dead"]);
    assert!(listed.contains("  discarded  "), "{listed}");
    let counts = bridge.status()["messages"].clone();
    assert_eq!((&counts["dead"], &counts["acknowledged"]), (&json!(0), &json!(2)));
    let screen = run(&bridge, &["status"]);
    assert!(
        screen.contains(" 0 dead and 2 dead that need no attention\n"),
        "{screen}"
    );
    assert!(
        screen.contains("  ! destination crm (127.0.0.1:")
            && screen.contains(") is paused by the operator; 0 pending; "),
        "{screen}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_of_operators_are_logged_with_deliveries_and_user() {
    let crm = Recorder::answering(Reply::new(400, "no")).await;
    let bridge = Bridge::start(&config(&crm, ""));
    let ids = die(&bridge, 1, 2);
    let by = format!(" by uid {}: ", rustix::process::getuid().as_raw());
    let logged = |action: &str, what: &str| {
        bridge.logged(&format!("POST /api/v1/{action}{by}{what}"));
    };
    run(&bridge, &["delivery", "acknowledge", &ids[0]]);
    logged(
        "deliveries/acknowledge",
        &format!("1 of 1 delivery acknowledged: {}", ids[0]),
    );
    run(&bridge, &["destination", "pause", "crm"]);
    logged(
        "destinations/crm/pause",
        "destination crm paused, 0 deliveries pending",
    );
    run(&bridge, &["delivery", "retry", "--destination", "crm", "--yes"]);
    logged("deliveries/retry", "1 delivery to crm due now (dead)");
    run(&bridge, &["delivery", "discard", "--destination", "crm", "--yes"]);
    logged("deliveries/discard", "1 delivery to crm discarded (pending)");
    run(&bridge, &["destination", "resume", "crm"]);
    logged(
        "destinations/crm/resume",
        "destination crm resumed, 0 deliveries pending",
    );
    let message = ids[0].rsplit_once('-').unwrap().0;
    run(
        &bridge,
        &["message", "resend", message, "--destination", "screen"],
    );
    logged(
        &format!("messages/{message}/resend"),
        &format!("1 delivery created: {message}-2"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_resend_delivered_needs_no_attention_and_is_not_retried_with_the_rest() {
    let works = Arc::new(AtomicBool::new(false));
    let accepts = Arc::clone(&works);
    let crm = Recorder::start(move |_| match accepts.load(Ordering::Relaxed) {
        true => Reply::new(200, "ok"),
        false => Reply::new(400, "no"),
    })
    .await;
    let bridge = Bridge::start(&config(&crm, ""));
    let ids = die(&bridge, 1, 3);
    works.store(true, Ordering::Relaxed);
    let message = ids[0].rsplit_once('-').unwrap().0;
    run(&bridge, &["message", "resend", message]);
    wait_for("the message to be delivered", || {
        let view = bridge
            .admin("GET", &format!("/messages/{message}"), "")
            .unwrap()
            .1;
        (view["state"] == "delivered").then_some(())
    });
    assert_eq!(attention(&bridge), (2, true));
    let shown = run(&bridge, &["message", "show", message]);
    let resent = format!("  {message}-2 to crm, resent by the operator: delivered at ");
    let covered = "; acknowledged: another delivery to crm delivered the message (at ";
    assert!(shown.contains(&resent) && shown.contains(covered), "{shown}");
    assert!(shown.contains("\nstate        delivered\n"), "{shown}");
    let shown = run(&bridge, &["delivery", "show", &format!("{message}-2")]);
    assert!(
        shown.contains("\norigin       resent by the operator\n") && !shown.contains("\nroute "),
        "{shown}"
    );

    // The confirmation prompt and the retry concern the same deliveries.
    let before = crm.received().len();
    let all = ["delivery", "retry", "--destination", "crm"];
    let (code, _, err) = bridge.command(&all);
    assert!(
        code == 2 && err.contains("Retry 2 dead deliveries of crm (1 other needs no attention)?"),
        "{err}"
    );
    assert_eq!(
        run(&bridge, &[&all[..], &["--yes"]].concat()),
        "2 deliveries due now\n"
    );
    wait_for("the others", || {
        (crm.received().len() == before + 2).then_some(())
    });
    assert_eq!(attention(&bridge), (0, false));

    // A resend that is discarded leaves the message delivered.
    run(&bridge, &["destination", "pause", "crm"]);
    run(&bridge, &["message", "resend", message, "--destination", "crm"]);
    run(&bridge, &["delivery", "discard", &format!("{message}-3")]);
    let view = bridge
        .admin("GET", &format!("/messages/{message}"), "")
        .unwrap()
        .1;
    assert_eq!(view["state"], "delivered");
    assert_eq!(view["deliveries"][2]["acknowledged_by"], "delivery");
    assert_eq!(view["deliveries"][2]["resent"], true);
    assert_eq!(crm.received().len(), before + 2);
}
