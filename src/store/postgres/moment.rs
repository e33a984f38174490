//! Points in time on a clock that also runs while the machine is suspended. A daemon that wakes up must see that its
//! leases have ended; `std::time::Instant` stands still during a suspension.

use std::ops::Add;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A point in time since the machine was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(Duration);

impl Moment {
    pub(super) fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
        Self(Duration::new(seconds, nanos))
    }

    /// The time that has passed from this point to a later one; zero if that one is not later.
    pub(super) fn until(self, later: Self) -> Duration {
        later.0.saturating_sub(self.0)
    }

    /// The time that has passed since.
    pub(super) fn elapsed(self) -> Duration {
        self.until(Self::now())
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_time_since_the_start_of_the_machine_with_suspensions() {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let now = Moment::now();
        assert!((now.0.as_secs_f64() - uptime).abs() < 5.0, "{now:?} {uptime}");
    }

    #[test]
    fn a_duration_is_added_and_measured() {
        let (start, second) = (Moment(Duration::from_secs(7)), Duration::from_secs(1));
        assert_eq!(start.until(start + second), second);
        assert_eq!((start + second).until(start), Duration::ZERO);
        assert_eq!(start + Duration::MAX, Moment(Duration::MAX));
    }
}
