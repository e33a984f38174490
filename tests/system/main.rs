//! Tests that need root or real servers: file systems that fail, Postfix, Synapse, Chromium, Prometheus, systemd,
//! and the libraries of the carriers.
//!
//! Each is marked `#[ignore]` with what it needs, so that `cargo test` names it and does not run it. `tests/run` runs
//! all of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test fails by panicking, its servers too"
)]

#[path = "../common/admin.rs"]
mod admin;
mod api;
#[path = "../common/bridge.rs"]
mod bridge;
mod carriers;
mod docs;
mod email;
mod end_to_end;
mod faults;
#[path = "../common/fixtures.rs"]
mod fixtures;
mod holds;
mod lookups;
#[path = "../common/mail.rs"]
mod mail;
mod matrix;
#[path = "../common/metrics.rs"]
mod metrics;
mod nodes;
mod page;
#[path = "../common/pages.rs"]
mod pages;
#[path = "../common/places.rs"]
mod places;
#[path = "../common/postgres.rs"]
mod postgres;
mod problems;
mod prometheus;
mod promises;
mod proxies;
#[path = "../common/reference.rs"]
mod reference;
mod reload;
#[path = "../common/reloads.rs"]
mod reloads;
mod schema;
mod servers;
mod several;
mod sockets;
mod store_command;
mod systemd;
