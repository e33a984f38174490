//! Backups of the running daemon, and restoring them.

use std::process::{Command, Output};

use crate::bridge::{Bridge, wait_for};

const ROUTES: &str = "[admin]\nsocket = \"admin.sock\"\n[destination.console]\nkind = \"console\"\n\
     [[route]]\nname = \"all\"\ndeliver = [\"console\"]\n[routing]\nunmatched = [\"console\"]\n";

fn command(bridge: &Bridge, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_smsbridge"))
        .args(arguments)
        .current_dir(bridge.folder())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn refid(n: u32) -> String {
    format!("{n:032x}")
}

#[test]
fn an_online_backup_restores_everything_accepted_before_it_began() {
    let mut bridge = Bridge::start(ROUTES);
    for n in 0..300 {
        assert_eq!(
            bridge
                .post_message(&refid(n), "+13038675308", &format!("text {n}"))
                .0,
            200
        );
    }
    wait_for("the messages to be delivered", || {
        bridge
            .console()
            .iter()
            .any(|line| line.contains("text 299"))
            .then_some(())
    });
    let taken = command(&bridge, &["backup", "copy"]);
    assert!(taken.status.success(), "{}", said(&taken));
    let again = command(&bridge, &["backup", "copy"]);
    assert_eq!(again.status.code(), Some(2), "{}", said(&again));
    let running = command(&bridge, &["restore", "copy"]);
    assert_eq!(running.status.code(), Some(3), "{}", said(&running));
    bridge.stop();

    let full = command(&bridge, &["restore", "copy"]);
    assert_eq!(full.status.code(), Some(3), "{}", said(&full));
    std::fs::rename(bridge.folder().join("data"), bridge.folder().join("old")).unwrap();
    let restored = command(&bridge, &["restore", "copy"]);
    assert!(restored.status.success(), "{}", said(&restored));
    assert!(
        said(&restored).contains("300 messages with 300 deliveries"),
        "{}",
        said(&restored)
    );

    bridge.run();
    let repeated = bridge.post_message(&refid(7), "+13038675308", "text 7");
    assert_eq!(repeated.0, 200);
    assert_eq!(
        bridge.post_message(&refid(300), "+13038675308", "text 300").0,
        200
    );
    wait_for("the new message to be delivered", || {
        bridge
            .console()
            .iter()
            .any(|line| line.contains("text 300"))
            .then_some(())
    });
    assert!(
        !bridge.console().iter().any(|line| line.contains("text 7")),
        "it was delivered before"
    );
    assert!(
        !bridge.log().iter().any(|line| line.contains("was damaged")),
        "{:#?}",
        bridge.log()
    );
}

#[test]
fn a_damaged_backup_is_rejected_with_file_and_offset_and_changes_nothing() {
    let mut bridge = Bridge::start(ROUTES);
    assert_eq!(bridge.post_message(&refid(1), "+13038675308", "text").0, 200);
    assert!(command(&bridge, &["backup", "copy"]).status.success());
    bridge.stop();
    std::fs::rename(bridge.folder().join("data"), bridge.folder().join("old")).unwrap();
    let good = std::fs::read(bridge.folder().join("copy")).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 4;
    for bad in [
        &flipped[..],
        &good[..good.len() - 3],
        &good[..5],
        b"something else entirely",
    ] {
        std::fs::write(bridge.folder().join("bad"), bad).unwrap();
        let refused = command(&bridge, &["restore", "bad"]);
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
        assert!(said(&refused).contains("backup"), "{}", said(&refused));
        assert!(!bridge.folder().join("data").join("sled").exists());
    }
    assert!(command(&bridge, &["restore", "copy"]).status.success());
}
