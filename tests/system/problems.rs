//! A problem that ends is told once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::bridge::{Bridge, refid, wait_within};
use crate::servers::recorder::{Recorder, Reply, webhook};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a minute: tests/run"]
async fn the_end_of_a_problem_is_told_once() {
    let status = Arc::new(AtomicU16::new(404));
    let answer = status.clone();
    let crm = Recorder::start(move |_| Reply::new(answer.load(Ordering::Relaxed), "")).await;
    let desk = Recorder::answering(Reply::new(200, "ok")).await;
    let bridge = Bridge::start(&format!(
        "{}{}[operator]\nnotify = [\"desk\"]\nafter = \"1s\"\n[routing]\nunmatched = [\"crm\"]\n",
        webhook("crm", &crm, ""),
        webhook("desk", &desk, "")
    ));
    assert_eq!(bridge.post_message(&refid(1), "+13035550100", "hello").0, 200);
    wait_within(Duration::from_secs(30), "the first notice", || {
        (desk.received().len() == 1).then_some(())
    });
    status.store(200, Ordering::Relaxed);
    assert_eq!(bridge.command(&["destination", "test", "crm"]).0, 0);
    let over = wait_within(Duration::from_secs(90), "the second notice", || {
        desk.received()
            .get(1)
            .map(|received| received.json()["text"].to_string())
    });
    assert!(
        over.contains("1 problem over:")
            && over.contains("destination crm has no delivery problem any more, after"),
        "{over}"
    );
    std::thread::sleep(Duration::from_secs(15));
    assert_eq!(desk.received().len(), 2);
}
