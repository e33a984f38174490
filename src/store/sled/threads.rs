//! The threads of the store, and the time limits of callers that wait for the writer.
//!
//! Every wait is limited: a new message is rejected immediately if too many are queued, other changes wait for a
//! place in the queue, and all of them wait for their commit until the deadline. A change that was queued is
//! committed even if its caller stops waiting.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{OwnedPermit, Receiver, Sender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::checkpoint::Checkpointer;
use super::keeper::Keeper;
use super::requests::{Requests, closed, request};
use super::status::Status;
use super::write_batch::WriteBatch;
use super::writer::{self, Request, Writer};
use super::{Options, Shared, lock};
use crate::store::Error;

/// Requests in the writer's queue at which new messages are rejected.
pub(super) const WAITING_MAX: usize = 1024;

/// Bytes of new messages in the writer's queue at which further ones are rejected.
pub(super) const WAITING_BYTES: usize = 16 << 20;

/// The callers' side of the store's threads. Dropping this waits for the current commit and for the last checkpoint.
pub(super) struct Threads {
    status: Arc<Status>,
    commit_deadline: Duration,
    pub(super) requests: Requests,
    /// One permit for each KiB that may be queued.
    bytes: Arc<Semaphore>,
    /// `None` once the store was closed.
    handles: Mutex<Option<Handles>>,
}

/// The writer, the checkpoint, the keeper and the watchdog. Dropping this ends them.
struct Handles {
    shared: Arc<Shared>,
    requests: Requests,
    writer: Option<JoinHandle<()>>,
    checkpoint: Option<JoinHandle<()>>,
    keeper: Option<JoinHandle<()>>,
    watch: Option<JoinHandle<()>>,
    stop_keeper: Option<std::sync::mpsc::Sender<()>>,
    stop_watch: Option<std::sync::mpsc::Sender<()>>,
}

impl Threads {
    /// Starts the threads. The arguments create those that depend on the writer or on each other.
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
        // If a thread cannot be started, dropping this value ends those that were.
        let mut handles = Handles {
            shared: Arc::clone(shared),
            requests: requests.clone(),
            writer: Some(spawn("store").spawn(move || writer.run())?),
            checkpoint: None,
            keeper: None,
            watch: None,
            stop_keeper: Some(stop_keeper),
            stop_watch: Some(stop_watch),
        };
        handles.checkpoint = Some(spawn("store-check").spawn(move || checkpoint.run())?);
        handles.watch =
            Some(spawn("store-watch").spawn(move || writer::watch(&watched, &watch_stops, abort_after))?);
        handles.keeper = Some(spawn("store-keep").spawn(move || keeper.run(&keeper_stops))?);
        Ok(Self {
            status,
            commit_deadline: options.commit_deadline,
            requests,
            bytes: Arc::new(Semaphore::new(WAITING_BYTES >> 10)),
            handles: Mutex::new(Some(handles)),
        })
    }

    /// Queues a change, waiting for a place in the queue if necessary, and waits for its commit.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut WriteBatch<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let requests = self.requests()?;
        let room = tokio::time::timeout(self.commit_deadline, requests.reserve_owned()).await;
        // Nothing was queued, so it is certain that nothing was changed.
        let permit = room.map_err(|_| Error::Busy)?.map_err(|_| self.stopped())?;
        self.committed(permit, change).await
    }

    /// A place in the writer's queue, without waiting.
    pub(super) fn room(&self) -> Result<OwnedPermit<Request>, Error> {
        let requests = self.requests()?;
        requests.try_reserve_owned().map_err(|error| match error {
            TrySendError::Full(_) => Error::Busy,
            TrySendError::Closed(_) => self.stopped(),
        })
    }

    /// Reserves queue space for a new message of this size, without waiting. Must be held until the message is
    /// committed.
    pub(super) fn room_for(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        let count = bytes.div_ceil(1 << 10).clamp(1, WAITING_BYTES >> 10);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.bytes).try_acquire_many_owned(count);
        permit.map_err(|_| Error::Busy)
    }

    /// Queues a change in a reserved place and waits for its commit.
    pub(super) async fn committed<T: Send + 'static>(
        &self,
        permit: OwnedPermit<Request>,
        change: impl FnOnce(&mut WriteBatch<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        permit.send(request(change, reply));
        match tokio::time::timeout(self.commit_deadline, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(self.stopped()),
            Err(_) => Err(Error::Slow),
        }
    }

    /// Requests a measurement of the free space if the last one is old, without waiting for it.
    pub(super) fn measure(&self) {
        if self.status.is_stale()
            && let Ok(requests) = self.requests()
        {
            // An empty batch triggers a measurement; it does not matter if the queue is full.
            drop(requests.try_send(Box::new(|_| (None, Box::new(drop)))));
        }
    }

    /// Closes the writer's queue, and waits for the last commit and the last checkpoint.
    pub(super) async fn close(&self) {
        let handles = lock(&self.handles).take();
        // A panic of a thread is in the health of the store.
        drop(tokio::task::spawn_blocking(move || drop(handles)).await);
    }

    pub(super) fn requests(&self) -> Result<Sender<Request>, Error> {
        self.requests.sender()
    }

    /// Why the writer does not respond.
    fn stopped(&self) -> Error {
        self.status.check().err().unwrap_or_else(closed)
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        self.requests.close();
        // The watchdog ends last, because it ends the wait for a thread that hangs.
        self.stop_keeper.take();
        drop(self.keeper.take().map(JoinHandle::join));
        drop(self.writer.take().map(JoinHandle::join));
        self.shared.progress.close();
        drop(self.checkpoint.take().map(JoinHandle::join));
        self.stop_watch.take();
        drop(self.watch.take().map(JoinHandle::join));
    }
}
