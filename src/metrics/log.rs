//! The state of the log: which lines were dropped, and since when a write has been blocked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Metric;

/// A write that is blocked for this long is a problem.
const STUCK: Duration = Duration::from_secs(2);

/// How long dropped lines are reported as a problem.
const REPORTED: Duration = Duration::from_secs(15 * 60);

/// `{level="…"}`
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByLevel {
    level: &'static str,
}

/// The state of the log. Clones share it.
#[derive(Clone, Default)]
pub struct Log {
    dropped: Family<ByLevel, Counter>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Where log lines are written, for the problem text.
    place: &'static str,
    /// When the current write started.
    writing: Option<Instant>,
    dropped: u64,
    dropped_at: Option<Instant>,
}

impl Log {
    /// Sets where log lines are written and which levels are counted.
    pub fn goes_to(&self, place: &'static str, levels: &[&'static str]) {
        self.state().place = place;
        for &level in levels {
            drop(self.dropped.get_or_create(&ByLevel { level }));
        }
    }

    /// Counts lines that were dropped.
    pub fn dropped(&self, level: &'static str, count: u64) {
        self.dropped.get_or_create(&ByLevel { level }).inc_by(count);
        let mut state = self.state();
        state.dropped += count;
        state.dropped_at = Some(Instant::now());
    }

    /// Records that a write has started or returned.
    pub fn writing(&self, begins: bool) {
        self.state().writing = begins.then(Instant::now);
    }

    /// The counter by level, for the registry.
    pub(super) fn counter(&self) -> impl Metric {
        self.dropped.clone()
    }

    /// The current problem with the log, if any.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let state = self.state();
        let place = state.place;
        let lines = match state.dropped {
            1 => "1 line was dropped".to_owned(),
            many => format!("{many} lines were dropped"),
        };
        let stuck = state
            .writing
            .map(|since| since.elapsed())
            .filter(|&since| since >= STUCK);
        if let Some(since) = stuck {
            let since = humantime::format_duration(Duration::from_secs(since.as_secs()));
            return Some(format!(
                "log output to {place} has been blocked for {since}: its reader or disk hangs; {lines} since startup"
            ));
        }
        state
            .dropped_at
            .is_some_and(|at| at.elapsed() < REPORTED)
            .then(|| format!("some log lines could not be written to {place}: {lines} since startup"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_lines_and_a_write_that_hangs_are_problems() {
        let log = Log::default();
        log.goes_to("standard error", &["WARN", "INFO"]);
        log.writing(true);
        assert_eq!(log.problem(), None);
        log.state().writing = Instant::now().checked_sub(Duration::from_secs(65));
        assert_eq!(
            log.problem().unwrap(),
            "log output to standard error has been blocked for 1m 5s: its reader or disk hangs; 0 lines were dropped since startup"
        );
        log.dropped("INFO", 1);
        log.writing(false);
        assert_eq!(
            log.problem().unwrap(),
            "some log lines could not be written to standard error: 1 line was dropped since startup"
        );
        log.state().dropped_at = Instant::now().checked_sub(REPORTED);
        assert_eq!(log.problem(), None);
    }
}
