//! The current state of the database.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::moment::Moment;
use crate::model::message::Timestamp;
use crate::store::Error;

/// The known state of the database.
#[derive(Default)]
pub(super) struct Monitor(Mutex<Seen>);

#[derive(Default)]
pub(super) struct Seen {
    /// The size of the database.
    pub(super) bytes: u64,
    /// When the query that has no answer yet was sent.
    pub(super) asked: Option<Instant>,
    pub(super) unavailable: Option<Outage>,
    /// A write failed because the disk of the server is full, and none has succeeded since.
    pub(super) full: Option<Outage>,
    /// The clock of the server, and when it was read.
    clock: Option<(Timestamp, Moment)>,
    /// Why notices of other daemons cannot be received.
    deaf: Option<String>,
    /// Deliveries that were set aside.
    pub(super) findings: Vec<String>,
}

/// Something that the database cannot do.
pub(super) struct Outage {
    pub(super) reason: String,
    since: Instant,
}

impl Monitor {
    /// The last result.
    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error of the last query, if it failed.
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
                seen.unavailable = Some(Outage { reason, since });
            }
        }
    }

    /// A write failed because the disk of the server is full.
    pub(super) fn is_full(&self, reason: String) {
        let mut seen = self.seen();
        if seen.full.is_none() {
            tracing::error!(
                "the disk of the database server is full; new messages are answered 503 until a write succeeds: {reason}"
            );
        }
        let since = seen.full.take().map_or_else(Instant::now, |full| full.since);
        seen.full = Some(Outage { reason, since });
    }

    /// New rows were written.
    pub(super) fn has_room(&self) {
        if let Some(full) = self.seen().full.take() {
            let seconds = full.since.elapsed().as_secs();
            tracing::info!(
                seconds,
                "the database server has room for new messages again after {seconds} s"
            );
        }
    }

    /// Stores the clock of the server, which answered a question that was sent at `sent`.
    pub(super) fn told_time(&self, time: Timestamp, sent: Moment) {
        let travel = sent.elapsed() / 2;
        self.seen().clock = Some((time, sent + travel));
    }

    /// The clock of the server.
    pub(super) fn clock(&self) -> Option<Timestamp> {
        let (time, at) = self.seen().clock?;
        Some(time.after(at.elapsed()))
    }

    /// Stores whether notices can be received, and logs a change.
    pub(super) fn listens(&self, refused: Option<String>) {
        let mut seen = self.seen();
        match (&seen.deaf, &refused) {
            (None, Some(reason)) => {
                tracing::warn!("{}", deafness(reason));
            }
            (Some(_), None) => tracing::info!("this daemon receives notices of other daemons again"),
            _ => {}
        }
        seen.deaf = refused;
    }

    /// What does not work, although messages are stored and delivered.
    pub(super) fn warnings(&self) -> Vec<String> {
        self.seen().deaf.as_deref().map(deafness).into_iter().collect()
    }
}

/// How often the database is looked at without notices.
const LOOK: Duration = Duration::from_secs(1);

fn deafness(reason: &str) -> String {
    format!(
        "the database refuses LISTEN ({reason}), so messages that other daemons accept are delivered up to {} s later; \
         connect to the server directly, or through a pooler in session mode",
        LOOK.as_secs()
    )
}
