//! Tests of the whole, against the real daemon and real servers on this machine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test fails by panicking, its servers too"
)]

mod acknowledge;
mod alerts;
mod api;
mod architecture;
mod backup;
mod bridge;
mod carriers;
mod commands;
mod config;
mod daemon;
mod dashboard;
mod docs;
mod email;
mod end_to_end;
mod fallback;
mod files;
mod fixtures;
mod hostile;
mod intelepeer_api;
mod intelepeer_receive;
mod login;
mod lookups;
mod matrix;
mod page;
mod pending;
mod promises;
mod proxies;
mod redaction;
mod reload;
mod schema;
mod security;
mod senders;
mod series;
mod servers;
mod slack;
mod sockets;
mod status;
mod stop;
mod store_long;
mod systemd;
mod tls;
mod webhook;
