//! The state of the log: which lines were dropped, and since when a write has been blocked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Metric;

/// A line that is not written for this long is a problem.
const STUCK: Duration = Duration::from_secs(2);

/// Dropped lines are a problem for this long.
const NEWS: Duration = Duration::from_secs(15 * 60);

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
    /// Where the lines go, in words.
    place: &'static str,
    /// Since when a line is being written.
    writing: Option<Instant>,
    dropped: u64,
    dropped_at: Option<Instant>,
}

impl Log {
    /// Names the place where lines go and the levels that are counted.
    pub fn goes_to(&self, place: &'static str, levels: &[&'static str]) {
        self.state().place = place;
        for &level in levels {
            drop(self.dropped.get_or_create(&ByLevel { level }));
        }
    }

    /// Counts a line that was dropped.
    pub fn dropped(&self, level: &'static str) {
        self.dropped.get_or_create(&ByLevel { level }).inc();
        let mut state = self.state();
        state.dropped += 1;
        state.dropped_at = Some(Instant::now());
    }

    /// Notes that a line is being written, or that its write has returned.
    pub fn writing(&self, begins: bool) {
        self.state().writing = begins.then(Instant::now);
    }

    /// The counter by level, for the registry.
    pub(super) fn counter(&self) -> impl Metric {
        self.dropped.clone()
    }

    /// What an operator should know about the log.
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
                "{place} takes no log lines since {since}, its reader or disk hangs; {lines} since the start"
            ));
        }
        state
            .dropped_at
            .is_some_and(|at| at.elapsed() < NEWS)
            .then(|| format!("{place} could not take all log lines: {lines} since the start"))
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
            "standard error takes no log lines since 1m 5s, its reader or disk hangs; 0 lines were dropped since the start"
        );
        log.dropped("INFO");
        log.writing(false);
        assert_eq!(
            log.problem().unwrap(),
            "standard error could not take all log lines: 1 line was dropped since the start"
        );
        log.state().dropped_at = Instant::now().checked_sub(NEWS);
        assert_eq!(log.problem(), None);
    }
}
