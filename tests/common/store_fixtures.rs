//! The stores of earlier formats in `tests/fixtures/store`, and what is in them.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::ledger::{deliveries, nowhere, stored, unmatched};
use crate::bridge::Bridge;

/// Stores written by released formats, each as `NAME.tar.gz` with what is in it as `NAME.json`.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/store")
}

/// Nothing expires, whatever today's date is.
pub const KEYS: &str = "min_free = \"1MiB\"\nretain = \"forever\"\ndedup_window = \"36500d\"";

pub fn config() -> String {
    let patient = "retry = { give_up_after = \"36500d\" }\n";
    let known = [nowhere("good"), nowhere("bad"), nowhere("paused") + patient];
    known.concat() + &unmatched(&["good", "bad", "paused"])
}

/// Unpacks a fixture into a folder, as `data`.
pub fn unpack(name: &str, folder: &Path) {
    let archive = fixtures().join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    let unpacked = tar.arg("-xzf").arg(archive).arg("-C").arg(folder).status();
    assert!(unpacked.unwrap().success());
}

/// The content of a fixture.
pub fn expected(name: &str) -> Value {
    let bytes = std::fs::read(fixtures().join(format!("{name}.json"))).unwrap();
    let mut expected: Value = serde_json::from_slice(&bytes).unwrap();
    // Earlier versions showed a delivery as created a moment before its message was received.
    for message in expected["messages"].as_array_mut().unwrap() {
        let received = message["received_at"].clone();
        for delivery in message["deliveries"].as_array_mut().unwrap() {
            if delivery["created_at"].as_str() < received.as_str() {
                delivery["created_at"] = received.clone();
            }
        }
    }
    expected
}

/// The content of a store that every later version must still read.
pub fn known(bridge: &Bridge) -> Value {
    let messages: Vec<Value> = stored(bridge)
        .into_values()
        .map(|mut message| {
            let expected: Vec<Value> = deliveries(&message)
                .map(|delivery| {
                    let of = |name: &str| delivery[name].clone();
                    json!({
                        "id": of("id"), "destination": of("destination"), "state": of("state"),
                        "reason": of("reason"), "attempts_made": of("attempts_made"), "created_at": of("created_at"),
                    })
                })
                .collect();
            let mut of = |name: &str| message[name].take();
            json!({
                "id": of("id"), "provider_id": of("provider_id"), "source": of("source"), "from": of("from"),
                "to": of("to"), "text": of("text"), "media": of("media"), "received_at": of("received_at"),
                "deliveries": expected,
            })
        })
        .collect();
    let status = bridge.status();
    json!({ "messages": messages, "counts": status["messages"] })
}
