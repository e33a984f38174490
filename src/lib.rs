//! smsbridge receives text messages as carrier webhooks, keeps them on disk, and delivers them to
//! e-mail, Slack, Matrix or any HTTP API.
//!
//! The modules are layered in rings; `ARCHITECTURE.md` draws them and `tests/it/architecture.rs` holds
//! them. A text travels straight down and once: `web` → `source` → `intake` → `store` → 200 → `dispatch` →
//! `destination` → `retry` → `store`.

pub mod delivery;
pub mod mask;
pub mod message;
pub mod metrics;
pub mod network;
pub mod number;
pub mod sabotage;
pub mod secret;
pub mod template;
pub mod unseen;

pub mod retry;
pub mod route;
pub mod timeline;

pub mod destination;
pub mod file;
pub mod resolver;
pub mod source;
pub mod store;

pub mod config;
pub mod plan;

pub mod clock;
pub mod control;
pub mod dispatch;
pub mod drift;
pub mod events;
pub mod intake;

pub mod cli;
pub mod daemon;
pub mod web;
