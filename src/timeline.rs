//! The known time over restarts: how far the wall clock is trusted, and for what.
//!
//! The wall clock of a machine may be wrong: a flat battery, a paused virtual machine, a mistyped date. While
//! the daemon runs, its monotonic clock measures how much time passes. Between two runs only the wall clock
//! can say, and it is trusted for up to an hour. A larger gap is either a long downtime or a wrong clock,
//! which cannot be distinguished here. So:
//!
//! * A downtime of more than an hour does not count towards `give_up_after`.
//! * Retention, redaction and deduplication use the known time while the wall clock is more than a day ahead
//!   of it, until the wall clock is corrected, or the daemon has run for a day in total without a correction.
//! * While the wall clock is more than a day behind, messages are dated by the known time.
//!
//! Pure: the caller passes the two clocks.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::message::Timestamp;

/// The longest downtime that is trusted.
pub const DOWNTIME_MAX: Duration = Duration::from_secs(3_600);

/// How far the wall clock may be from the known time before it is distrusted, and for how long it is then
/// distrusted.
pub const DOUBT: Duration = Duration::from_secs(86_400);

/// Maximum number of separate gaps; older ones are merged.
const GAPS_MAX: usize = 16;

/// The last readings of the two clocks, and the known time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// The wall clock.
    wall: Timestamp,
    /// The monotonic clock.
    steady: Timestamp,
    /// The known time: the wall clock, unless it is distrusted.
    known: Timestamp,
    /// How long the daemon has run while the wall clock was distrusted; `None` while it is trusted.
    doubted: Option<Duration>,
    /// The downtimes that do not count towards `give_up_after`, oldest first.
    gaps: Vec<Gap>,
}

/// A downtime that does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Gap {
    /// The monotonic clock after the gap.
    end: Timestamp,
    length: Duration,
}

/// Why the wall clock is distrusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// The known time.
    pub known: Timestamp,
    /// How far the wall clock is from it.
    pub by: Duration,
    /// Whether the clock is ahead.
    pub ahead: bool,
    /// How much longer the daemon must run until the wall clock is trusted as it is.
    pub left: Duration,
}

impl Timeline {
    /// The timeline of a new store: both clocks are trusted.
    #[must_use]
    pub fn new(wall: Timestamp, steady: Timestamp) -> Self {
        Self {
            wall,
            steady,
            known: wall,
            doubted: None,
            gaps: Vec::new(),
        }
    }

    /// The timeline of a run that starts now, after the run that this timeline describes.
    #[must_use]
    pub fn resumed(&self, wall: Timestamp, steady: Timestamp) -> Self {
        let downtime = Some(wall.since(self.wall)).filter(|downtime| *downtime <= DOWNTIME_MAX);
        let downtime = downtime.unwrap_or_default();
        let mut resumed = self.clone();
        resumed.follow(wall, downtime);
        resumed.steady = steady;
        // A gap that is ahead of the clock again was not a gap.
        resumed.gaps.retain(|gap| gap.end <= steady);
        let length = steady.since(self.steady.after(downtime));
        if !length.is_zero() {
            resumed.gaps.push(Gap { end: steady, length });
        }
        if resumed.gaps.len() > GAPS_MAX {
            let oldest = resumed.gaps.remove(0);
            if let Some(next) = resumed.gaps.first_mut() {
                next.length += oldest.length;
            }
        }
        resumed
    }

    /// Returns true if a run that starts at this monotonic time finds deliveries that are due too late,
    /// because it starts before the end of the last run.
    #[must_use]
    pub fn is_set_back(&self, steady: Timestamp) -> bool {
        steady < self.steady
    }

    /// Records the current readings of the clocks. Call it about every minute.
    pub fn observe(&mut self, wall: Timestamp, steady: Timestamp) {
        self.follow(wall, steady.since(self.steady));
        self.steady = steady.max(self.steady);
    }

