//! Time for the engine: a wall clock for times that people read, a steady clock for schedules.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::model::message::Timestamp;
use crate::model::time_interval::{self, TimeInterval};
use crate::timeline::{Doubt, Timeline};

/// How far the clock of a machine may be from that of a shared store.
const APART_MAX: Duration = Duration::from_secs(30);

/// A source of time; cheap to clone. Clones share the knowledge about the time across restarts.
#[derive(Clone)]
pub struct Clock {
    wall: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    steady: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// The steady time at which this process started.
    began: Timestamp,
    timeline: Arc<Mutex<Timeline>>,
}

impl Clock {
    /// The machine's clocks.
    ///
    /// The steady clock starts at the time of the wall clock and then follows the monotonic clock. So if the
    /// machine's date is set while the daemon runs, due deliveries are not delayed and recent ones are not given up.
    #[must_use]
    pub fn system() -> Self {
        let (origin, started) = (wall_now(), tokio::time::Instant::now());
        Self::apart(wall_now, move || origin.after(started.elapsed()))
    }

    /// A clock with a given time, for tests.
    pub fn of(time: impl Fn() -> Timestamp + Clone + Send + Sync + 'static) -> Self {
        Self::apart(time.clone(), time)
    }

    /// Two clocks with given times that may differ, for tests.
    pub fn apart(
        wall: impl Fn() -> Timestamp + Send + Sync + 'static,
        steady: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Self {
        let began = steady();
        let timeline = Timeline::new(wall(), began);
        Self {
            wall: Arc::new(wall),
            steady: Arc::new(steady),
            began,
            timeline: Arc::new(Mutex::new(timeline)),
        }
    }

    /// Continues from the state of the previous run. Returns true if that run ended later by its own clock: stored
    /// times may then be in the future.
    #[must_use]
    pub fn resume(&self, last: &Timeline) -> bool {
        let steady = self.now();
        *self.timeline() = last.resumed(self.wall(), steady);
        last.is_set_back(steady)
    }

    /// Records the times of both clocks, and returns the state for the next run.
    #[must_use]
    pub fn observe(&self) -> Timeline {
        let (wall, steady) = (self.wall(), self.now());
        let mut timeline = self.timeline();
        timeline.observe(wall, steady);
        timeline.clone()
    }

    /// The time of the machine's wall clock, right or wrong.
    #[must_use]
    pub fn wall(&self) -> Timestamp {
        (self.wall)()
    }

    /// The date and time for `received_at`: that of the wall clock, unless it is known to be far behind.
    #[must_use]
    pub fn date(&self) -> Timestamp {
        self.timeline().date(self.wall(), self.now())
    }

    /// The time for retention, redaction and deduplication: never ahead of the time that is known to have passed.
    #[must_use]
    pub fn retention(&self) -> Timestamp {
        self.timeline().retention(self.wall(), self.now())
    }

    /// What is wrong, if one of the two clocks is far from the clock that all daemons with the same store agree on.
    #[must_use]
    pub fn difference(&self, agreed: Timestamp) -> Option<String> {
        let apart = |time: Timestamp| {
            let (ahead, behind) = (time.since(agreed), agreed.since(time));
            let word = if ahead.is_zero() { "behind" } else { "ahead of" };
            let by = Duration::from_secs(ahead.max(behind).as_secs());
            (by > APART_MAX).then(|| (humantime::format_duration(by), word))
        };
        if let Some((by, word)) = apart(self.wall()) {
            return Some(format!(
                "the clock of this machine is {by} {word} that of the database: retries may be early or late, and dates \
                 wrong; synchronise the clocks of all machines (NTP), then restart smsbridge"
            ));
        }
        let (by, word) = apart(self.now())?;
        Some(format!(
            "when smsbridge was started, the clock of this machine was {by} {word} that of the database: retries may be \
             early or late; restart smsbridge"
        ))
    }

    /// A time that never jumps while the process runs, for due times and ages.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.steady)()
    }

