//! smsbridge receives text messages as carrier webhooks, keeps them on disk, and delivers them to
//! e-mail, Slack, Matrix or any HTTP API.
//!
//! The modules are layered in rings; `ARCHITECTURE.md` draws them and `tests/it/architecture.rs` holds
//! them. A message travels straight down and once: `web` → `source` → `engine` → `store` → 200 → `engine` →
//! `destination` → `retry` → `store`.

pub mod mask;
pub mod metrics;
pub mod model;
pub mod template;

pub mod retry;
pub mod routing;
pub mod timeline;

pub mod destination;
pub mod file;
pub mod http_client;
pub mod resolver;
pub mod source;
pub mod store;

pub mod config;
pub mod plan;

pub mod control;
pub mod engine;

pub mod cli;
pub mod daemon;
pub mod web;
