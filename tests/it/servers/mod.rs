//! The outside world in small: real servers started for a test, and local ones that play the rest.

use std::process::Child;

pub mod certificate;
pub mod fake_intelepeer;
pub mod fake_slack;
pub mod fake_smtp;
pub mod postfix;
pub mod recorder;
pub mod synapse;

/// A server in the foreground that ends with its test, however that ends.
pub struct Owned(pub Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
