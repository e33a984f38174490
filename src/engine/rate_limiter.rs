//! Rate limiter of one lane: decides how many messages `rate` allows now. Pure; the caller passes the time.
//!
//! Each message has a scheduled time, one interval after that of the previous message, whenever that one was actually
//! sent, so delays of the machine are made up for. Scheduling from the actual time would accumulate every delay: with
//! timers of one millisecond, a third of 300 messages per second.

use std::time::Duration;

use tokio::time::Instant;

/// The maximum delay that is made up for. So in any second, at most `rate` × 1.05 + 1 messages are sent; an idle
/// second, a pause or an outage does not accumulate more either.
const SLACK: Duration = Duration::from_millis(50);

/// Allows messages at a steady rate.
#[derive(Clone, Debug)]
pub(super) struct RateLimiter {
    interval: Duration,
    /// The scheduled time of the next message.
    next: Instant,
}

impl RateLimiter {
    /// A limiter for `rate` messages per second, the first of them now.
    pub(super) fn new(rate: f64, now: Instant) -> Self {
        Self {
            interval: Duration::from_secs_f64(1.0 / rate),
            next: now,
        }
    }

    /// The number of messages allowed now.
    pub(super) fn permits(&self, now: Instant) -> usize {
        match now.checked_duration_since(self.next(now)) {
            Some(late) => usize::try_from(late.as_nanos() / self.interval.as_nanos().max(1))
                .unwrap_or(usize::MAX)
                .saturating_add(1),
            None => 0,
        }
    }

    /// Records that `count` messages were sent.
    pub(super) fn took(&mut self, count: usize, now: Instant) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.next = self.next(now) + self.interval.saturating_mul(count);
    }

    /// How long until the next message is allowed.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }

    /// The next scheduled time, which lags at most by the slack.
    fn next(&self, now: Instant) -> Instant {
        now.checked_sub(SLACK)
            .map_or(self.next, |earliest| self.next.max(earliest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Sends as many as allowed.
    fn all(limiter: &mut RateLimiter, now: Instant) -> usize {
        let count = limiter.permits(now);
        limiter.took(count, now);
        count
    }

    #[test]
    fn a_slow_rate_allows_one_message_at_a_time() {
        let start = Instant::now();
        let mut limiter = RateLimiter::new(1.0, start);
        assert_eq!((all(&mut limiter, start), all(&mut limiter, start)), (1, 0));
        assert_eq!(limiter.wait(start), Duration::from_secs(1));
        assert_eq!(all(&mut limiter, start + Duration::from_millis(999)), 0);
        assert_eq!(all(&mut limiter, start + Duration::from_millis(1_040)), 1);
        let second = start + Duration::from_secs(2);
        assert_eq!(all(&mut limiter, second), 1, "a delay of 40 ms is made up for");
    }

    #[test]
    fn idle_time_accumulates_no_more_than_the_slack() {
        let start = Instant::now();
        for (rate, burst) in [
            (1.0 / 86_400.0, 1),
            (1.0, 1),
            (20.0, 2),
            (300.0, 16),
            (1000.0, 51),
        ] {
            let mut limiter = RateLimiter::new(rate, start);
            assert_eq!(all(&mut limiter, start), 1, "{rate}/s begins with one");
            let later = start + HOUR * 24;
            assert_eq!(all(&mut limiter, later), burst, "{rate}/s");
            assert_eq!(all(&mut limiter, later), 0, "{rate}/s");
        }
    }

    #[test]
    fn unused_permits_stay_available() {
        let start = Instant::now();
        let mut limiter = RateLimiter::new(100.0, start);
        let later = start + HOUR;
        assert_eq!(limiter.permits(later), 6);
        limiter.took(2, later);
        assert_eq!(limiter.permits(later), 4);
        limiter.took(0, later);
        assert_eq!((limiter.permits(later), limiter.wait(later)), (4, Duration::ZERO));
    }

    proptest! {
        /// Any demand at any times, including idle ones.
        #[test]
        fn no_second_has_more_messages_than_the_rate_and_its_slack(
            rate in 0.1..1000.0_f64,
            turns in prop::collection::vec((0..120_000_u64, 0..80_usize, 0..20_u8), 1..400),
        ) {
            let start = Instant::now();
            let (mut limiter, mut now) = (RateLimiter::new(rate, start), start);
            let mut went: Vec<Instant> = Vec::new();
            for (micros, wanted, idle) in turns {
                now += Duration::from_micros(micros) + if idle == 0 { HOUR } else { Duration::ZERO };
                let count = limiter.permits(now).min(wanted);
                limiter.took(count, now);
                went.extend(std::iter::repeat_n(now, count));
            }
            for (index, from) in went.iter().enumerate() {
                let second = went[index..].partition_point(|at| *at < *from + Duration::from_secs(1));
                prop_assert!(second as f64 <= rate * 1.05 + 1.0, "{second} in a second at {rate}/s");
            }
        }

        /// Each turn comes at its scheduled time or up to 20 ms later.
        #[test]
        fn a_backlog_drains_at_its_rate_on_a_slow_machine(
            rate in 1.0..1000.0_f64,
            delays in prop::collection::vec(0..20_000_u64, 50..400),
        ) {
            let start = Instant::now();
            let (mut limiter, mut now, mut count) = (RateLimiter::new(rate, start), start, 0);
            for micros in delays {
                now += limiter.wait(now) + Duration::from_micros(micros);
                count += all(&mut limiter, now);
            }
            let due = now.duration_since(start).as_secs_f64() * rate;
            prop_assert!(count as f64 >= due * 0.97, "{count} of {due:.1} at {rate}/s");
        }
    }
}
