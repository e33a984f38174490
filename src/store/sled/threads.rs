//! The store's two threads, and how long a caller waits for what it asks of the first.
//!
//! Nobody waits for ever: a text is refused at once when too much waits already, any other change waits for room,
//! and all of them for their commit, until the deadline. What was handed over is done all the same.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{OwnedPermit, Receiver, Sender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::change::Group;
use super::status::Status;
use super::writer::{self, Answer, Request, Writer};
use super::{Options, lock};
use crate::store::Error;

/// How many requests may wait for the writer before new texts are refused.
pub(super) const WAITING_MAX: usize = 1024;

/// How many bytes of new texts may wait for the writer, besides.
pub(super) const WAITING_BYTES: usize = 16 << 20;

/// The writer and its watchdog. Dropping this waits for the commit at hand.
pub(super) struct Threads {
    status: Arc<Status>,
    commit_deadline: Duration,
    requests: Mutex<Option<Sender<Request>>>,
    /// A permit for each KiB that may wait.
    bytes: Arc<Semaphore>,
    writer: Option<JoinHandle<()>>,
    watch: Option<JoinHandle<()>>,
    stop_watch: Option<std::sync::mpsc::Sender<()>>,
}

impl Threads {
    /// Starts both, given how to make the writer of where its requests come from.
    pub(super) fn start(
        options: &Options,
        writer: impl FnOnce(Receiver<Request>) -> Writer,
    ) -> io::Result<Self> {
        let (requests, waiting) = mpsc::channel(WAITING_MAX);
        let (stop_watch, stop) = std::sync::mpsc::channel();
        let writer = writer(waiting);
        let status = Arc::clone(&writer.shared.status);
        let (watched, abort_after) = (Arc::clone(&writer.shared), options.abort_after);
        let spawn = |name: &str| thread::Builder::new().name(name.into());
        Ok(Self {
            status,
            commit_deadline: options.commit_deadline,
            requests: Mutex::new(Some(requests)),
            bytes: Arc::new(Semaphore::new(WAITING_BYTES >> 10)),
            writer: Some(spawn("store").spawn(move || writer.run())?),
            watch: Some(spawn("store-watch").spawn(move || writer::watch(&watched, &stop, abort_after))?),
            stop_watch: Some(stop_watch),
        })
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
        permit.send(Box::new(move |group| {
            let result = change(group);
            let fatal = match &result {
                Err(Error::Failed(reason)) => Some(reason.clone()),
                _ => None,
            };
            // A caller that waits no longer is told nothing.
            let answer: Answer = Box::new(move |commit| drop(reply.send(commit.and(result))));
            (fatal, answer)
        }));
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
        lock(&self.requests).take();
    }

    pub(super) fn requests(&self) -> Result<Sender<Request>, Error> {
        self.status.check()?;
        lock(&self.requests).clone().ok_or_else(closed)
    }

    /// Why the writer does not answer.
    fn stopped(&self) -> Error {
        self.status.check().err().unwrap_or_else(closed)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.close();
        // The watchdog goes last: it is what ends the wait for a writer that hangs.
        drop(self.writer.take().map(JoinHandle::join));
        self.stop_watch.take();
        drop(self.watch.take().map(JoinHandle::join));
    }
}

fn closed() -> Error {
    Error::Failed("the store is closed".to_owned())
}
