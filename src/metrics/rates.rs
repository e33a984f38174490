//! Current throughput for the status and the page. Prometheus computes its own rates.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::model::message::Timestamp;

/// The history: fifteen minutes, by second.
const SECONDS: usize = 15 * 60;

/// The meters.
#[derive(Default)]
pub struct Rates {
    /// Messages stored.
    pub accepted: Meter,
    /// Successful deliveries.
    pub delivered: Meter,
}

/// Counts events and reports their rate, in memory of a fixed size.
#[derive(Default)]
pub struct Meter(Mutex<Ring>);

/// Events per minute over three spans: the shortest shows changes, the longest the usual rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PerMinute {
    /// Over the last minute.
    pub last_1m: f64,
    /// Over the last five minutes.
    pub last_5m: f64,
    /// Over the last fifteen minutes.
    pub last_15m: f64,
}

struct Ring {
    counts: [u32; SECONDS],
    /// The latest second counted.
    latest: i64,
}

impl Default for Ring {
    fn default() -> Self {
        Self {
            counts: [0; SECONDS],
            latest: i64::MIN,
        }
    }
}

impl Meter {
    /// Counts one event at `now`.
    pub fn count(&self, now: Timestamp) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.advance(second(now));
        // Threads may arrive in another order than they read the clock.
        let latest = ring.latest;
        if let Some(count) = ring.counts.get_mut(slot(latest)) {
            *count = count.saturating_add(1);
        }
    }

    /// The rates up to `now`.
    #[must_use]
    pub fn per_minute(&self, now: Timestamp) -> PerMinute {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.advance(second(now));
        PerMinute {
            last_1m: ring.sum(60),
            last_5m: ring.sum(5 * 60) / 5.0,
            last_15m: ring.sum(15 * 60) / 15.0,
        }
    }
}

impl Ring {
    /// Clears the slots of the seconds that have passed.
    fn advance(&mut self, now: i64) {
        let passed = usize::try_from(now.saturating_sub(self.latest)).unwrap_or(0);
        for back in 0..passed.min(SECONDS) {
            let at = slot(now - i64::try_from(back).unwrap_or(0));
            if let Some(count) = self.counts.get_mut(at) {
                *count = 0;
            }
        }
        self.latest = self.latest.max(now);
    }

    fn sum(&self, seconds: i64) -> f64 {
        let newest = (0..seconds).filter_map(|back| self.counts.get(slot(self.latest - back)));
        newest.copied().map(f64::from).sum()
    }
}

fn second(moment: Timestamp) -> i64 {
    moment.0.div_euclid(1000)
}

fn slot(second: i64) -> usize {
    usize::try_from(second.rem_euclid(SECONDS as i64)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp(1_700_000_000_000 + seconds * 1000)
    }

    fn rates(meter: &Meter, seconds: i64) -> [f64; 3] {
        let PerMinute {
            last_1m,
            last_5m,
            last_15m,
        } = meter.per_minute(at(seconds));
        [last_1m, last_5m, last_15m]
    }

    #[test]
    fn a_burst_shows_in_each_span_until_it_is_over() {
        let meter = Meter::default();
        assert_eq!(rates(&meter, 0), [0.0; 3]);
        (0..30).for_each(|_| meter.count(at(1)));
        assert_eq!(rates(&meter, 1), [30.0, 6.0, 2.0]);
        assert_eq!(rates(&meter, 60), [30.0, 6.0, 2.0]);
        assert_eq!(rates(&meter, 61), [0.0, 6.0, 2.0]);
        assert_eq!(rates(&meter, 301), [0.0, 0.0, 2.0]);
        assert_eq!(rates(&meter, 900), [0.0, 0.0, 2.0]);
        assert_eq!(rates(&meter, 901), [0.0; 3]);
    }

    #[test]
    fn a_steady_rate_is_the_same_over_every_span() {
        let meter = Meter::default();
        (0..5_000).for_each(|second| meter.count(at(second)));
        assert_eq!(rates(&meter, 4_999), [60.0; 3]);
        assert_eq!(rates(&meter, 4_999 + 30), [30.0, 54.0, 58.0]);
    }

    #[test]
    fn a_long_idle_time_clears_all_counts_and_a_late_count_is_not_lost() {
        let meter = Meter::default();
        meter.count(at(10));
        assert_eq!(rates(&meter, 1_000_000), [0.0; 3]);
        meter.count(at(999_999));
        assert_eq!(rates(&meter, 1_000_000)[0], 1.0);
    }
}
