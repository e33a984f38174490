//! Local servers that take the place of carriers and destinations.

#[path = "../common/certificate.rs"]
pub mod certificate;
pub mod fake_intelepeer;
pub mod fake_slack;
pub mod fake_smtp;
pub mod played;
#[path = "../common/recorder.rs"]
pub mod recorder;
#[path = "../common/slack.rs"]
pub mod slack;
