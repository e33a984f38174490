//! The messages of the last hour by minute, in memory of a fixed size.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::model::message::Timestamp;

/// The number of minutes kept, including the current one.
pub const MINUTES: usize = 60;

/// The length of a minute, in milliseconds.
const MINUTE: i64 = 60_000;

/// One minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Minute {
    /// Messages accepted.
    pub accepted: u64,
    /// Messages whose last pending delivery ended and that were delivered to all destinations.
    pub delivered: u64,
    /// Messages whose last pending delivery ended and that have a dead delivery.
    pub dead: u64,
    /// The highest number of pending deliveries; `None` if nothing was observed.
    pub pending: Option<u64>,
}

/// The counts of the store at one time. The first three only grow while it is open.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Messages accepted.
    pub accepted: u64,
    /// Messages delivered.
    pub delivered: u64,
    /// Messages that ended with a dead delivery.
    pub dead: u64,
    /// Deliveries pending.
    pub pending: u64,
}

/// The minutes as saved for the next run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The number of the latest minute.
    latest: i64,
    /// The minutes, oldest first.
    minutes: VecDeque<Minute>,
}

/// The minutes of the last hour.
#[derive(Default)]
pub struct Series(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    kept: Saved,
    before: Option<Totals>,
}

impl Series {
    /// Continues from the minutes of the previous run.
    pub fn resume(&self, saved: Saved) {
        self.inner().kept = saved;
    }

    /// Records the totals at `now`. Adds the difference from the previous totals to the current minute.
    pub fn observe(&self, now: Timestamp, totals: Totals) {
        let mut inner = self.inner();
        let before = inner.before.replace(totals).unwrap_or(totals);
        inner.kept.advance(now.0.div_euclid(MINUTE));
        if let Some(minute) = inner.kept.minutes.back_mut() {
            minute.accepted += totals.accepted.saturating_sub(before.accepted);
            minute.delivered += totals.delivered.saturating_sub(before.delivered);
            minute.dead += totals.dead.saturating_sub(before.dead);
            minute.pending = minute.pending.max(Some(totals.pending));
        }
    }

    /// The minutes to save for the next run.
    #[must_use]
    pub fn saved(&self) -> Saved {
        self.inner().kept.clone()
    }

    /// The minutes as last observed, oldest first, each with its start time.
    #[must_use]
    pub fn read(&self) -> Vec<(Timestamp, Minute)> {
        let Saved { latest, minutes } = self.saved();
        let number = |back: usize| latest - i64::try_from(back).unwrap_or_default();
        let numbered = minutes.into_iter().rev().enumerate();
        let mut all: Vec<_> = numbered
            .map(|(back, minute)| (Timestamp(number(back) * MINUTE), minute))
            .collect();
        all.reverse();
        all
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Saved {
    /// Makes `number` the latest minute. Starts over if the clock was set back or nothing was observed for an hour.
    fn advance(&mut self, number: i64) {
        let length = i64::try_from(MINUTES).unwrap_or(i64::MAX);
        let passed = number.saturating_sub(self.latest);
        if self.minutes.len() != MINUTES || !(-1..length).contains(&passed) {
            self.minutes = std::iter::repeat_n(Minute::default(), MINUTES).collect();
            self.latest = number;
        }
        while self.latest < number {
            self.minutes.pop_front();
            self.minutes.push_back(Minute::default());
            self.latest += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(accepted: u64, delivered: u64, dead: u64, pending: u64) -> Totals {
        Totals {
            accepted,
            delivered,
            dead,
            pending,
        }
    }

    fn at(minute: i64) -> Timestamp {
        Timestamp((29_000_000 + minute) * MINUTE + 7_000)
    }

    fn last(series: &Series, back: usize) -> Minute {
        series.read()[MINUTES - 1 - back].1
    }

    #[test]
    fn counts_belong_to_their_minute_and_pending_keeps_its_peak() {
        let series = Series::default();
        series.observe(at(0), totals(100, 90, 5, 5));
        series.observe(at(0), totals(130, 90, 5, 35));
        series.observe(at(0), totals(130, 119, 6, 5));
        let burst = Minute {
            accepted: 30,
            delivered: 29,
            dead: 1,
            pending: Some(35),
        };
        assert_eq!(last(&series, 0), burst);
        series.observe(at(2), totals(131, 119, 6, 6));
        assert_eq!((last(&series, 2), last(&series, 1)), (burst, Minute::default()));
        assert_eq!(
            (last(&series, 0).accepted, last(&series, 0).pending),
            (1, Some(6))
        );
        let read = series.read();
        assert_eq!(
            (read.len(), read[MINUTES - 1].0),
            (MINUTES, Timestamp(29_000_002 * MINUTE))
        );
        series.observe(at(62), totals(131, 119, 6, 6));
        assert!(series.read().iter().all(|(_, minute)| minute.accepted == 0));
    }

    #[test]
    fn a_restart_continues_from_the_previous_run() {
        let series = Series::default();
        series.observe(at(0), totals(0, 0, 0, 0));
        series.observe(at(0), totals(7, 7, 0, 1));
        let next = Series::default();
        next.resume(series.saved());
        // The first totals of a run are only its baseline.
        next.observe(at(3), totals(7, 0, 0, 0));
        assert_eq!((last(&next, 3).accepted, last(&next, 1).pending), (7, None));
        assert_eq!(last(&next, 0).accepted, 0);
        next.observe(at(-9), totals(8, 0, 0, 0));
        assert_eq!(last(&next, 0).accepted, 1, "the clock was set back");
    }
}
