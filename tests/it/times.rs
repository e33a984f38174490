//! Time intervals: routes that know the time, and destinations that hold their deliveries.

use serde_json::Value;

use crate::bridge::{Bridge, refid, wait_for};
use crate::servers::recorder::{Recorder, Reply, webhook};

/// A destination `desk` that holds during `nights`, and an urgent route.
fn held(recorder: &Recorder, nights: &str) -> String {
    let desk = webhook("desk", recorder, "hold_during = [\"nights\"]\nconcurrency = 1");
    format!(
        "{desk}[time_interval.nights]\n{nights}\n\
         [[route]]\nname = \"urgent\"\nmessage = \"urgent\"\nurgent = true\ndeliver = [\"desk\"]\n\
         [routing]\nunmatched = [\"desk\"]\n"
    )
}

fn texts(recorder: &Recorder) -> Vec<String> {
    let text = |body: Value| body["text"].as_str().unwrap().to_owned();
    recorder
        .received()
        .iter()
        .map(|received| text(received.json()))
        .collect()
}

fn wait_until_held(bridge: &Bridge, count: usize) -> Vec<Value> {
    wait_for("held deliveries", || {
        let (_, listed) = bridge.admin("GET", "/deliveries?state=pending", "").unwrap();
        let items = listed["items"].as_array().unwrap().clone();
        // The second message of the conversation waits for the first.
        let is_held =
            |item: &Value| item["pending"]["cause"] == "held" || !item["pending"]["behind"].is_null();
        (items.len() == count && items.iter().all(is_held)).then_some(items)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_ends_with_its_interval_and_lets_urgent_messages_pass() {
    let desk = Recorder::answering(Reply::new(200, "ok")).await;
    // Every time, so that the test does not depend on the clock.
    let mut bridge = Bridge::start(&held(&desk, ""));
    for (number, text) in [(1, "first"), (2, "second"), (3, "urgent"), (4, "other")] {
        let from = if number == 4 {
            "+13035550101"
        } else {
            "+13035550100"
        };
        assert_eq!(bridge.post_message(&refid(number), from, text).0, 200);
    }
    wait_for("the urgent one", || (texts(&desk) == ["urgent"]).then_some(()));
    let items = wait_until_held(&bridge, 3);
    assert!(
        items
            .iter()
            .all(|item| item["pending"]["next_attempt"].is_string())
    );
    let id = items
        .iter()
        .find(|item| item["pending"]["behind"].is_null())
        .unwrap()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let (code, shown, _) = bridge.command(&["delivery", "show", &id]);
    assert_eq!(code, 0);
    assert!(
        shown.contains("a time interval of `hold_during` holds it"),
        "{shown}"
    );
    // A crash changes nothing.
    bridge.kill();
    bridge.run();
    wait_until_held(&bridge, 3);
    assert_eq!(texts(&desk), ["urgent"]);
    // Another interval: the hold is over, and the conversation keeps its order.
    bridge.configure(&held(&desk, "dates = [\"2020-01-01\"]"));
    let (code, _, stderr) = bridge.command(&["reload"]);
    assert_eq!(code, 0, "{stderr}");
    wait_for("all", || (texts(&desk).len() == 4).then_some(()));
    let first_two: Vec<String> = texts(&desk)
        .into_iter()
        .filter(|text| text.contains("first") || text.contains("second"))
        .collect();
    assert_eq!(first_two, ["first", "second"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_by_an_operator_ends_a_hold() {
    let desk = Recorder::answering(Reply::new(200, "ok")).await;
    let bridge = Bridge::start(&held(&desk, ""));
    let (_, answer) = bridge.post_message(&refid(1), "+13035550100", "hello");
    wait_until_held(&bridge, 1);
    let id = format!("{}-1", answer["id"].as_str().unwrap());
    let (code, out, stderr) = bridge.command(&["delivery", "retry", &id]);
    assert_eq!(code, 0, "{out}{stderr}");
    wait_for("the message", || (texts(&desk) == ["hello"]).then_some(()));
}

#[test]
fn route_knows_the_time() {
    let bridge = Bridge::configured(
        "[destination.desk]\nkind = \"console\"\n[destination.pager]\nkind = \"console\"\n\
         [time_interval.office]\ntimezone = \"America/Denver\"\ntimes = [\"08:00-18:00\"]\nweekdays = [\"mon-fri\"]\n\
         [[route]]\nname = \"office\"\nactive = [\"office\"]\ndeliver = [\"desk\"]\n\
         [routing]\nunmatched = [\"pager\"]\n",
    );
    let route = |at: &str| {
        let message = [
            "route",
            "--from",
            "+13035550100",
            "--to",
            "+13038675309",
            "--message",
            "x",
        ];
        let (code, out, stderr) = bridge.command(&[&message[..], &["--at", at]].concat());
        assert_eq!(code, 0, "{stderr}");
        out
    };
    let day = route("2026-11-27T12:00:00-07:00");
    assert!(
        day.contains("route office  matched") && day.contains("desk"),
        "{day}"
    );
    let night = route("2026-11-27T19:00:00-07:00");
    let why = "route office  no: active: 2026-11-28T02:00:00.000Z is not in `office`";
    assert!(night.contains(why) && night.contains("pager"), "{night}");
    let (_, listed, _) = bridge.command(&["route"]);
    assert!(listed.contains("always, during office"), "{listed}");
}

#[test]
fn check_reports_unknown_constant_and_unused_intervals() {
    let bridge = Bridge::configured(
        "[destination.desk]\nkind = \"console\"\nhold_during = [\"night\"]\n\
         [time_interval.nights]\ntimes = [\"22:00-06:00\"]\n[time_interval.over]\ndates = [\"2020-01-01\"]\n\
         [routing]\nunmatched = [\"desk\"]\n",
    );
    let (code, out, stderr) = bridge.command(&["check"]);
    let all = out + &stderr;
    assert_eq!(code, 2, "{all}");
    assert!(
        all.contains("destination.desk.hold_during: unknown time interval `night`; did you mean `nights`?"),
        "{all}"
    );
    assert!(
        all.contains("time_interval.over: contains no time from now on"),
        "{all}"
    );
}
