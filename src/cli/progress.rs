//! Progress displays for a terminal. Nothing is shown in a pipe, in a log or with `--quiet`.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Global;

/// For a known length.
const BAR: &str = "{msg} [{bar:30}] {bytes} of {total_bytes}, {eta} left";

/// For an unknown length.
const COUNTER: &str = "{spinner} {msg} {bytes}, {bytes_per_sec}, {elapsed}";

/// For an operation without intermediate results.
const WAIT: &str = "{spinner} {msg} {elapsed}";

/// The interval at which a spinner turns, even without new data.
const TURN: Duration = Duration::from_millis(120);

/// A progress display on standard error, until it is dropped.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Shows bytes of a known total.
    pub(super) fn towards(global: &Global, what: &'static str, length: u64) -> Self {
        Self::shown(global, what, BAR, Some(length))
    }

    /// Shows bytes of an unknown total.
    pub(super) fn counting(global: &Global, what: &'static str) -> Self {
        Self::shown(global, what, COUNTER, None).turning()
    }

    /// Shows a spinner while the command waits for a response.
    pub(super) fn waiting(global: &Global, what: &'static str) -> Self {
        Self::shown(global, what, WAIT, None).turning()
    }

    /// Adds transferred bytes.
    pub(super) fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Creates a display. indicatif draws nothing if standard error is not a terminal.
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
        // Draw at once, so that even a short operation is shown.
        bar.tick();
        Self(bar)
    }

    fn turning(self) -> Self {
        self.0.enable_steady_tick(TURN);
        self
    }
}

/// Clears the line for the next output.
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
