//! What is known about the database at the moment.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::store::Error;

/// What is known about the database.
#[derive(Default)]
pub(super) struct Monitor(Mutex<Seen>);

#[derive(Default)]
pub(super) struct Seen {
    /// The size of the database.
    pub(super) bytes: u64,
    /// When the query that has no answer yet was sent.
    pub(super) asked: Option<Instant>,
    pub(super) unavailable: Option<Away>,
}

/// The database is unavailable.
pub(super) struct Away {
    pub(super) reason: String,
    since: Instant,
}

impl Monitor {
    /// What was seen last.
    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the last question failed, if it did.
    pub(super) fn unavailable(&self) -> Option<String> {
        self.seen().unavailable.as_ref().map(|away| away.reason.clone())
    }

    /// Stores an answer and logs a change.
    pub(super) fn answered(&self, answer: Result<(), Error>) {
        let mut seen = self.seen();
        seen.asked = None;
        match (answer, seen.unavailable.take()) {
            (Ok(()), None) => {}
            (Ok(()), Some(away)) => {
                let seconds = away.since.elapsed().as_secs();
                tracing::info!(seconds, "the database is available again after {seconds} s");
            }
            (Err(error), before) => {
                let reason = match error {
                    Error::Unavailable(reason) => reason,
                    error => error.to_string(),
                };
                if before.is_none() {
                    tracing::warn!(
                        "the database is unavailable; new messages are answered 503 and deliveries stay pending: {reason}"
                    );
                }
                let since = before.map_or_else(Instant::now, |away| away.since);
                seen.unavailable = Some(Away { reason, since });
            }
        }
    }
}
