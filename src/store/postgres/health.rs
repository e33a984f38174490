//! Whether the database answers, and how large it is. A task asks it regularly, so that the answer is always at hand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::moment::Moment;
use super::pool::Connection;
use super::shared::{Shared, Work};
use super::trouble::Trouble;
use crate::model::message::Timestamp;
use crate::store::{Error, Health};

/// How often the database is asked.
const INTERVAL: Duration = Duration::from_secs(1);

/// Checks between two measurements of the size of the database and the sums of its counters.
const ROUNDS: u32 = 15;

/// Checks between two attempts to write while the disk of the server is full.
const ROUNDS_FULL: u32 = 2;

/// The time without an answer after which the database is unavailable.
const LATE: Duration = Duration::from_secs(3);

/// The clock of the server, in milliseconds.
const TIME: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";

const SIZE: &str = "SELECT pg_database_size(current_database())";

/// Needs new pages, whatever room others have left in those of the table.
const FILL: &str = "
    INSERT INTO state (name, value) VALUES ('room', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value";

const FILL_BYTES: usize = 64 << 10;

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
                answer = self.ask_again(round % ROUNDS == 0) => answer,
            };
            round += 1;
            let is_available = answer.is_ok();
            self.monitor.answered(answer);
            let is_full = self.monitor.seen().full.is_some();
            if is_available && is_full && round % ROUNDS_FULL == 0 {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.look_for_room() => {}
                }
            }
        }
    }

    /// Asks a second time if a connection was lost: that alone does not make the database unavailable.
    async fn ask_again(&self, in_full: bool) -> Result<(), Error> {
        match self.ask(in_full).await {
            Err(Error::Unavailable(_)) => self.ask(in_full).await,
            answer => answer,
        }
    }

    /// Reads the clock of the server; `in_full` also the size of the database, the findings and the totals.
    pub(super) async fn ask(&self, in_full: bool) -> Result<(), Error> {
        let connection = self.pool.get().await?;
        let ask = async || -> Result<Option<i64>, Trouble> {
            let statement = connection.prepare_cached(TIME).await?;
            let sent = Moment::now();
            let time = connection.query_one(&statement, &[]).await?.try_get(0)?;
            self.monitor.told_time(Timestamp(time), sent);
            if !in_full {
                return Ok(None);
            }
            self.load_findings(&connection).await?;
            let row = connection
                .query_one(&connection.prepare_cached(SIZE).await?, &[])
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

    /// Writes rows and takes them back. Without this, a daemon that is not ready would get no message to try with.
    async fn look_for_room(&self) {
        match self.once(&Room).await {
            Ok(()) => self.monitor.has_room(),
            Err(error) => tracing::debug!("still no room: {error}"),
        }
    }

    pub(super) fn health(&self) -> Health {
        let warnings = self.monitor.warnings();
        let seen = self.monitor.seen();
        let asked = seen
            .asked
            .map(|asked| asked.elapsed())
            .filter(|elapsed| *elapsed >= LATE);
        let late = asked.map(|elapsed| format!("no answer for {} s", elapsed.as_secs()));
        Health {
            bytes: seen.bytes,
            full: seen.full.is_some(),
            full_server: seen.full.as_ref().map(|full| full.reason.clone()),
            unavailable: seen.unavailable.as_ref().map(|away| away.reason.clone()).or(late),
            commit_last: self.commits.last(),
            commits: self.commits.count(),
            findings: seen.findings.clone(),
            warnings,
            ..Health::default()
        }
    }
}

/// Writes as much as a message may need, and rolls it back.
struct Room;

impl Work for Room {
    type Output = ();

    async fn run(&self, connection: &Connection) -> Result<(), Trouble> {
        // Random, so that it cannot be compressed.
        let bytes: Vec<u8> = (0..FILL_BYTES).map(|_| rand::random()).collect();
        connection.begin().await?;
        let statement = connection.prepare_cached(FILL).await?;
        connection.execute(&statement, &[&bytes]).await?;
        connection.batch_execute("ROLLBACK").await?;
        Ok(())
    }
}
