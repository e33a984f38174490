//! Sends changes to the writer as requests and returns the results of their commits.

use std::sync::{Arc, Mutex};

use tokio::sync::mpsc::Sender;
use tokio::sync::oneshot;

use super::lock;
use super::status::Status;
use super::write_batch::WriteBatch;
use super::writer::{Answer, Request};
use crate::store::Error;

/// The channel to the writer, until it is closed.
#[derive(Clone)]
pub(super) struct Requests {
    status: Arc<Status>,
    sender: Arc<Mutex<Option<Sender<Request>>>>,
}

impl Requests {
    pub(super) fn new(status: Arc<Status>, sender: Sender<Request>) -> Self {
        let sender = Arc::new(Mutex::new(Some(sender)));
        Self { status, sender }
    }

    /// Closes the channel.
    pub(super) fn close(&self) {
        lock(&self.sender).take();
    }

    pub(super) fn sender(&self) -> Result<Sender<Request>, Error> {
        self.status.check()?;
        lock(&self.sender).clone().ok_or_else(closed)
    }

    /// Requests a change and waits until it is committed, without a time limit.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut WriteBatch<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let sent = self.sender()?.blocking_send(request(change, reply));
        sent.map_err(|_| closed())?;
        answer.blocking_recv().unwrap_or_else(|_| Err(closed()))
    }
}

/// Combines a change with the channel for its result.
pub(super) fn request<T: Send + 'static>(
    change: impl FnOnce(&mut WriteBatch<'_>) -> Result<T, Error> + Send + 'static,
    reply: oneshot::Sender<Result<T, Error>>,
) -> Request {
    Box::new(move |batch| {
        let result = change(batch);
        let fatal = match &result {
            Err(Error::Failed(reason)) => Some(reason.clone()),
            _ => None,
        };
        // The caller may have stopped waiting.
        let answer: Answer = Box::new(move |commit| drop(reply.send(commit.and(result))));
        (fatal, answer)
    })
}

/// The error of a closed store.
pub(super) fn closed() -> Error {
    Error::Failed("the store is closed".to_owned())
}
