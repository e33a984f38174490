//! What time it is, for the engine: a wall clock for what people read, a steady one for what is scheduled.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::message::Timestamp;
use crate::timeline::{Doubt, Timeline};

/// A source of time; cheap to clone. Clones share what is known of the time over restarts.
#[derive(Clone)]
pub struct Clock {
    wall: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    steady: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// The steady time at which this process began.
    began: Timestamp,
    timeline: Arc<Mutex<Timeline>>,
}

impl Clock {
    /// The machine's clocks.
    ///
    /// The steady one starts at the wall's time and then runs with the monotonic clock, so that setting the
    /// machine's date while the daemon runs neither holds back what is due nor gives up what is young.
    #[must_use]
    pub fn system() -> Self {
        let (origin, started) = (wall_now(), tokio::time::Instant::now());
        Self::apart(wall_now, move || origin.after(started.elapsed()))
    }

    /// A clock that tells what it is told, for tests.
    pub fn of(time: impl Fn() -> Timestamp + Clone + Send + Sync + 'static) -> Self {
        Self::apart(time.clone(), time)
    }

    /// Two clocks that tell what they are told and may disagree.
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

    /// Goes on from what an earlier run has left. Returns true if that run ended later by its own clock: what it left
    /// may then be due, or dated, in the future.
    #[must_use]
    pub fn resume(&self, last: &Timeline) -> bool {
        let steady = self.now();
        *self.timeline() = last.resumed(self.wall(), steady);
        last.is_set_back(steady)
    }

    /// Takes note of what both clocks say now, and returns what the next run has to know.
    #[must_use]
    pub fn observe(&self) -> Timeline {
        let (wall, steady) = (self.wall(), self.now());
        let mut timeline = self.timeline();
        timeline.observe(wall, steady);
        timeline.clone()
    }

    /// What the machine's wall clock says, right or wrong.
    #[must_use]
    pub fn wall(&self) -> Timestamp {
        (self.wall)()
    }

    /// The date and time of day for `received_at`: the wall clock's, unless that is known to be far behind.
    #[must_use]
    pub fn date(&self) -> Timestamp {
        self.timeline().date(self.wall(), self.now())
    }

    /// The time that retention, redaction and deduplication go by: never ahead of what is known to have passed.
    #[must_use]
    pub fn retention(&self) -> Timestamp {
        self.timeline().retention(self.wall(), self.now())
    }

    /// A time that never jumps while the process runs: for due times and ages.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.steady)()
    }

    /// From when on `give_up_after` counts for a delivery that has been pending since this time: downtimes do not count.
    #[must_use]
    pub fn patience_since(&self, pending_since: Timestamp) -> Timestamp {
        self.timeline().patience_since(pending_since)
    }

    /// A time of the steady clock in terms of the wall clock, for people: the date may have been set since this process
    /// began. Times of earlier runs stay as they are.
    #[must_use]
    pub fn shown(&self, moment: Timestamp) -> Timestamp {
        if moment < self.began {
            moment
        } else {
            self.ago(moment)
        }
    }

    /// The time that is as long ago by the wall clock as this one is by the steady clock, whenever it was.
    #[must_use]
    pub fn ago(&self, moment: Timestamp) -> Timestamp {
        let ahead = self.wall().0.saturating_sub(self.now().0);
        if ahead.unsigned_abs() < SHOWN_APART {
            return moment;
        }
        Timestamp(moment.0.saturating_add(ahead))
    }

    /// The time by the steady clock that is as far away as this one is by the wall clock: the opposite of [`Clock::ago`].
    #[must_use]
    pub fn steady(&self, moment: Timestamp) -> Timestamp {
        let ahead = self.wall().0.saturating_sub(self.now().0);
        if ahead.unsigned_abs() < SHOWN_APART {
            return moment;
        }
        Timestamp(moment.0.saturating_sub(ahead))
    }

    /// Why the wall clock is in doubt, if it is.
    #[must_use]
    pub fn doubt(&self) -> Option<Doubt> {
        self.timeline().doubt(self.wall(), self.now())
    }

    /// How long until `moment`, by the steady clock.
    #[must_use]
    pub fn until(&self, moment: Timestamp) -> Duration {
        moment.since(self.now())
    }

    /// Short, and never held across an await.
    fn timeline(&self) -> MutexGuard<'_, Timeline> {
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Milliseconds that the two clocks are apart before times are shown otherwise than they are kept.
const SHOWN_APART: u64 = 1_000;

fn wall_now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Measures how long something took.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts it.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// What it shows.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
