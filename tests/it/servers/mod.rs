//! The outside world in small: real servers started for a test, and local ones that play the rest.

pub mod fake_intelepeer;
pub mod fake_slack;
pub mod fake_smtp;
pub mod postfix;
pub mod recorder;
pub mod synapse;
