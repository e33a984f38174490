//! How far a signed time may be from now, so that a recorded request is not good for ever.

use std::time::Duration;

use crate::message::Timestamp;

/// The tolerance, to both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window(pub Duration);

impl Default for Window {
    /// Five minutes, as most carriers advise.
    fn default() -> Self {
        Self(Duration::from_secs(300))
    }
}

impl Window {
    /// Whether this time, in seconds since the Unix epoch, is near enough.
    #[must_use]
    pub fn holds(self, seconds: &str, now: Timestamp) -> bool {
        let Ok(seconds) = seconds.parse::<i64>() else {
            return false;
        };
        let Some(signed) = seconds.checked_mul(1000).map(Timestamp) else {
            return false;
        };
        signed.since(now).max(now.since(signed)) <= self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_near_for_five_minutes_before_and_after() {
        let now = Timestamp(1_767_268_800_000);
        for (seconds, near) in [
            ("1767268800", true),
            ("1767268500", true),
            ("1767269100", true),
            ("1767268499", false),
            ("1767269101", false),
            ("", false),
            ("x", false),
            ("9223372036854775807", false),
            ("-1", false),
        ] {
            assert_eq!(Window::default().holds(seconds, now), near, "{seconds}");
        }
    }
}
