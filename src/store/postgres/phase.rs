//! The progress of retention.

use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

/// Where the next step of this daemon begins.
#[derive(Default)]
pub(super) struct Retention(Mutex<Phase>);

/// A message in the order of receipt: its time and id.
pub(super) type Place = (i64, Uuid);

/// Before all messages.
const START: Place = (i64::MIN, Uuid::nil());

/// What a step does, and after which message it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Removes messages that are redacted, or that are not.
    Purge { redacted: bool, from: Place },
    /// Redacts messages.
    Redact { from: Place },
    /// Removes provider ids.
    Forget,
    /// Removes the roots of threads.
    Threads,
}

impl Default for Phase {
    fn default() -> Self {
        Self::Purge {
            redacted: true,
            from: START,
        }
    }
}

impl Phase {
    /// The phase after a step that read up to a message; `None` if it read everything.
    pub(super) fn after(self, reached: Option<Place>) -> Option<Self> {
        Some(match (self, reached) {
            (Self::Purge { redacted, .. }, Some(from)) => Self::Purge { redacted, from },
            (Self::Redact { .. }, Some(from)) => Self::Redact { from },
            (Self::Forget | Self::Threads, Some(_)) => self,
            (Self::Purge { redacted: true, .. }, None) => Self::Purge {
                redacted: false,
                from: START,
            },
            (Self::Purge { .. }, None) => Self::Redact { from: START },
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
