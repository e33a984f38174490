//! The accepted difference of a signed time from the current time. It limits how long a recorded request can be
//! replayed.

use std::time::Duration;

use crate::model::message::Timestamp;
use crate::source::Refusal;

/// Window for carriers that retry for a day, perhaps without signing again. It must be shorter than the dedup window, so
/// that a recorded request is either a duplicate or too old.
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
    /// Checks a time in seconds since the Unix epoch, after the signature over it was verified.
    ///
    /// # Errors
    /// 403 if it is not a time, and 503 if it is outside of the window.
    pub fn check_seconds(self, seconds: &str, now: Timestamp) -> Result<(), Refusal> {
        let seconds: Option<i64> = seconds.parse().ok();
        let signed = seconds.and_then(|seconds| seconds.checked_mul(1000));
        self.check(signed.map(Timestamp).ok_or_else(Refusal::forbidden)?, now)
    }

    /// Checks a time, after the signature over it was verified.
    ///
    /// # Errors
    /// 503 if it is outside of the window.
    pub fn check(self, signed: Timestamp, now: Timestamp) -> Result<(), Refusal> {
        if self.contains(signed, now) {
            Ok(())
        } else {
            Err(wrong_time("signed", signed, now))
        }
    }

    fn contains(self, signed: Timestamp, now: Timestamp) -> bool {
        signed.since(now).max(now.since(signed)) <= self.0
    }
}

/// The refusal of a request whose signature is valid, but whose time is not: the clock of this machine may be wrong. It is
/// not a 403, because carriers never repeat what is answered with 403, and the message would be lost.
#[must_use]
pub fn wrong_time(event: &str, at: Timestamp, now: Timestamp) -> Refusal {
    let (age, direction) = if at.0 <= now.0 {
        (now.since(at), "ago")
    } else {
        (at.since(now), "in the future")
    };
    let age = humantime::format_duration(Duration::from_secs(age.as_secs()));
    Refusal::retry(
        "clock",
        format!("{event} {age} {direction}: check the clock of this machine"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_five_minutes_in_both_directions() {
        let now = Timestamp(1_767_268_800_000);
        for (seconds, status) in [
            ("1767268800", None),
            ("1767268500", None),
            ("1767269100", None),
            ("1767268499", Some(503)),
            ("1767269101", Some(503)),
            ("-1", Some(503)),
            ("", Some(403)),
            ("x", Some(403)),
            ("9223372036854775807", Some(403)),
        ] {
            let refusal = Window::default().check_seconds(seconds, now).err();
            assert_eq!(
                refusal.map(|refusal| refusal.status.as_u16()),
                status,
                "{seconds}"
            );
        }
    }

    #[test]
    fn a_wrong_time_names_the_clock() {
        let (now, day) = (Timestamp(1_767_268_800_000), 86_400_000);
        let past = wrong_time("signed", Timestamp(now.0 - 3 * day), now);
        assert_eq!(past.error, "signed 3days ago: check the clock of this machine");
        let future = wrong_time("signed", Timestamp(now.0 + 90_000), now);
        assert_eq!(
            future.error,
            "signed 1m 30s in the future: check the clock of this machine"
        );
        assert!(past.is_retry() && future.is_retry());
    }
}
