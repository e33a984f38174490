//! Whether the database answers, and how large it is. A task asks it regularly, so that the answer is always at hand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::shared::Shared;
use super::trouble::Trouble;
use crate::store::{Error, Health};

/// How often the database is asked.
const INTERVAL: Duration = Duration::from_secs(1);

/// Checks between two measurements of the size of the database and the sums of its counters.
const ROUNDS: u32 = 15;

/// The time without an answer after which the database is unavailable.
const LATE: Duration = Duration::from_secs(3);

impl Shared {
    /// Asks the database regularly until `stop`.
    pub(super) async fn monitor(self: Arc<Self>, stop: CancellationToken) {
        let mut interval = tokio::time::interval(INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut round = 0;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = interval.tick() => {}
            }
            self.monitor.seen().asked = Some(Instant::now());
            let answer = tokio::select! {
                () = stop.cancelled() => return,
                answer = self.ask(round % ROUNDS == 0) => answer,
            };
            round += 1;
            self.monitor.answered(answer);
        }
    }

    async fn ask(&self, in_full: bool) -> Result<(), Error> {
        let connection = self.pool.get().await?;
        let ask = async || -> Result<Option<i64>, Trouble> {
            if !in_full {
                connection.batch_execute("").await?;
                return Ok(None);
            }
            let sql = "SELECT pg_database_size(current_database())";
            let row = connection
                .query_one(&connection.prepare_cached(sql).await?, &[])
                .await?;
            Ok(Some(row.try_get(0)?))
        };
        if let Some(bytes) = self.within(&connection, ask()).await? {
            self.monitor.seen().bytes = bytes.try_into().unwrap_or_default();
            drop(connection);
            self.load_totals().await?;
        }
        Ok(())
    }

    pub(super) fn health(&self) -> Health {
        let seen = self.monitor.seen();
        let asked = seen
            .asked
            .map(|asked| asked.elapsed())
            .filter(|elapsed| *elapsed >= LATE);
        let late = asked.map(|elapsed| format!("no answer for {} s", elapsed.as_secs()));
        Health {
            bytes: seen.bytes,
            unavailable: seen.unavailable.as_ref().map(|away| away.reason.clone()).or(late),
            commit_last: self.commits.last(),
            commits: self.commits.count(),
            ..Health::default()
        }
    }
}
