//! The engine: accepts messages, delivers them through one lane per destination, and runs maintenance.

mod attempt;
mod batch;
pub mod catch_up;
pub mod checks;
pub mod circuit_breaker;
pub mod clock;
pub mod events;
pub mod following;
mod gathering;
mod hand_over;
mod in_flight;
pub mod intake;
pub mod joining;
mod lane;
mod lane_state;
pub mod lanes;
pub mod node_check;
mod outcome;
mod rate_limiter;
mod repeat;
pub mod retention;
mod trial;
pub mod url_check;
pub mod webhook_check;
