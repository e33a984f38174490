//! P5, P6 and P25: a disk that hangs or is full, and the answers and the status meanwhile.

use std::path::Path;
use std::time::{Duration, Instant};

use super::disk::{Disk, yard};
use super::ledger::{Receiver, nowhere, stored, unmatched};
use super::{is_long, report, rounds};
use crate::bridge::refid;
use crate::bridge::{Bridge, http, try_http, wait_for, wait_within};
use crate::servers::recorder::Reply;

pub fn waiting() -> String {
    nowhere("crm") + &unmatched(&["crm"])
}

pub fn post(bridge: &Bridge, number: usize) -> Option<(u16, String)> {
    let body = Bridge::body(&refid(number), "+13035550100", "x").to_string();
    let url = bridge.url("/inbound/intelepeer");
    let (status, head, _) = try_http("POST", &url, &[("content-type", "application/json")], &body)?;
    Some((status, head.to_lowercase()))
}

fn readyz(bridge: &Bridge) -> u16 {
    http("GET", &bridge.url("/readyz"), &[], "").0
}

fn metric(bridge: &Bridge, name: &str) -> f64 {
    use std::io::{Read as _, Write as _};
    let mut stream = std::os::unix::net::UnixStream::connect(bridge.store().join("admin.sock")).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut metrics = String::new();
    stream.read_to_string(&mut metrics).unwrap();
    let line = metrics.lines().find(|line| line.starts_with(name));
    let line = line.unwrap_or_else(|| panic!("no metric {name}: {metrics}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
#[ignore = "needs strace: tests/run"]
fn p5_a_hung_disk_is_a_503_in_time() {
    let mut bridge = Bridge::configured(&waiting());
    bridge
        .run_with_faults(&["fdatasync:delay_enter=12000000:when=8"])
        .unwrap();
    let mut late = None;
    for number in 0..12 {
        let started = Instant::now();
        let (status, _) = post(&bridge, number).unwrap();
        assert!(status == 200 || status == 503, "{status}");
        let took = started.elapsed();
        assert!(took < Duration::from_secs(10), "{status} after {took:?}");
        if status == 503 {
            late = Some((number, took));
            break;
        }
    }
    let (late, took) = late.expect("no sync hung: the test proves nothing");
    wait_for("the disk to come back", || {
        (bridge.post_message(&refid(late), "+13035550100", "x").0 == 200).then_some(())
    });
    report(
        "P5",
        &format!("503 after {:.1} s of a hung sync", took.as_secs_f64()),
    );
}

/// Waits for half a minute: long form only.
#[test]
#[ignore = "needs strace: tests/run"]
fn p5_a_disk_that_stays_hung_ends_the_process_to_be_restarted() {
    if !is_long() {
        return report("P5", "a disk that stays hung: long form only");
    }
    let mut bridge = Bridge::configured(&waiting());
    bridge
        .run_with_faults(&["fdatasync:delay_enter=40000000:when=4+"])
        .unwrap();
    let started = Instant::now();
    let ended = (0..60).find_map(|number| post(&bridge, number).is_none().then(|| started.elapsed()));
    let ended = ended.expect("the daemon ends itself");
    // The tracer keeps the dead process until its delay is over.
    assert!(ended < Duration::from_secs(60), "{ended:?}");
    report(
        "P5",
        &format!(
            "ended itself {:.0} s after the disk hung for good",
            ended.as_secs_f64()
        ),
    );
}

const MIB: u64 = 1 << 20;

fn free(path: &Path) -> u64 {
    let file_system = rustix::fs::statvfs(path).unwrap();
    file_system.f_bavail * file_system.f_frsize
}

/// Fills the disk until about this many bytes are left.
fn fill(disk: &Disk, name: &str, leave: u64) {
    let file = std::fs::File::create(disk.path().join(name)).unwrap();
    let take = free(disk.path()).saturating_sub(leave);
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, take).unwrap();
}

/// Below the mebibyte that every write needs, whatever `min_free` is.
#[test]
#[ignore = "needs root, for a file system: tests/run"]
fn p25_readiness_and_status_show_a_full_disk_for_any_min_free() {
    let yard = yard();
    let disk = Disk::ext4(yard.path(), "tiny", 64 * MIB);
    let mut bridge = Bridge::placed(&disk.path().join("store"), "min_free = \"4KiB\"", &waiting());
    bridge.run();
    assert_eq!((post(&bridge, 0).unwrap().0, readyz(&bridge)), (200, 200));
    fill(&disk, "filler", MIB / 2);
    let mut numbers = 1..;
    let mut next = || post(&bridge, numbers.next().unwrap()).unwrap().0;
    wait_for("a 503", || (next() == 503).then_some(()));
    assert_eq!(readyz(&bridge), 503);
    let status = bridge.status();
    assert_eq!(status["ready"], false, "{status}");
    assert!(
        status["problems"].to_string().contains("the store is full: "),
        "{status}"
    );
    bridge.logged("1.0 MiB must stay free (`store.min_free`); free disk space, or lower `store.min_free`");
    std::fs::remove_file(disk.path().join("filler")).unwrap();
    wait_for("a 200", || (next() == 200).then_some(()));
    assert_eq!(readyz(&bridge), 200);
    bridge.logged("the store accepts messages again: ");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, for a file system: tests/run"]
async fn p6_a_full_disk_is_a_503_and_deliveries_go_on() {
    let rounds = rounds(1, 20);
    let receiver = Receiver::start(|received| {
        // The receiver accepts everything.
        assert!(!received.body.is_empty());
        Reply::new(200, "ok")
    })
    .await;
    let yard = yard();
    let disk = Disk::ext4(yard.path(), "small", 64 * MIB);
    let config = receiver.config("crm", "") + &nowhere("ops") + &unmatched(&["crm", "ops"]);
    let mut bridge = Bridge::placed(&disk.path().join("store"), "min_free = \"16MiB\"", &config);
    bridge.run();
    let (mut number, mut accepted) = (0, 0);
    for _ in 0..rounds {
        bridge.admin("POST", "/destinations/crm/pause", "").unwrap();
        for _ in 0..20 {
            assert_eq!(post(&bridge, number).unwrap().0, 200);
            (number, accepted) = (number + 1, accepted + 1);
        }
        fill(&disk, "filler", 12 * MIB);
        let head = wait_for("a 503", || match post(&bridge, number).unwrap() {
            (503, head) => Some(head),
            _ => {
                (number, accepted) = (number + 1, accepted + 1);
                None
            }
        });
        assert!(head.contains("retry-after: 60"), "{head}");
        assert_eq!(readyz(&bridge), 503);
        assert_eq!(bridge.status()["ready"], false);
        bridge.admin("POST", "/destinations/crm/resume", "").unwrap();
        wait_for("deliveries on a full disk", || {
            (receiver.taken().len() >= accepted).then_some(())
        });

        // A start without a free byte. Deliveries to `ops` stay pending.
        bridge.kill();
        fill(&disk, "more", 0);
        bridge.run();
        assert_eq!(post(&bridge, number).unwrap().0, 503);
        assert_eq!(stored(&bridge).len(), accepted);

        std::fs::remove_file(disk.path().join("filler")).unwrap();
        std::fs::remove_file(disk.path().join("more")).unwrap();
        wait_for("messages to be accepted again", || {
            (post(&bridge, number).unwrap().0 == 200).then_some(())
        });
        (number, accepted) = (number + 1, accepted + 1);
        assert_eq!(readyz(&bridge), 200);
        wait_for("the rest", || (receiver.taken().len() >= accepted).then_some(()));
    }
    report(
        "P6",
        &format!("filled and freed {rounds} times, {accepted} messages, 0 lost, 0 ENOSPC"),
    );
}

/// `ulimit -f`, or `LimitFSIZE=` of the unit: the kernel ends a process that writes beyond it, unless that is ignored.
#[test]
#[ignore = "needs root, for a file system: tests/run"]
fn a_file_size_limit_is_handled_like_a_full_disk() {
    let mut bridge = Bridge::configured(&waiting());
    let mut limited = std::process::Command::new("bash");
    let run = "ulimit -f 4096 && exec \"$0\" \"$@\"";
    limited.args(["-c", run, env!("CARGO_BIN_EXE_smsbridge")]);
    bridge.run_command(limited, &[], &[]).unwrap();
    let text = "x".repeat(50_000);
    let mut accepted = 0;
    let refused = (0..400).find(|number| {
        let (status, _) = bridge.post_message(&refid(*number), &format!("+1303555{number:04}"), &text);
        accepted += usize::from(status == 200);
        status == 503
    });
    assert!(refused.is_some() && accepted > 5, "{accepted} accepted");
    let problems = bridge.status()["problems"].to_string();
    assert!(problems.contains("RLIMIT_FSIZE"), "{problems}");
    assert_eq!(readyz(&bridge), 503);
    assert_eq!(stored(&bridge).len(), accepted);
    // Without the limit it accepts messages again.
    assert!(bridge.stop().0.success());
    bridge.run();
    assert_eq!(bridge.post_message(&refid(999), "+13035550100", "hello").0, 200);
}

#[test]
#[ignore = "needs root, for a file system: tests/run"]
fn a_file_system_without_free_inodes_is_reported() {
    let yard = yard();
    let disk = Disk::with_inodes(yard.path(), "inodes", 64);
    let mut bridge = Bridge::placed(&disk.path().join("data"), "min_free = \"1MiB\"", &waiting());
    bridge.run();
    assert_eq!(post(&bridge, 1).unwrap().0, 200);
    let mut made = 0;
    while std::fs::File::create(disk.path().join(made.to_string())).is_ok() {
        made += 1;
    }
    wait_for("status to name it", || {
        let problems = bridge.status()["problems"].to_string();
        problems.contains("no free inodes").then_some(())
    });
    assert_eq!(post(&bridge, 2).unwrap().0, 200, "messages need none");
    bridge.stop();
    std::fs::remove_dir_all(disk.path().join("data")).unwrap();
    while std::fs::File::create(disk.path().join(made.to_string())).is_ok() {
        made += 1;
    }
    let (status, _, said) = bridge.command(&["serve"]);
    assert!(status == 1 && said.contains("no free inodes"), "{status} {said}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs strace: tests/run"]
async fn p25_status_is_correct_during_faults() {
    let refusing = Receiver::start(|_| Reply::new(422, "no")).await;
    let config = refusing.config("bad", "") + &nowhere("down") + &unmatched(&["bad", "down"]);
    let mut bridge = Bridge::configured(&config);
    bridge.run();
    assert_eq!(
        (readyz(&bridge), bridge.status()["ready"].clone()),
        (200, true.into())
    );
    let accepted = Instant::now();
    for number in 0..3 {
        assert_eq!(post(&bridge, number).unwrap().0, 200);
    }
    wait_for("three dead ones", || {
        (bridge.status()["messages"]["dead"] == 3).then_some(())
    });
    std::thread::sleep(Duration::from_millis(1100));
    let oldest = metric(&bridge, "smsbridge_queue_oldest_seconds{destination=\"down\"}");
    let age = accepted.elapsed().as_secs_f64();
    assert!(
        (age - 1.0..=age + 0.1).contains(&oldest),
        "{oldest} s, accepted {age} s ago"
    );
    assert_eq!(
        metric(&bridge, "smsbridge_queue_pending{destination=\"down\"}"),
        3.0
    );
    let problems = bridge.status()["problems"].to_string();
    assert!(
        problems.contains("down has been down for")
            && problems.contains("destination bad (127.0.0.1:")
            && problems.contains(") has 3 dead deliveries"),
        "{problems}"
    );
    bridge.stop();

    bridge
        .run_with_faults(&["fdatasync:delay_enter=6000000:when=6"])
        .unwrap();
    let hung = std::thread::scope(|scope| {
        let posting = scope.spawn(|| (10..20).find(|number| post(&bridge, *number).unwrap().0 == 503));
        let hung = wait_within(
            Duration::from_secs(8),
            "readyz to notice a hanging commit",
            || (readyz(&bridge) == 503).then(|| bridge.status()),
        );
        assert_eq!(http("GET", &bridge.url("/healthz"), &[], "").0, 200, "it lives");
        posting.join().unwrap();
        hung
    });
    assert_eq!(hung["ready"], false, "`status` says what /readyz says");
    assert!(
        hung["problems"].to_string().contains("commit"),
        "{}",
        hung["problems"]
    );
    wait_for("readiness after the hanging commit", || {
        (readyz(&bridge) == 200).then_some(())
    });
    report(
        "P25",
        "readyz, ready, problems, pending, oldest and dead as they were",
    );
}