    /// Records that this much time has certainly passed.
    fn follow(&mut self, wall: Timestamp, passed: Duration) {
        let jumped = apart(wall, self.wall.after(passed)) > DOUBT;
        let known = self.known.after(passed);
        let before = self.doubted.filter(|_| !jumped);
        let doubted = before.map_or(Duration::ZERO, |doubted| doubted + passed);
        let is_doubted = apart(wall, known) > DOUBT && doubted < DOUBT;
        self.wall = wall;
        self.known = if is_doubted { known } else { wall };
        self.doubted = is_doubted.then_some(doubted);
    }

    /// The time for retention, redaction and deduplication: at most the wall clock, and at most the known
    /// time.
    #[must_use]
    pub fn retention(&self, wall: Timestamp, steady: Timestamp) -> Timestamp {
        wall.min(self.known(steady))
    }

    /// The date of an event that happens now: the wall clock's, unless that is far behind the known time.
    #[must_use]
    pub fn date(&self, wall: Timestamp, steady: Timestamp) -> Timestamp {
        match self.doubt(wall, steady) {
            Some(doubt) if !doubt.ahead => doubt.known,
            _ => wall,
        }
    }

    /// The distrust of the wall clock to report, if any.
    #[must_use]
    pub fn doubt(&self, wall: Timestamp, steady: Timestamp) -> Option<Doubt> {
        let known = self.known(steady);
        let by = apart(wall, known);
        let doubted = self.doubted.unwrap_or_default() + steady.since(self.steady);
        (by > DOUBT).then(|| Doubt {
            known,
            by,
            ahead: wall > known,
            left: DOUBT.saturating_sub(doubted),
        })
    }

    /// The time from which `give_up_after` counts for a delivery created at this time, without the gaps.
    #[must_use]
    pub fn give_up_start(&self, created_at: Timestamp) -> Timestamp {
        self.gaps.iter().fold(created_at, |since, gap| {
            if since < gap.end {
                since.after(gap.length).min(gap.end)
            } else {
                since
            }
        })
    }

    /// The times of creation for which [`Timeline::give_up_start`] is in `starts`.
    #[must_use]
    pub fn created_between(&self, starts: RangeInclusive<Timestamp>) -> RangeInclusive<Timestamp> {
        let gaps = self.gaps.iter().rev();
        let (first, last) = gaps.fold(starts.into_inner(), |(first, last), gap| {
            // All times within the length of a gap before its end are counted from its end.
            let first = if first <= gap.end {
                first.before(gap.length)
            } else {
                first
            };
            let last = if last < gap.end {
                last.before(gap.length)
            } else {
                last
            };
            (first, last)
        });
        first..=last
    }

    fn known(&self, steady: Timestamp) -> Timestamp {
        self.known.after(steady.since(self.steady))
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            known,
            by,
            ahead,
            left,
        } = self;
        let (by, left) = (words(*by), words(*left));
        if *ahead {
            write!(
                f,
                "the machine's clock is {by} ahead of the time that is known to have passed ({known}): the machine was \
                 off that long, or the clock is wrong; nothing is forgotten or redacted because of it until it is \
                 corrected, or the daemon has run for another {left}"
            )
        } else {
            write!(
                f,
                "the machine's clock is {by} behind the time that is known to have passed ({known}): correct it; until \
                 then, or until the daemon has run for another {left}, messages are dated by the known time"
            )
        }
    }
}

