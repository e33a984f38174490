//! P26: stores of other versions.

use std::process::Command;

use super::ledger::{Receiver, nowhere, stored, unmatched};
use super::report;
use super::store_fixtures::{KEYS, config, expected, fixtures, known, unpack};
use crate::bridge::refid;
use crate::bridge::{Bridge, wait_for};
use crate::servers::recorder::Reply;

#[test]
fn p26_a_store_of_every_earlier_format_is_read() {
    let mut read = 0;
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let archive = entry.unwrap().path();
        let Some(name) = archive.to_str().unwrap().strip_suffix(".tar.gz") else {
            continue;
        };
        let mut expected = expected(name);
        // The fixtures were written before these were counted, and contain none of them.
        let counts = expected["counts"].as_object_mut().unwrap();
        for count in ["acknowledged", "kept", "unrouted"] {
            counts.entry(count).or_insert(0.into());
        }
        let folder = tempfile::tempdir().unwrap();
        unpack(name, folder.path());
        let mut bridge = Bridge::placed(&folder.path().join("data"), KEYS, &config());
        for start in ["first", "second"] {
            bridge.run();
            assert_eq!(known(&bridge), expected, "{name}, {start} start");
            super::ledger::assert_no_findings(&bridge);
            bridge.stop();
        }
        bridge.run();
        assert_eq!(
            bridge.post_message(&refid(1), "+13035550100", "again").1["status"],
            "duplicate"
        );
        assert_eq!(
            bridge.post_message(&refid(999), "+13035550100", "new").1["status"],
            "accepted"
        );
        let destinations = bridge.admin("GET", "/destinations", "").unwrap().1;
        let paused = destinations
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["name"] == "paused")
            .unwrap();
        assert_eq!(paused["state"], "paused", "{name}");
        read += 1;
    }
    assert!(read >= 4, "only {read} fixtures were found");
    report("P26", &format!("{read} stored formats read, a later one refused"));
}

#[test]
fn p26_a_store_of_a_later_format_is_rejected_and_unchanged() {
    let mut bridge = Bridge::start(&config());
    assert_eq!(bridge.post_message(&refid(1), "+13035550100", "x").0, 200);
    bridge.stop();
    let format = bridge.store().join("format");
    let now = std::fs::read_to_string(&format).unwrap();
    std::fs::write(&format, "smsbridge store 4000000000\n").unwrap();
    let before = std::fs::read(bridge.store().join("sled/db")).unwrap();
    let (exit, _, error) = bridge.command(&["serve"]);
    assert_eq!(exit, 1, "{error}");
    assert!(
        error.contains("format 4000000000") && error.contains("newer version"),
        "{error}"
    );
    assert!(
        std::fs::read(bridge.store().join("sled/db")).unwrap() == before,
        "it was written to"
    );
    std::fs::write(&format, now).unwrap();
    bridge.run();
    assert_eq!(stored(&bridge).len(), 1);
}

/// Writes the fixture of the format of today: once per format, by hand, with
/// `cargo test --test it write_a_store_fixture -- --ignored`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes into tests/fixtures"]
async fn write_a_store_fixture() {
    let (good, bad) = (
        Receiver::good().await,
        Receiver::start(|_| Reply::new(422, "no")).await,
    );
    let folder = tempfile::tempdir().unwrap();
    let destinations = good.config("good", "") + &bad.config("bad", "") + &nowhere("paused");
    let mut bridge = Bridge::placed(
        &folder.path().join("data"),
        KEYS,
        &(destinations + &unmatched(&["good", "bad", "paused"])),
    );
    bridge.run();
    bridge.admin("POST", "/destinations/paused/pause", "").unwrap();
    let texts = ["plain", "", "ünïcödé 👩‍🚀 \u{202e}", &"long ".repeat(1_000)];
    for number in 0..40 {
        let (from, text) = (format!("+13035550{:03}", number % 7), texts[number % texts.len()]);
        assert_eq!(bridge.post_message(&refid(number), &from, text).0, 200);
    }
    wait_for("all but the paused", || {
        (bridge.status()["messages"]["pending"] == 40).then_some(())
    });
    bridge.stop();
    bridge.configure(&config());
    bridge.run();
    let known = serde_json::to_string_pretty(&known(&bridge)).unwrap();
    bridge.stop();
    let format = std::fs::read_to_string(bridge.store().join("format")).unwrap();
    let name = fixtures().join(format!("v{}", format.trim().rsplit(' ').next().unwrap()));
    std::fs::create_dir_all(fixtures()).unwrap();
    std::fs::write(name.with_extension("json"), known + "\n").unwrap();
    let packed = Command::new("tar")
        .args([
            "--exclude=ballast",
            "--exclude=lock",
            "--exclude=admin.sock",
            "--sort=name",
            "--owner=0",
            "--group=0",
        ])
        .arg("-czf")
        .arg(name.with_extension("tar.gz"))
        .arg("-C")
        .arg(folder.path())
        .arg("data")
        .status();
    assert!(packed.unwrap().success());
}
