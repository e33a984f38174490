//! The domain types. Nothing here does I/O, reads the clock or spawns.

pub mod content;
pub mod delivery;
pub mod der;
pub mod destination_state;
pub mod lint;
pub mod message;
pub mod network;
pub mod notices;
pub mod number;
pub mod registry;
pub mod secret;
pub mod setting;
pub mod time_interval;
pub mod units;
pub mod unseen;
pub mod zone;
