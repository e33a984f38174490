//! Tests of the whole against the real daemon. They need no root and no service; `tests/system` has those that do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test fails by panicking, its servers too"
)]

mod acknowledge;
#[path = "../common/admin.rs"]
mod admin;
mod alerts;
mod api;
mod architecture;
mod backup;
mod batch;
#[path = "../common/bridge.rs"]
mod bridge;
mod carriers;
mod catch_up;
mod commands;
mod config;
mod daemon;
mod dashboard;
mod docs;
mod email;
mod fallback;
mod fallback_after;
mod files;
#[path = "../common/fixtures.rs"]
mod fixtures;
mod hostile;
mod intelepeer_api;
mod intelepeer_receive;
mod joining;
mod licences;
mod login;
#[path = "../common/mail.rs"]
mod mail;
mod matrix;
#[path = "../common/metrics.rs"]
mod metrics;
mod operator;
#[path = "../common/pages.rs"]
mod pages;
mod pending;
#[path = "../common/places.rs"]
mod places;
mod promises;
mod proxies;
mod recipes;
mod redaction;
#[path = "../common/reference.rs"]
mod reference;
mod reload;
#[path = "../common/reloads.rs"]
mod reloads;
mod schema;
mod security;
mod senders;
mod series;
mod servers;
mod services;
#[path = "../common/signed.rs"]
mod signed;
mod slack;
mod status;
mod stop;
mod store_long;
mod systemd;
mod tiers;
mod times;
mod tls;
mod webhook;
