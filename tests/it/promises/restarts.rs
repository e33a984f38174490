//! P15, P16 and P23: restarts, reloads and backups while messages arrive.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::ledger::{Carrier, Receiver, nowhere, stored, unmatched};
use super::{report, rounds};
use crate::bridge::refid;
use crate::bridge::{Bridge, http, try_http, wait_for};

/// Starts the daemon on a socket that another process holds, as systemd does with a socket unit: as the third
/// descriptor, named in the environment of exactly that process.
fn run_on(bridge: &mut Bridge, socket: &TcpListener) {
    let mut shell = Command::new("sh");
    let script =
        "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1; export LISTEN_PID LISTEN_FDS; exec \"$0\" \"$@\"";
    shell
        .args(["-c", script, env!("CARGO_BIN_EXE_smsbridge"), "serve", "--config"])
        .arg(bridge.folder().join("config.toml"))
        .stdin(OwnedFd::from(socket.try_clone().unwrap()));
    bridge.run_as_it_is(shell, &[]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p15_restarts_under_load_refuse_no_connection_and_drop_no_request() {
    let restarts = rounds(3, 30);
    let receiver = Receiver::good().await;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut bridge = Bridge::configured(&(receiver.config("crm", "") + &unmatched(&["crm"])));
    run_on(&mut bridge, &socket);
    let url = bridge.url("/inbound/intelepeer");
    assert!(
        url.contains(&socket.local_addr().unwrap().to_string()),
        "{url}: the passed socket is used"
    );
    let (stop, next, failed) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let body = Bridge::body(&refid(number), "+13035550100", "x").to_string();
                    let answer = try_http("POST", &url, &[("content-type", "application/json")], &body);
                    if answer.as_ref().is_none_or(|(status, ..)| *status != 200) {
                        eprintln!("message {number}: {answer:?}");
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for _ in 0..restarts {
            std::thread::sleep(Duration::from_millis(300));
            let (status, ..) = bridge.stop();
            assert!(status.success(), "{status}");
            run_on(&mut bridge, &socket);
        }
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
    });
    let sent = next.into_inner();
    assert!(sent > 50, "only {sent} requests: the test proves nothing");
    assert_eq!(
        failed.into_inner(),
        0,
        "of {sent} requests over {restarts} restarts some got no 200"
    );
    wait_for("every message", || (receiver.taken().len() >= sent).then_some(()));
    let mut taken = receiver.taken();
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), sent);
    report(
        "P15",
        &format!("{restarts} restarts, {sent} requests, 0 refused or dropped"),
    );
}

/// Configurations that must be rejected, and a word of the reason.
const BAD: &[(&str, &str)] = &[
    ("[destination.crm", "TOML"),
    (
        "[destination.crm]\nkind = \"webhok\"\n[routing]\nunmatched = [\"crm\"]\n",
        "webhok",
    ),
    ("[routing]\nunmatched = [\"nobody\"]\n", "nobody"),
    (
        "[destination.crm]\nkind = \"webhook\"\n[routing]\nunmatched = [\"crm\"]\n",
        "url",
    ),
    (
        "[destination.crm]\nkind = \"console\"\ntemplate = \"{{ nonsense(\"\n[routing]\nunmatched = [\"crm\"]\n",
        "template",
    ),
    (
        "[destination.crm]\nkind = \"console\"\n[[route]]\nname = \"a\"\nmessage = '('\ndeliver = [\"crm\"]\n[routing]\nunmatched = [\"crm\"]\n",
        "route",
    ),
    (
        "[destination.crm]\nkind = \"console\"\ncolour = \"red\"\n[routing]\nunmatched = [\"crm\"]\n",
        "colour",
    ),
    ("[destination.crm]\nkind = \"console\"\n", "unmatched"),
    ("", "unmatched"),
];

