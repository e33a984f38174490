//! Reloads of a running daemon.

use crate::bridge::{Bridge, CODE, ask};

pub const SCREEN: &str = "[destination.screen]\nkind = \"console\"\n[routing]\nunmatched = [\"screen\"]\n";

/// A source whose secret is in `secret`, beside the one of every configuration here.
pub const SECOND: &str = "[source.second]\nkind = \"intelepeer\"\nsecret = { file = \"secret\" }\n";

pub fn secret(bridge: &Bridge) -> std::path::PathBuf {
    let path = bridge.folder().join("secret");
    std::fs::write(&path, CODE).unwrap();
    path
}

/// Reloads by the API from its own thread, so that a daemon that never answers fails the test and does not block it.
pub fn reload(bridge: &Bridge) -> std::thread::JoinHandle<Option<(u16, serde_json::Value)>> {
    let socket = bridge.store().join("admin.sock");
    std::thread::spawn(move || ask(&socket, "POST", "/reload", ""))
}
