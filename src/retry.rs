//! The retry decision: when to try again, and when to give up. Pure; the caller passes times and randomness.

use std::time::{Duration, SystemTime};

use crate::model::message::Timestamp;

/// Upper bound of a pause that a destination can ask for.
pub const PAUSE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The retry settings of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Maximum delay before the second attempt.
    pub initial: Duration,
    /// Maximum delay before any attempt.
    pub max: Duration,
    /// Age at which a delivery is given up.
    pub give_up_after: Duration,
}

/// The decision after a transient failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Try again at this time.
    At(Timestamp),
    /// Give up: the delivery is too old.
    GiveUp,
}

impl Policy {
    /// The delay after the `failures`th consecutive failure: exponential with full jitter, so that deliveries
    /// that failed together are not retried together. `jitter` is from 0 to 1.
    ///
    /// The delay is at least a tenth of the ceiling: with a jitter near zero there would be no backoff at
    /// all.
    #[must_use]
    pub fn wait(&self, failures: u32, jitter: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(32);
        let ceiling = self
            .initial
            .saturating_mul(1u32.checked_shl(doublings).unwrap_or(u32::MAX))
            .min(self.max);
        ceiling.mul_f64(0.1 + 0.9 * jitter.clamp(0.0, 1.0))
    }

    /// Decides after the `failures`th failure of a delivery that is pending since `pending_since`.
    ///
    /// A pause that the destination asked for is honoured even beyond `max`, but not beyond `give_up_after`:
    /// the last attempt is made just before it.
    #[must_use]
    pub fn next(
        &self,
        failures: u32,
        pending_since: Timestamp,
        now: Timestamp,
        asked: Option<Duration>,
        jitter: f64,
    ) -> Next {
        let end = pending_since.after(self.give_up_after);
        if now >= end {
            return Next::GiveUp;
        }
        let wait = self.wait(failures, jitter).max(asked.unwrap_or_default());
        Next::At(now.after(wait).min(end))
    }
}

/// The pause that a [`Retry-After`][1] header asks for: seconds, or an HTTP date in any of its three forms.
/// `None` if the value is neither, or asks for no pause: zero, or a date in the past.
///
/// [1]: https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3
#[must_use]
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit mean the longest pause.
        return pause(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    pause(httpdate::parse_http_date(value).ok()?.duration_since(now).ok()?)
}

/// A pause requested in another form: at most [`PAUSE_MAX`], `None` if it is zero.
#[must_use]
pub fn pause(asked: Duration) -> Option<Duration> {
    (!asked.is_zero()).then(|| asked.min(PAUSE_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (value, seconds) in [
            ("30", Some(30)),
            (" 30 ", Some(30)),
            ("0", None),
            ("999999999", Some(86_400)),
            ("99999999999999999999999", Some(86_400)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", Some(60)),
            ("Sun Nov  6 08:50:37 1994", Some(60)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(86_400)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:00:00 GMT", None),
            ("soon", None),
            ("-5", None),
            ("+5", None),
            ("1.5", None),
            ("", None),
        ] {
            assert_eq!(
                retry_after(value, now),
                seconds.map(Duration::from_secs),
                "{value}"
            );
        }
    }

    const POLICY: Policy = Policy {
        initial: Duration::from_secs(5),
        max: Duration::from_secs(3600),
        give_up_after: Duration::from_secs(3 * 86400),
    };

    #[test]
    fn delays_double_up_to_the_maximum() {
        for (failures, seconds) in [
            (1, 5),
            (2, 10),
            (3, 20),
            (10, 2560),
            (11, 3600),
            (40, 3600),
            (u32::MAX, 3600),
        ] {
            assert_eq!(
                POLICY.wait(failures, 1.0),
                Duration::from_secs(seconds),
                "{failures}"
            );
        }
    }

    #[test]
    fn jitter_spreads_a_delay_from_a_tenth_to_all_of_it() {
        assert_eq!(POLICY.wait(3, 0.0), Duration::from_secs(2));
        assert_eq!(POLICY.wait(3, 0.5), Duration::from_secs(11));
        assert_eq!(POLICY.wait(3, 7.0), Duration::from_secs(20));
    }

    #[test]
    fn a_requested_pause_is_honoured() {
        let asked = Some(Duration::from_secs(7200));
        let next = POLICY.next(1, Timestamp(0), Timestamp(1000), asked, 1.0);
        assert_eq!(next, Next::At(Timestamp(7_201_000)));
        let shorter = POLICY.next(1, Timestamp(0), Timestamp(0), Some(Duration::from_secs(1)), 1.0);
        assert_eq!(
            shorter,
            Next::At(Timestamp(5000)),
            "asking for less than the backoff does not shorten it"
        );
    }

    #[test]
    fn the_last_attempt_is_made_at_the_end_and_none_after_it() {
        let end = 3 * 86_400_000;
        assert_eq!(
            POLICY.next(20, Timestamp(0), Timestamp(end - 1000), None, 1.0),
            Next::At(Timestamp(end))
        );
        assert_eq!(
            POLICY.next(21, Timestamp(0), Timestamp(end), None, 1.0),
            Next::GiveUp
        );
    }
}