#[tokio::test(flavor = "multi_thread")]
async fn p16_an_invalid_configuration_changes_nothing_and_a_removed_destination_keeps_its_messages() {
    let (first, second) = (Receiver::good().await, Receiver::good().await);
    let good = first.config("crm", "") + &nowhere("old") + &unmatched(&["crm", "old"]);
    let bridge = Bridge::start(&good);
    let mut number = 0;
    let mut text = || {
        number += 1;
        let (status, body) = bridge.post_message(&refid(number), "+13035550100", "x");
        assert_eq!(status, 200);
        body["id"].as_str().unwrap().to_owned()
    };
    let mut before = Vec::new();
    for (bad, words) in BAD {
        bridge.configure(bad);
        let (status, problems) = bridge.admin("POST", "/reload", "").unwrap();
        assert_eq!(status, 422, "{bad}: {problems}");
        assert!(problems.to_string().contains(words), "{bad}: {problems}");
        before.push(text());
    }
    wait_for("all messages as before", || {
        (first.taken().len() == BAD.len()).then_some(())
    });
    bridge.signal("HUP");
    bridge.logged("reload failed");

    // Another address for `crm`, and `old` is removed while nine messages are pending for it.
    let without = second.config("crm", "") + &unmatched(&["crm"]);
    bridge.configure(&without);
    assert_eq!(bridge.admin("POST", "/reload", "").unwrap().0, 200);
    let after = text();
    wait_for("the new address", || {
        (second.taken() == [format!("{after}-1")]).then_some(())
    });
    assert_eq!(
        first.taken().len(),
        BAD.len(),
        "the old address gets nothing more"
    );
    let problems = bridge.status()["problems"].to_string();
    assert!(
        problems.contains("destination old is no longer configured; 9 pending"),
        "{problems}"
    );
    for id in &before {
        let (_, message) = bridge.admin("GET", &format!("/messages/{id}"), "").unwrap();
        let expected: Vec<&str> = super::ledger::deliveries(&message)
            .map(|delivery| delivery["destination"].as_str().unwrap())
            .collect();
        assert_eq!(
            expected,
            ["crm", "old"],
            "accepted messages keep their destinations"
        );
    }

    let back = Receiver::good().await;
    bridge.configure(&(second.config("crm", "") + &back.config("old", "") + &unmatched(&["crm"])));
    assert_eq!(bridge.admin("POST", "/reload", "").unwrap().0, 200);
    let expected: Vec<String> = before.iter().map(|id| format!("{id}-2")).collect();
    wait_for("the messages of the destination that is back", || {
        (back.taken().len() >= expected.len()).then_some(())
    });
    assert_eq!(back.taken(), expected, "its pending messages, in order");
    report(
        "P16",
        &format!(
            "{} invalid files rejected, a removed destination kept {} messages",
            BAD.len(),
            expected.len()
        ),
    );
}

#[test]
fn p16_a_changed_listen_address_is_reported_and_the_socket_stays() {
    let bridge = Bridge::start(&(nowhere("crm") + &unmatched(&["crm"])));
    let path = bridge.folder().join("config.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, config.replace("127.0.0.1:0", "127.0.0.1:1")).unwrap();
    let (status, changes) = bridge.admin("POST", "/reload", "").unwrap();
    assert_eq!(status, 200, "{changes}");
    assert_eq!(changes["changes"][0]["needs_restart"], true, "{changes}");
    assert_eq!(http("GET", &bridge.url("/healthz"), &[], "").0, 200);
}

#[test]
fn p23_a_backup_under_load_restores_everything_accepted_before_it_began() {
    let rounds = rounds(2, 40);
    let config = nowhere("crm") + &unmatched(&["crm"]);
    let bridge = Bridge::start(&config);
    let carrier = Carrier::start(&bridge, 4, 0);
    let mut looked_for = 0;
    for round in 0..rounds {
        std::thread::sleep(Duration::from_millis(400));
        let acknowledged = carrier.acknowledged();
        let copy = bridge.folder().join(format!("copy-{round}"));
        let (exit, out, error) = bridge.command(&["backup", copy.to_str().unwrap()]);
        assert_eq!(exit, 0, "{out}{error}");
        let mut other = Bridge::configured(&config);
        let restored = other.command(&["restore", copy.to_str().unwrap()]);
        assert_eq!(restored.0, 0, "{restored:?}");
        other.run();
        super::ledger::audit(&other, &acknowledged, &["crm"]);
        looked_for += acknowledged.len();
        other.kill();
        std::fs::remove_file(copy).unwrap();
    }
    let all = carrier.end();
    assert!(
        looked_for > 50,
        "only {looked_for} messages: the test proves nothing"
    );
    assert_eq!(stored(&bridge).len(), all.len(), "the backups changed nothing");
    report(
        "P23",
        &format!("{rounds} backups under load, {looked_for} messages looked for after the restore, 0 lost"),
    );
}

#[test]
fn p23_a_truncated_backup_is_rejected() {
    let mut bridge = Bridge::start(&(nowhere("crm") + &unmatched(&["crm"])));
    for number in 0..500 {
        assert_eq!(
            bridge
                .post_message(&refid(number), "+13035550100", &"x".repeat(2_000))
                .0,
            200
        );
    }
    let copy = bridge.folder().join("copy");
    let mut backup = Command::new(env!("CARGO_BIN_EXE_smsbridge"))
        .args(["backup", copy.to_str().unwrap(), "--config"])
        .arg(bridge.folder().join("config.toml"))
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(40));
    bridge.kill();
    let done = backup.wait().unwrap().success();
    assert_eq!(
        copy.exists(),
        done,
        "a file of that name is a whole backup, and there is none without one"
    );
}
