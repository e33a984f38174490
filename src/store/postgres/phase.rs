//! The progress of retention.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where the next step of this daemon begins.
#[derive(Default)]
pub(super) struct Retention(Mutex<Phase>);

/// What a step does, and the time of receipt at which it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Removes messages that are redacted, or that are not.
    Purge { redacted: bool, from: i64 },
    /// Redacts messages.
    Redact { from: i64 },
    /// Removes provider ids.
    Forget,
    /// Removes the roots of threads.
    Threads,
}

impl Default for Phase {
    fn default() -> Self {
        Self::Purge {
            redacted: true,
            from: i64::MIN,
        }
    }
}

impl Phase {
    /// The phase after a step that read up to a time of receipt; `None` if it read everything.
    pub(super) fn after(self, reached: Option<i64>) -> Option<Self> {
        Some(match (self, reached) {
            (Self::Purge { redacted, .. }, Some(from)) => Self::Purge { redacted, from },
            (Self::Redact { .. }, Some(from)) => Self::Redact { from },
            (Self::Forget | Self::Threads, Some(_)) => self,
            (Self::Purge { redacted: true, .. }, None) => Self::Purge {
                redacted: false,
                from: i64::MIN,
            },
            (Self::Purge { .. }, None) => Self::Redact { from: i64::MIN },
            (Self::Redact { .. }, None) => Self::Forget,
            (Self::Forget, None) => Self::Threads,
            (Self::Threads, None) => return None,
        })
    }
}

impl Retention {
    /// The phase of the next step.
    pub(super) fn phase(&self) -> MutexGuard<'_, Phase> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
