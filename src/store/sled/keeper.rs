//! The thread for background work: checks the complete log once, renews it when due, recovers the history of a
//! database that was set aside, and writes the findings if that failed before.
//!
//! It changes the store through the writer, in small steps.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::Shared;
use super::log::{self, Segments};
use super::recovery::history::History;
use super::requests::Requests;
use crate::store::Error;

/// Interval between its checks.
const PACE: Duration = Duration::from_secs(1);

/// Size of the log below which it is not renewed.
const SLACK: u64 = 8 << 20;

/// The state of the thread.
pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    pub(super) requests: Requests,
    pub(super) segments: Segments,
    /// Whether pending messages may be missing in the log.
    pub(super) is_renewal_due: bool,
    /// The approximate size of the log after the last renewal; `None` until its older segments have been removed.
    pub(super) left: Option<u64>,
    pub(super) history: Option<History>,
}

impl Keeper {
    /// Runs until the channel is closed. An error ends it early: the store failed or is being closed.
    pub(super) fn run(mut self, stop: &Receiver<()>) {
        let ended = self.work(stop);
        self.shared.retry_findings();
        if let Err(error) = ended
            && stop.try_recv() == Err(TryRecvError::Empty)
        {
            warn!("the store's log is not renewed any more: {error}");
        }
    }

    fn work(&mut self, stop: &Receiver<()>) -> Result<(), Error> {
        let stopping = || stop.try_recv() == Err(TryRecvError::Disconnected);
        if !self.is_renewal_due {
            self.look_through(stopping);
        }
        if self.is_renewal_due {
            self.renew(stopping)?;
        }
        if let Some(history) = self.history.take() {
            history.bring_back(&self.shared, &self.requests, stopping)?;
        }
        while stop.recv_timeout(PACE) == Err(RecvTimeoutError::Timeout) {
            self.shared.retry_findings();
            let bytes = self.segments.bytes();
            if self.segments.oldest() >= self.shared.progress.renewed_from()
                && bytes > 2 * *self.left.get_or_insert(bytes) + SLACK
            {
                self.renew(stopping)?;
            }
        }
        Ok(())
    }

    /// A start reads only the frames that the database does not have. Damage in the rest is harmless as long as the
    /// database is sound, and is repaired by a renewal.
    fn look_through(&mut self, stopping: impl Fn() -> bool) {
        match log::is_whole(&self.segments, stopping) {
            Ok(true) => {}
            Ok(false) => {
                self.is_renewal_due = true;
                self.shared.report("part of the log was damaged but is complete in the database: nothing is lost, the log is rewritten");
            }
            Err(error) => {
                self.is_renewal_due = true;
                self.shared.report(format!(
                    "a part of the log that is complete in the database cannot be read: {error}; the log is rewritten"
                ));
            }
        }
    }

    fn renew(&mut self, stopping: impl Fn() -> bool) -> Result<(), Error> {
        let began = Instant::now();
        let renewal = match self.requests.ask(|batch| batch.begin_renewal()) {
            Err(Error::Full(_) | Error::Busy) => return Ok(()),
            renewal => renewal?,
        };
        let mut next = Some(0);
        while let Some(after) = next {
            let step = Instant::now();
            match self.requests.ask(move |batch| batch.renew(renewal, after)) {
                Err(Error::Full(_) | Error::Busy) => std::thread::sleep(PACE),
                reached => next = reached?,
            }
            if stopping() {
                return Ok(());
            }
            // Pauses as long as the step took, because accepting and delivering have priority.
            std::thread::sleep(step.elapsed());
        }
        self.is_renewal_due = false;
        self.left = None;
        self.shared.progress.renewed(renewal.first);
        info!(
            "the store's log was renewed from frame {} on in {:.1} s",
            renewal.first,
            began.elapsed().as_secs_f64()
        );
        Ok(())
    }
}
