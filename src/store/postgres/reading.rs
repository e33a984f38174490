//! Runs queries, and writes of a single statement.

use std::future::Future;

use super::pool::Connection;
use super::session::WAIT;
use super::shared::Shared;
use super::trouble::Trouble;
use crate::store::Error;

impl Shared {
    /// Waits for the answer of the database, at most ten seconds.
    pub(super) async fn within<T>(
        &self,
        connection: &Connection,
        work: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, Error> {
        let mut reading = Reading {
            connection,
            is_answered: false,
        };
        let result = tokio::time::timeout(WAIT, work).await;
        reading.is_answered = result.is_ok();
        let trouble = match result {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(trouble)) => trouble,
            Err(_) => Trouble::Store(Error::Unavailable(format!(
                "no answer within {} s",
                WAIT.as_secs()
            ))),
        };
        Err(self.failed(trouble))
    }
}

/// A request that may be cancelled before its answer has arrived. The connection is then closed, because the next user
/// would wait for that answer first.
struct Reading<'c> {
    connection: &'c Connection,
    is_answered: bool,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.connection.discard();
        }
    }
}