/// A duration in words: days, or hours and minutes.
fn words(time: Duration) -> String {
    let minutes = time.as_secs() / 60;
    match (minutes / 1_440, minutes / 60, minutes % 60) {
        (days, ..) if days > 1 => format!("{days} days"),
        (_, 0, minutes) => format!("{minutes} min"),
        (_, hours, 0) => format!("{hours} h"),
        (_, hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

fn apart(one: Timestamp, other: Timestamp) -> Duration {
    one.since(other).max(other.since(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000;
    const HOUR: i64 = 3_600 * SECOND;
    const DAY: i64 = 24 * HOUR;
    const NOW: i64 = 1_790_000_000_000;

    fn at(offset: i64) -> Timestamp {
        Timestamp(NOW + offset)
    }

    fn days(count: u64) -> Duration {
        Duration::from_secs(count * 86_400)
    }

    /// Runs for this long with both clocks advancing equally.
    fn run(timeline: &mut Timeline, time: i64) {
        let (wall, steady) = (timeline.wall.0, timeline.steady.0);
        for passed in (0..=time).step_by(HOUR as usize / 4) {
            timeline.observe(Timestamp(wall + passed), Timestamp(steady + passed));
        }
    }

    #[test]
    fn a_correct_clock_is_trusted() {
        let mut timeline = Timeline::new(at(0), at(0));
        run(&mut timeline, 3 * DAY);
        assert_eq!(timeline.doubt(at(3 * DAY), at(3 * DAY)), None);
        assert_eq!(timeline.retention(at(3 * DAY), at(3 * DAY)), at(3 * DAY));
        let resumed = timeline.resumed(at(3 * DAY + HOUR), at(3 * DAY + HOUR));
        assert_eq!(resumed.give_up_start(at(0)), at(0), "an hour of downtime counts");
        assert_eq!(resumed.known, at(3 * DAY + HOUR));
    }

    #[test]
    fn a_downtime_of_more_than_an_hour_does_not_count_towards_giving_up() {
        let mut timeline = Timeline::new(at(0), at(0));
        run(&mut timeline, HOUR);
        let resumed = timeline.resumed(at(10 * HOUR), at(10 * HOUR));
        assert_eq!(
            resumed.give_up_start(at(0)),
            at(9 * HOUR),
            "the hour that it ran counts"
        );
        assert_eq!(resumed.give_up_start(at(HOUR)), at(10 * HOUR));
        assert_eq!(
            resumed.give_up_start(at(HOUR + 30 * SECOND)),
            at(10 * HOUR),
            "it was created after the clocks were last read"
        );
        assert_eq!(resumed.give_up_start(at(11 * HOUR)), at(11 * HOUR));
        assert_eq!(
            resumed.doubt(at(10 * HOUR), at(10 * HOUR)),
            None,
            "it may well be right"
        );
        assert_eq!(resumed.retention(at(10 * HOUR), at(10 * HOUR)), at(10 * HOUR));
    }

    #[test]
    fn a_clock_far_ahead_is_trusted_only_after_a_day() {
        let ahead = 100 * DAY;
        let mut timeline = Timeline::new(at(0), at(0)).resumed(at(ahead), at(ahead));
        let doubt = timeline.doubt(at(ahead), at(ahead)).unwrap();
        assert_eq!(
            (doubt.known, doubt.by, doubt.ahead, doubt.left),
            (at(0), days(100), true, days(1))
        );
        assert_eq!(timeline.retention(at(ahead), at(ahead)), at(0));
        assert_eq!(timeline.date(at(ahead), at(ahead)), at(ahead));
        run(&mut timeline, DAY - HOUR);
        let (wall, steady) = (timeline.wall, timeline.steady);
        assert_eq!(timeline.retention(wall, steady), at(DAY - HOUR));
        // Another restart does not make the clock right.
        let mut timeline = timeline.resumed(wall, steady);
        assert_eq!(
            timeline.doubt(wall, steady).unwrap().left,
            Duration::from_secs(3_600)
        );
        run(&mut timeline, HOUR);
        assert_eq!(timeline.doubt(timeline.wall, timeline.steady), None);
        assert_eq!(
            timeline.retention(timeline.wall, timeline.steady),
            at(ahead + DAY)
        );
    }

    #[test]
    fn a_corrected_clock_is_trusted_at_once() {
        let ahead = 100 * DAY;
        let mut timeline = Timeline::new(at(0), at(0)).resumed(at(ahead), at(ahead));
        timeline.observe(at(300 * SECOND), at(ahead + 300 * SECOND));
        assert_eq!(timeline.doubt(at(300 * SECOND), at(ahead + 300 * SECOND)), None);
        assert!(timeline.is_set_back(at(301 * SECOND)));
        let resumed = timeline.resumed(at(301 * SECOND), at(301 * SECOND));
        assert_eq!(
            resumed.give_up_start(at(0)),
            at(0),
            "nothing was skipped after all"
        );
        assert_eq!(resumed.doubt(at(301 * SECOND), at(301 * SECOND)), None);
    }

    #[test]
    fn a_machine_that_is_off_every_night_and_weekend_stays_trusted() {
        let mut timeline = Timeline::new(at(0), at(0));
        let mut lag = 0;
        for day in 0..56 {
            if day % 7 > 4 {
                continue;
            }
            let start = at(day * DAY);
            timeline = timeline.resumed(start, start);
            run(&mut timeline, 8 * HOUR);
            let end = at(day * DAY + 8 * HOUR);
            lag = lag.max(end.since(timeline.retention(end, end)).as_secs());
        }
        assert!(lag < 5 * 86_400, "{lag}");
    }

    #[test]
    fn a_clock_far_behind_dates_nothing_until_it_is_corrected_or_a_day_has_passed() {
        let behind = -20 * 365 * DAY;
        let mut timeline = Timeline::new(at(0), at(0)).resumed(at(behind), at(behind));
        let (wall, steady) = (at(behind + 60 * SECOND), at(behind + 60 * SECOND));
        assert_eq!(timeline.date(wall, steady), at(60 * SECOND));
        assert_eq!(timeline.retention(wall, steady), wall, "nothing is that old");
        timeline.observe(wall, steady);
        let (corrected, steady) = (at(120 * SECOND), at(behind + 120 * SECOND));
        timeline.observe(corrected, steady);
        assert_eq!(timeline.date(corrected, steady), corrected);
        assert_eq!(timeline.doubt(corrected, steady), None);
        // The monotonic clock of the next run is twenty years ahead of this one's.
        let resumed = timeline.resumed(at(180 * SECOND), at(180 * SECOND));
        let waited = at(180 * SECOND).since(resumed.give_up_start(at(behind + 60 * SECOND)));
        assert_eq!(waited, Duration::from_secs(120));
    }

    #[test]
    fn gaps_are_merged_without_losing_time() {
        let mut timeline = Timeline::new(at(0), at(0));
        for start in 1..100 {
            timeline = timeline.resumed(at(start * 10 * HOUR), at(start * 10 * HOUR));
        }
        assert_eq!(timeline.gaps.len(), GAPS_MAX);
        assert_eq!(timeline.give_up_start(at(0)), at(99 * 10 * HOUR));
    }

    proptest::proptest! {
        #[test]
        fn created_between_is_the_inverse_of_give_up_start(
            gaps in proptest::collection::vec((0..200i64, 1..60u64), 0..6),
            (first, last) in (0..250i64, 0..250i64),
        ) {
            let mut ends: Vec<i64> = gaps.iter().map(|(end, _)| *end).collect();
            ends.sort_unstable();
            let gaps = ends.into_iter().zip(gaps).map(|(end, (_, length))| Gap {
                end: Timestamp(end),
                length: Duration::from_millis(length),
            });
            let timeline = Timeline { gaps: gaps.collect(), ..Timeline::new(at(0), at(0)) };
            let starts = Timestamp(first)..=Timestamp(last);
            let created = timeline.created_between(starts.clone());
            for time in (-400..300).map(Timestamp) {
                let counts = starts.contains(&timeline.give_up_start(time));
                assert_eq!(created.contains(&time), counts, "{time:?} in {created:?}");
            }
        }
    }
}
