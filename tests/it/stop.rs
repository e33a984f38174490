//! How the daemon stops: which attempts it waits for, what it logs and reports meanwhile, and that a second signal ends
//! the wait.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use crate::bridge::refid;
use crate::bridge::{Bridge, http, wait_for, wait_within};
use crate::servers::recorder::webhook;
use crate::servers::recorder::{Recorder, Reply};

const TO_CRM: &str = "[routing]\nunmatched = [\"crm\"]\n";

/// A server that answers 200 after this time.
async fn slow(delay: Duration) -> Recorder {
    Recorder::start(move |_| {
        let mut reply = Reply::new(200, "ok");
        reply.delay = delay;
        reply
    })
    .await
}

/// All notifications that the daemon sent to its service manager.
fn told(manager: &UnixDatagram) -> Vec<String> {
    manager.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    let mut all = Vec::new();
    while let Ok(length) = manager.recv(&mut buffer) {
        all.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_in_progress_may_take_its_timeout_when_the_daemon_stops() {
    // Longer than any other limit that a stop has.
    let slow = slow(Duration::from_secs(17)).await;
    let mut bridge = Bridge::configured(&(webhook("crm", &slow, "timeout = \"30s\"") + TO_CRM));
    let path = bridge.folder().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    bridge.run_with(&[], &[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    bridge.post_message(&refid(1), "+13035550100", "once");
    wait_for("the attempt", || (slow.received().len() == 1).then_some(()));
    told(&manager);
    bridge.signal("TERM");
    bridge.logged("waiting for 1 delivery to crm");
    let mut all = Vec::new();
    let mut lines = 0;
    wait_within(Duration::from_secs(40), "the end", || {
        all.extend(told(&manager));
        let log = bridge.log();
        lines = log
            .iter()
            .filter(|line| line.contains("1 delivery to crm"))
            .count();
        log.iter().any(|line| line.contains("\"stopped\"")).then_some(())
    });
    assert!(bridge.end().success());
    assert_eq!(lines, 2, "said at once and after ten seconds");
    let stopping = all.iter().position(|told| told.contains("STOPPING=1")).unwrap();
    let extended: Vec<&String> = all[stopping..]
        .iter()
        .filter(|told| told.contains("EXTEND_TIMEOUT_USEC=30000000"))
        .collect();
    assert_eq!(extended.len(), 2, "{all:?}");
    assert!(extended[0].contains("STATUS=stopping: waiting"), "{extended:?}");

    bridge.run();
    let messages = bridge.status()["messages"].clone();
    assert_eq!(
        (messages["delivered"].as_u64(), messages["pending"].as_u64()),
        (Some(1), Some(0))
    );
    assert_eq!(slow.received().len(), 1, "it was sent once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_daemon_at_once() {
    let hanging = slow(Duration::from_secs(600)).await;
    let mut bridge = Bridge::start(&(webhook("crm", &hanging, "timeout = \"60s\"") + TO_CRM));
    bridge.post_message(&refid(1), "+13035550100", "x");
    wait_for("the attempt", || (hanging.received().len() == 1).then_some(()));
    bridge.signal("TERM");
    bridge.logged("waiting for 1 delivery to crm");
    let started = Instant::now();
    bridge.signal("INT");
    bridge.logged("second signal");
    assert!(bridge.end().success());
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    bridge.run();
    assert_eq!(bridge.status()["messages"]["pending"], 1, "it is not lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_daemon_is_not_ready_and_shows_what_it_waits_for() {
    let hanging = slow(Duration::from_secs(600)).await;
    let mut bridge = Bridge::start(
        &(webhook("crm", &hanging, "timeout = \"60s\"")
            + TO_CRM
            + "[admin]\nlisten = \"127.0.0.1:0\"\ntoken = \"a-token-for-tests-only\"\n"),
    );
    let page = bridge.logged("admin page on ");
    let page = page.split("admin page on ").nth(1).unwrap();
    let page = page.split('"').next().unwrap().to_owned();
    bridge.post_message(&refid(1), "+13035550100", "x");
    wait_for("the attempt", || (hanging.received().len() == 1).then_some(()));
    assert_eq!(http("GET", &format!("{page}readyz"), &[], "").0, 200);
    assert_eq!(bridge.status()["stopping"], serde_json::Value::Null);

    bridge.signal("TERM");
    bridge.logged("waiting for 1 delivery to crm");
    let (code, _, body) = http("GET", &format!("{page}readyz"), &[], "");
    assert!(
        code == 503 && body.contains("stopping: waiting for 1 delivery to crm, at most "),
        "{code} {body}"
    );
    let status = bridge.status();
    assert_eq!(status["ready"], false);
    let what = status["stopping"].as_str().unwrap();
    assert!(
        what.starts_with("waiting for 1 delivery to crm, at most "),
        "{what}"
    );
    let problem = status["problems"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&problem["kind"], &problem["severity"]),
        (&"stopping".into(), &"warning".into())
    );
    let (code, said, _) = bridge.command(&["status"]);
    assert!(
        code == 0
            && said.contains(": stopping, waiting for 1 delivery to crm, at most ")
            && said.contains("\n  ! smsbridge is stopping: waiting for 1 delivery to crm, at most "),
        "{said}"
    );

    // Without a listening socket, the store's lock shows that a daemon is running.
    std::fs::remove_file(bridge.store().join("admin.sock")).unwrap();
    let (code, _, said) = bridge.command(&["message", "list"]);
    assert!(
        code == 3 && said.contains("smsbridge is starting or stopping: it has the store "),
        "{said}"
    );
    bridge.signal("INT");
    bridge.logged("second signal");
    assert!(bridge.end().success());
    let (_, _, said) = bridge.command(&["message", "list"]);
    assert!(said.contains("the daemon is not running"), "{said}");
}

#[test]
fn opening_the_store_is_logged_with_its_duration() {
    let bridge = Bridge::start("[routing]\nunmatched = []\n");
    let log = bridge.log();
    let at = |words: &str| log.iter().position(|line| line.contains(words));
    let (begun, ended) = (at("\"opening the store "), at("\"opened the store "));
    assert!(
        begun.is_some() && begun < ended && ended < at("\"ready: "),
        "{log:?}"
    );
    assert!(log[ended.unwrap()].contains("\"took_ms\":"), "{log:?}");
}
