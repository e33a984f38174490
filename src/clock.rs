//! What time it is, for the engine: a wall clock for what people read, a steady one for what is scheduled.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::message::Timestamp;

/// A source of time; cheap to clone.
#[derive(Clone)]
pub struct Clock {
    wall: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    steady: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Clock {
    /// The machine's clocks.
    ///
    /// The steady one starts at the wall's time and then runs with the monotonic clock, so that setting the
    /// machine's date while the daemon runs neither holds back what is due nor gives up what is young.
    #[must_use]
    pub fn system() -> Self {
        Self::since(Timestamp::default())
    }

    /// The machine's clocks, for a store that has seen `latest` already: the steady one does not begin before
    /// that. A machine that came up a day behind would otherwise let everything that waits wait a day longer.
    #[must_use]
    pub fn since(latest: Timestamp) -> Self {
        let (origin, started) = (wall_now().max(latest), tokio::time::Instant::now());
        Self {
            wall: Arc::new(wall_now),
            steady: Arc::new(move || origin.after(started.elapsed())),
        }
    }

    /// A clock that tells what it is told, for tests.
    pub fn of(time: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        let time = Arc::new(time);
        Self {
            wall: time.clone(),
            steady: time,
        }
    }

    /// Two clocks that tell what they are told and may disagree, for tests.
    pub fn apart(
        wall: impl Fn() -> Timestamp + Send + Sync + 'static,
        steady: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Self {
        Self {
            wall: Arc::new(wall),
            steady: Arc::new(steady),
        }
    }

    /// The date and time of day: for `received_at` and everything that is shown.
    #[must_use]
    pub fn wall(&self) -> Timestamp {
        (self.wall)()
    }

    /// A time that never jumps while the process runs: for due times and ages.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.steady)()
    }

    /// How long until `moment`, by the steady clock.
    #[must_use]
    pub fn until(&self, moment: Timestamp) -> Duration {
        moment.since(self.now())
    }
}

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
