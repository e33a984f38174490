//! The thread for what has time: it looks through the log once, renews it when that is due, and brings back what
//! can be read of the history in a database that was set aside.
//!
//! What it changes goes through the writer like any other change, a small step at a time.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::Shared;
use super::history::History;
use super::log::{self, Segments};
use super::requests::Requests;
use crate::store::Error;

/// How often it looks whether there is anything to do.
const PACE: Duration = Duration::from_secs(1);

/// How many bytes of log are worth no renewal, whatever is pending.
const SLACK: u64 = 8 << 20;

/// The thread's belongings.
pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    pub(super) requests: Requests,
    pub(super) segments: Segments,
    /// Whether the log may lack what is pending.
    pub(super) is_renewal_due: bool,
    /// How large the log was after the last renewal, or about that; nothing until its older segments have gone.
    pub(super) left: Option<u64>,
    pub(super) history: Option<History>,
}

impl Keeper {
    /// Works until the other end is dropped. An error ends it early: the store failed or is being closed.
    pub(super) fn run(mut self, stop: &Receiver<()>) {
        if let Err(error) = self.work(stop)
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
            let bytes = self.segments.bytes();
            if self.segments.oldest() >= self.shared.progress.renewed_from()
                && bytes > 2 * *self.left.get_or_insert(bytes) + SLACK
            {
                self.renew(stopping)?;
            }
        }
        Ok(())
    }

    /// The start reads only what the database does not have. What is damaged in the rest costs nothing as long as the
    /// database is sound, and is replaced.
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
        let renewal = match self.requests.ask(|group| group.begin_renewal()) {
            Err(Error::Full { .. } | Error::Busy) => return Ok(()),
            renewal => renewal?,
        };
        let mut next = Some(0);
        while let Some(after) = next {
            let step = Instant::now();
            match self.requests.ask(move |group| group.renew(renewal, after)) {
                Err(Error::Full { .. } | Error::Busy) => std::thread::sleep(PACE),
                reached => next = reached?,
            }
            if stopping() {
                return Ok(());
            }
            // Those who send and deliver come first.
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
