//! How far a long thing has come, for somebody at a terminal. In a pipe, in a log and with `--quiet` there is
//! nothing to see.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Global;

/// What has a known length.
const BAR: &str = "{msg} [{bar:30}] {bytes} of {total_bytes}, {eta} left";

/// What has none.
const COUNTER: &str = "{spinner} {msg} {bytes}, {bytes_per_sec}, {elapsed}";

/// What tells nothing until it is done.
const WAIT: &str = "{spinner} {msg} {elapsed}";

/// How often a spinner turns, also when nothing comes.
const TURN: Duration = Duration::from_millis(120);

/// Shown on standard error until it is dropped.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Bytes towards a known end.
    pub(super) fn towards(global: &Global, what: &'static str, length: u64) -> Self {
        Self::shown(global, what, BAR, Some(length))
    }

    /// Bytes, as many as there are.
    pub(super) fn counting(global: &Global, what: &'static str) -> Self {
        Self::shown(global, what, COUNTER, None).turning()
    }

    /// One answer that may take its time.
    pub(super) fn waiting(global: &Global, what: &'static str) -> Self {
        Self::shown(global, what, WAIT, None).turning()
    }

    /// So many bytes more.
    pub(super) fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Where standard error is no terminal, indicatif draws nothing by itself.
    fn shown(global: &Global, what: &'static str, template: &str, length: Option<u64>) -> Self {
        let target = if global.louder() < 0 {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::with_draw_target(length, target)
            .with_style(style.progress_chars("=> ").tick_chars("|/-\\ "))
            .with_message(what);
        // Also what is over at once is seen to have been begun.
        bar.tick();
        Self(bar)
    }

    fn turning(self) -> Self {
        self.0.enable_steady_tick(TURN);
        self
    }
}

/// Leaves the line to what is said next.
impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_understood() {
        for template in [BAR, COUNTER, WAIT] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
