//! A lane's pace: how many texts `rate` lets go now. Pure; time comes in.
//!
//! Each text has a moment at which it should go, one interval after that of the text before, whenever that one
//! really went: what the machine is late by is made up for. Counting the interval from the sending would lose
//! every delay for good, and with timers of a millisecond a third of 300 texts a second.

use std::time::Duration;

use tokio::time::Instant;

/// How much is made up for at most. So in any second go at most a twentieth more texts than `rate` says, and
/// one; a second without a text, a pause or an outage saves up no more than that either.
const SLACK: Duration = Duration::from_millis(50);

/// Lets texts go at a steady rate.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    interval: Duration,
    /// When the next text should go, or should have gone.
    next: Instant,
}

impl Pace {
    /// So many texts a second, the first of them now.
    pub(super) fn new(rate: f64, now: Instant) -> Self {
        Self {
            interval: Duration::from_secs_f64(1.0 / rate),
            next: now,
        }
    }

    /// How many may go now.
    pub(super) fn allows(&self, now: Instant) -> usize {
        match now.checked_duration_since(self.next(now)) {
            Some(late) => usize::try_from(late.as_nanos() / self.interval.as_nanos().max(1))
                .unwrap_or(usize::MAX)
                .saturating_add(1),
            None => 0,
        }
    }

    /// So many of those that might go have gone.
    pub(super) fn took(&mut self, count: usize, now: Instant) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.next = self.next(now) + self.interval.saturating_mul(count);
    }

    /// How long none may go.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }

    /// What was not made use of is forgotten but for the slack.
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

    /// Lets go whatever may.
    fn all(pace: &mut Pace, now: Instant) -> usize {
        let count = pace.allows(now);
        pace.took(count, now);
        count
    }

    #[test]
    fn a_slow_rate_lets_one_go_at_a_time() {
        let start = Instant::now();
        let mut pace = Pace::new(1.0, start);
        assert_eq!((all(&mut pace, start), all(&mut pace, start)), (1, 0));
        assert_eq!(pace.wait(start), Duration::from_secs(1));
        assert_eq!(all(&mut pace, start + Duration::from_millis(999)), 0);
        assert_eq!(all(&mut pace, start + Duration::from_millis(1_040)), 1);
        let second = start + Duration::from_secs(2);
        assert_eq!(all(&mut pace, second), 1, "40 ms late, and made up for");
    }

    #[test]
    fn idle_time_saves_up_no_more_than_the_slack() {
        let start = Instant::now();
        for (rate, burst) in [
            (1.0 / 86_400.0, 1),
            (1.0, 1),
            (20.0, 2),
            (300.0, 16),
            (1000.0, 51),
        ] {
            let mut pace = Pace::new(rate, start);
            assert_eq!(all(&mut pace, start), 1, "{rate}/s begins with one");
            let later = start + HOUR * 24;
            assert_eq!(all(&mut pace, later), burst, "{rate}/s");
            assert_eq!(all(&mut pace, later), 0, "{rate}/s");
        }
    }

    #[test]
    fn what_did_not_go_stays_allowed() {
        let start = Instant::now();
        let mut pace = Pace::new(100.0, start);
        let later = start + HOUR;
        assert_eq!(pace.allows(later), 6);
        pace.took(2, later);
        assert_eq!(pace.allows(later), 4);
        pace.took(0, later);
        assert_eq!((pace.allows(later), pace.wait(later)), (4, Duration::ZERO));
    }

    proptest! {
        /// Whatever is asked for at whatever times, idle ones among them.
        #[test]
        fn no_second_has_more_texts_than_the_rate_and_its_slack(
            rate in 0.1..1000.0_f64,
            turns in prop::collection::vec((0..120_000_u64, 0..80_usize, 0..20_u8), 1..400),
        ) {
            let start = Instant::now();
            let (mut pace, mut now) = (Pace::new(rate, start), start);
            let mut went: Vec<Instant> = Vec::new();
            for (micros, wanted, idle) in turns {
                now += Duration::from_micros(micros) + if idle == 0 { HOUR } else { Duration::ZERO };
                let count = pace.allows(now).min(wanted);
                pace.took(count, now);
                went.extend(std::iter::repeat_n(now, count));
            }
            for (index, from) in went.iter().enumerate() {
                let second = went[index..].partition_point(|at| *at < *from + Duration::from_secs(1));
                prop_assert!(second as f64 <= rate * 1.05 + 1.0, "{second} in a second at {rate}/s");
            }
        }

        /// Each turn comes when it was asked for, and up to 20 ms later.
        #[test]
        fn a_full_backlog_drains_at_its_rate_on_a_machine_that_is_late(
            rate in 1.0..1000.0_f64,
            delays in prop::collection::vec(0..20_000_u64, 50..400),
        ) {
            let start = Instant::now();
            let (mut pace, mut now, mut count) = (Pace::new(rate, start), start, 0);
            for micros in delays {
                now += pace.wait(now) + Duration::from_micros(micros);
                count += all(&mut pace, now);
            }
            let due = now.duration_since(start).as_secs_f64() * rate;
            prop_assert!(count as f64 >= due * 0.97, "{count} of {due:.1} at {rate}/s");
        }
    }
}
