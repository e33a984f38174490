//! Runs what only reads, or writes with a single statement.

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
        let result = tokio::time::timeout(WAIT, work).await;
        let trouble = match result {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(trouble)) => trouble,
            Err(_) => {
                connection.discard();
                Trouble::Store(Error::Unavailable(format!(
                    "no answer within {} s",
                    WAIT.as_secs()
                )))
            }
        };
        trouble.tell(&self.pool);
        Err(trouble.into())
    }
}
