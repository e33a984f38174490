//! `[operator]`: problems are told through a destination, once when they begin and once when they are over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::bridge::{Bridge, refid, wait_within};
use crate::servers::recorder::{Recorder, Reply, webhook};

const LONG: Duration = Duration::from_secs(30);

fn texts(recorder: &Recorder) -> Vec<String> {
    let received = recorder.received();
    let text = received.iter().map(|received| received.json()["text"].clone());
    text.map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// A destination that answers with a changing status.
async fn changing(status: &Arc<AtomicU16>) -> Recorder {
    let status = status.clone();
    Recorder::start(move |_| Reply::new(status.load(Ordering::Relaxed), "")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_is_told_once_and_again_when_it_is_over() {
    let status = Arc::new(AtomicU16::new(401));
    let (crm, desk) = (
        changing(&status).await,
        Recorder::answering(Reply::new(200, "ok")).await,
    );
    let config = webhook("crm", &crm, "") + &webhook("desk", &desk, "");
    let mut bridge = Bridge::start(&format!(
        "{config}[operator]\nnotify = [\"desk\", \"crm\"]\nafter = \"2s\"\n[routing]\nunmatched = [\"crm\"]\n"
    ));
    assert_eq!(bridge.post_message(&refid(1), "+13035550100", "hello").0, 200);
    let told = wait_within(LONG, "the notice", || texts(&desk).pop());
    assert!(
        told.starts_with("1 problem:\n- destination crm") && told.contains("has been parked for"),
        "{told}"
    );
    assert!(
        told.contains("HTTP 401") && told.contains("`smsbridge reload`"),
        "{told}"
    );
    let body = &desk.received()[0].json();
    assert_eq!(
        (&body["from"], &body["source"]),
        (&"smsbridge".into(), &"smsbridge".into()),
        "{body}"
    );
    // Neither a look later nor a crash repeats it, and the broken destination is not told.
    bridge.kill();
    bridge.run();
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(texts(&desk).len(), 1, "{:?}", texts(&desk));
    assert!(
        texts(&crm).iter().all(|text| text == "hello"),
        "{:?}",
        texts(&crm)
    );
    assert_eq!(
        bridge.status()["messages"]["accepted"],
        1,
        "a notice is no message"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_test_goes_to_each_destination_and_reports_each_result() {
    let status = Arc::new(AtomicU16::new(500));
    let (crm, desk) = (
        changing(&status).await,
        Recorder::answering(Reply::new(200, "ok")).await,
    );
    let config = webhook("crm", &crm, "") + &webhook("desk", &desk, "");
    let routing = "[routing]\nunmatched = [\"crm\"]\n";
    let bridge = Bridge::start(&format!(
        "{config}[operator]\nnotify = [\"desk\", \"crm\"]\n{routing}"
    ));
    for command in [["operator", "test", ""], ["destination", "test", "--all"]] {
        let command: Vec<&str> = command.into_iter().filter(|word| !word.is_empty()).collect();
        let (code, out, stderr) = bridge.command(&command);
        assert_eq!(code, 1, "{stderr}");
        assert!(
            out.contains("delivered to desk") && out.contains("not delivered to crm"),
            "{out}"
        );
    }
    let first = &texts(&desk)[0];
    assert_eq!(
        first,
        "This is a test from smsbridge. Problems will be reported here."
    );
    bridge.configure(&format!("{config}{routing}"));
    assert_eq!(bridge.command(&["reload"]).0, 0);
    let (code, _, stderr) = bridge.command(&["operator", "test"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("add `notify` to [operator]"), "{stderr}");
}

#[test]
fn an_unknown_destination_to_notify_is_an_error() {
    let bridge = Bridge::configured(
        "[destination.desk]\nkind = \"console\"\n[operator]\nnotify = [\"dsk\"]\n[routing]\nunmatched = [\"desk\"]\n",
    );
    let (code, out, stderr) = bridge.command(&["check"]);
    assert_eq!(code, 2);
    let all = out + &stderr;
    assert!(
        all.contains("operator.notify: unknown destination `dsk`; did you mean `desk`?"),
        "{all}"
    );
}
