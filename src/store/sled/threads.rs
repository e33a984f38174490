//! The store's threads, and how long a caller waits for what it asks of the writer.
//!
//! Nobody waits for ever: a text is refused at once when too much waits already, any other change waits for room,
//! and all of them for their commit, until the deadline. What was handed over is done all the same.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{OwnedPermit, Receiver, Sender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::change::Group;
use super::checkpoint::Checkpointer;
use super::keeper::Keeper;
use super::requests::{Requests, closed, request};
use super::status::Status;
use super::writer::{self, Request, Writer};
use super::{Options, Shared};
use crate::store::Error;

/// How many requests may wait for the writer before new texts are refused.
pub(super) const WAITING_MAX: usize = 1024;

/// How many bytes of new texts may wait for the writer, besides.
pub(super) const WAITING_BYTES: usize = 16 << 20;

/// The writer, the checkpoint, the keeper and the watchdog. Dropping this waits for the commit at hand and for the
/// last checkpoint.
pub(super) struct Threads {
    shared: Arc<Shared>,
    status: Arc<Status>,
    commit_deadline: Duration,
    pub(super) requests: Requests,
    /// A permit for each KiB that may wait.
    bytes: Arc<Semaphore>,
    writer: Option<JoinHandle<()>>,
    checkpoint: Option<JoinHandle<()>>,
    keeper: Option<JoinHandle<()>>,
    watch: Option<JoinHandle<()>>,
    stop_keeper: Option<std::sync::mpsc::Sender<()>>,
    stop_watch: Option<std::sync::mpsc::Sender<()>>,
}

impl Threads {
    /// Starts them, given how to make those that ask the writer, or are asked, of how that is done.
    pub(super) fn start(
        options: &Options,
        shared: &Arc<Shared>,
        writer: impl FnOnce(Receiver<Request>) -> Writer,
        checkpoint: Checkpointer,
        keeper: impl FnOnce(Requests) -> Keeper,
    ) -> io::Result<Self> {
        let (sender, waiting) = mpsc::channel(WAITING_MAX);
        let (stop_watch, watch_stops) = std::sync::mpsc::channel();
        let (stop_keeper, keeper_stops) = std::sync::mpsc::channel();
        let status = Arc::clone(&shared.status);
        let requests = Requests::new(Arc::clone(&status), sender);
        let (writer, keeper) = (writer(waiting), keeper(requests.clone()));
        let (watched, abort_after) = (Arc::clone(shared), options.abort_after);
        let spawn = |name: &str| thread::Builder::new().name(name.into());
        // What was started is ended by dropping this if another one cannot be started.
        let mut threads = Self {
            shared: Arc::clone(shared),
            status,
            commit_deadline: options.commit_deadline,
            requests,
            bytes: Arc::new(Semaphore::new(WAITING_BYTES >> 10)),
            writer: Some(spawn("store").spawn(move || writer.run())?),
            checkpoint: None,
            keeper: None,
            watch: None,
            stop_keeper: Some(stop_keeper),
            stop_watch: Some(stop_watch),
        };
        threads.checkpoint = Some(spawn("store-check").spawn(move || checkpoint.run())?);
        threads.watch =
            Some(spawn("store-watch").spawn(move || writer::watch(&watched, &watch_stops, abort_after))?);
        threads.keeper = Some(spawn("store-keep").spawn(move || keeper.run(&keeper_stops))?);
        Ok(threads)
    }

    /// Has a change made and committed, waiting for room in the writer's queue if need be.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Group<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let requests = self.requests()?;
        let room = tokio::time::timeout(self.commit_deadline, requests.reserve_owned()).await;
        // Nothing was asked yet, so it is certain that nothing was done.
        let permit = room.map_err(|_| Error::Busy)?.map_err(|_| self.stopped())?;
        self.committed(permit, change).await
    }

    /// Room in the writer's queue, now or not at all.
    pub(super) fn room(&self) -> Result<OwnedPermit<Request>, Error> {
        let requests = self.requests()?;
        requests.try_reserve_owned().map_err(|error| match error {
            TrySendError::Full(_) => Error::Busy,
            TrySendError::Closed(_) => self.stopped(),
        })
    }

    /// Room for a new text of so many bytes, now or not at all. It is to be held until the text is committed.
    pub(super) fn room_for(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        let count = bytes.div_ceil(1 << 10).clamp(1, WAITING_BYTES >> 10);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.bytes).try_acquire_many_owned(count);
        permit.map_err(|_| Error::Busy)
    }

    /// Has a change made and committed for which there is room.
    pub(super) async fn committed<T: Send + 'static>(
        &self,
        permit: OwnedPermit<Request>,
        change: impl FnOnce(&mut Group<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        permit.send(request(change, reply));
        match tokio::time::timeout(self.commit_deadline, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(self.stopped()),
            Err(_) => Err(Error::Slow),
        }
    }

    /// Has the space measured if that was long ago, without waiting for it.
    pub(super) fn measure(&self) {
        if self.status.is_stale()
            && let Ok(requests) = self.requests()
        {
            // An empty group measures the space; whether there is room for it now does not matter.
            drop(requests.try_send(Box::new(|_| (None, Box::new(drop)))));
        }
    }

    /// Takes no requests any more.
    pub(super) fn close(&self) {
        self.requests.close();
    }

    pub(super) fn requests(&self) -> Result<Sender<Request>, Error> {
        self.requests.sender()
    }

    /// Why the writer does not answer.
    fn stopped(&self) -> Error {
        self.status.check().err().unwrap_or_else(closed)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.close();
        // The watchdog goes last: it is what ends the wait for a thread that hangs.
        self.stop_keeper.take();
        drop(self.keeper.take().map(JoinHandle::join));
        drop(self.writer.take().map(JoinHandle::join));
        self.shared.progress.close();
        drop(self.checkpoint.take().map(JoinHandle::join));
        self.stop_watch.take();
        drop(self.watch.take().map(JoinHandle::join));
    }
}
