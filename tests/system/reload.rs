//! Reloads while a file never answers.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::bridge::{Bridge, refid, wait_for};
use crate::reloads::{SCREEN, SECOND, reload, secret};
use crate::servers::Owned;

/// How long a file may take.
const FILE_PATIENCE: Duration = Duration::from_secs(10);

/// From now on, opening this file takes longer than every timeout.
fn hang(bridge: &Bridge, path: &Path) -> Owned {
    let strace = Command::new("strace")
        .args(["-f", "-qq", "-p", &bridge.pid().to_string(), "-o"])
        .arg(bridge.folder().join("strace"))
        .arg("-P")
        .arg(path)
        .args(["-e", "trace=openat", "-e", "inject=openat:delay_enter=60000000"])
        .spawn()
        .expect("strace");
    let strace = Owned(strace);
    wait_for("strace to be attached to every thread", || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", bridge.pid())).unwrap();
        let traced = |thread: std::io::Result<std::fs::DirEntry>| {
            let status = std::fs::read_to_string(thread.ok()?.path().join("status")).ok()?;
            (!status.contains("TracerPid:\t0\n")).then_some(())
        };
        threads.map(traced).collect::<Option<()>>()
    });
    strace
}

#[test]
#[ignore = "needs strace: tests/run"]
fn a_file_that_never_opens_is_reported_and_blocks_nothing() {
    let mut bridge = Bridge::configured(&format!("{SECOND}{SCREEN}"));
    let path = secret(&bridge);
    bridge.run_with(&[], &[("TOKIO_WORKER_THREADS", "2")]);
    let strace = hang(&bridge, &path);
    let started = Instant::now();
    let reloads = [reload(&bridge), reload(&bridge)];
    bridge.signal("HUP");
    std::thread::sleep(Duration::from_millis(500));
    for number in 0..20 {
        assert_eq!(
            bridge.post_message(&refid(number), "+13035550100", "hello").0,
            200
        );
    }
    assert_eq!(bridge.admin("GET", "/status", "").unwrap().0, 200);
    assert!(started.elapsed() < FILE_PATIENCE, "{:?}", started.elapsed());
    let named = format!("the secret file {} has not answered for 1", path.display());
    for reload in reloads {
        let (status, said) = reload.join().unwrap().expect("an answer to the reload");
        let message = said["problems"][0]["message"].as_str().unwrap();
        assert!(status == 422 && message.starts_with(&named), "{said}");
    }
    let asked = Instant::now();
    let (_, said) = reload(&bridge).join().unwrap().unwrap();
    assert!(said.to_string().contains(&named), "{said}");
    assert!(
        asked.elapsed() < Duration::from_secs(3),
        "not waited for again: {:?}",
        asked.elapsed()
    );
    bridge.logged("reload failed: 1 error; previous configuration stays active");
    let threads = std::fs::read_dir(format!("/proc/{}/task", bridge.pid())).unwrap();
    let reading = threads.filter(|thread| {
        let name = thread.as_ref().unwrap().path().join("comm");
        std::fs::read_to_string(name).is_ok_and(|name| name.trim() == "configuration")
    });
    assert_eq!(reading.count(), 1, "one thread waits, however often it was asked");
    let asked = Instant::now();
    bridge.signal("TERM");
    bridge.logged("\"stopped\"");
    assert!(asked.elapsed() < Duration::from_secs(10));
    // A thread that is held by a tracer delays the exit of the process, too.
    drop(strace);
    assert!(bridge.end().success());
}
