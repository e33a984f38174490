//! The accepted difference of a signed time from the current time. It limits how long a recorded request can be
//! replayed.

use std::time::Duration;

use crate::model::message::Timestamp;

/// For carriers that repeat a request for a day and may not sign it again: longer than that, and shorter than the
/// default of `store.dedup_window`, so that a recorded request is either a duplicate or too old.
pub const REPEATED: Duration = Duration::from_secs(2 * 86400);

/// The accepted difference in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window(pub Duration);

impl Default for Window {
    /// Five minutes, as most carriers recommend.
    fn default() -> Self {
        Self(Duration::from_secs(300))
    }
}

impl Window {
    /// Returns true if this time, in seconds since the Unix epoch, is within the window.
    #[must_use]
    pub fn holds(self, seconds: &str, now: Timestamp) -> bool {
        let Ok(seconds) = seconds.parse::<i64>() else {
            return false;
        };
        let Some(signed) = seconds.checked_mul(1000).map(Timestamp) else {
            return false;
        };
        self.contains(signed, now)
    }

    /// Returns true if this time is within the window.
    #[must_use]
    pub fn contains(self, signed: Timestamp, now: Timestamp) -> bool {
        signed.since(now).max(now.since(signed)) <= self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_five_minutes_in_both_directions() {
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