    /// The end of the time intervals that contain the current date, by the steady clock; `None` if none of them does.
    #[must_use]
    pub fn hold_end(&self, intervals: &[TimeInterval]) -> Option<Timestamp> {
        if intervals.is_empty() {
            return None;
        }
        let date = self.date();
        let end = time_interval::end_of(intervals, date)?;
        Some(self.now().after(end.since(date)))
    }

    /// The start of the time that counts towards `give_up_after` for a delivery pending since `pending_since`:
    /// downtimes do not count.
    #[must_use]
    pub fn give_up_start(&self, pending_since: Timestamp) -> Timestamp {
        self.timeline().give_up_start(pending_since)
    }

    /// The values of `pending_since` for which [`Clock::give_up_start`] is in `starts`.
    #[must_use]
    pub fn pending_since(&self, starts: RangeInclusive<Timestamp>) -> RangeInclusive<Timestamp> {
        self.timeline().created_between(starts)
    }

    /// Converts a steady time to wall clock time for display, because the date may have been set since this process
    /// started. Times of earlier runs are returned unchanged.
    #[must_use]
    pub fn shown(&self, moment: Timestamp) -> Timestamp {
        if moment < self.began {
            moment
        } else {
            self.ago(moment)
        }
    }

    /// Like [`Clock::shown`], for a time that is not before `earliest` by the wall clock: the clocks may differ by less
    /// than a second without being converted.
    #[must_use]
    pub fn shown_after(&self, earliest: Timestamp, moment: Timestamp) -> Timestamp {
        let shown = self.shown(moment);
        let is_apart = earliest.0.saturating_sub(shown.0).unsigned_abs() >= SHOWN_APART;
        if is_apart { shown } else { shown.max(earliest) }
    }

    /// Converts a steady time to the wall clock time of the same age, also for times of earlier runs.
    #[must_use]
    pub fn ago(&self, moment: Timestamp) -> Timestamp {
        let ahead = self.wall().0.saturating_sub(self.now().0);
        if ahead.unsigned_abs() < SHOWN_APART {
            return moment;
        }
        Timestamp(moment.0.saturating_add(ahead))
    }

    /// Converts a wall clock time to the steady time at the same distance from now; the inverse of [`Clock::ago`].
    #[must_use]
    pub fn steady(&self, moment: Timestamp) -> Timestamp {
        let ahead = self.wall().0.saturating_sub(self.now().0);
        if ahead.unsigned_abs() < SHOWN_APART {
            return moment;
        }
        Timestamp(moment.0.saturating_sub(ahead))
    }

    /// Why the wall clock is not trusted, if so.
    #[must_use]
    pub fn doubt(&self) -> Option<Doubt> {
        self.timeline().doubt(self.wall(), self.now())
    }

    /// The duration until a steady time.
    #[must_use]
    pub fn until(&self, moment: Timestamp) -> Duration {
        moment.since(self.now())
    }

    /// Held briefly, and never across an await.
    fn timeline(&self) -> MutexGuard<'_, Timeline> {
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The minimum difference of the two clocks, in milliseconds, for which times are converted.
const SHOWN_APART: u64 = 1_000;

fn wall_now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Measures a duration.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts it.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The duration since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_far_from_that_of_the_database_is_a_problem_in_words() {
        let at = |wall: i64, steady: i64| {
            Clock::apart(move || Timestamp(wall * 1_000), move || Timestamp(steady * 1_000))
                .difference(Timestamp(1_000_000))
        };
        for near in [(1_000, 1_000), (1_030, 970), (970, 1_030)] {
            assert_eq!(at(near.0, near.1), None, "{near:?}");
        }
        for (wall, steady, words) in [
            (
                1_090,
                1_090,
                "the clock of this machine is 1m 30s ahead of that of the database: ",
            ),
            (
                700,
                1_000,
                "the clock of this machine is 5m behind that of the database: ",
            ),
            (
                1_000,
                700,
                "when smsbridge was started, the clock of this machine was 5m behind that of the database: ",
            ),
        ] {
            let difference = at(wall, steady).unwrap();
            assert!(difference.starts_with(words), "{difference}");
        }
    }
}
