//! Real servers that are started for a test, and local fakes.

use std::process::Child;

#[path = "../common/certificate.rs"]
pub mod certificate;
pub mod postfix;
#[path = "../common/recorder.rs"]
pub mod recorder;
#[path = "../common/slack.rs"]
pub mod slack;
pub mod synapse;

/// A child process that is killed when it is dropped.
pub struct Owned(pub Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
