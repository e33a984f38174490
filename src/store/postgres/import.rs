//! Restores a backup into an empty database, in one transaction: an interrupted restore leaves the database empty.

use std::collections::BTreeMap;

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::counters::Deltas;
use super::migrate::{SchemaError, migrate};
use super::pool::{Connection, Pool};
use super::record::{self, KEPT, ROUTED, UNROUTED, UNROUTED_DELIVERED};
use super::rows::{due, ordinal};
use super::session::{ConnectError, described};
use crate::model::delivery::Delivery;
use crate::model::message::{Message, MessageId, Timestamp};
use crate::store::backup::{Record, digest};
use crate::store::{Counts, Error};

/// Messages written together.
const STEP: usize = 500;

/// The writer of the counters.
const SLOT: i16 = 91;

/// Daemons that use the database wait until the restore has ended.
const BEGIN: &str = "
    BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0;
    LOCK TABLE message, counter IN SHARE ROW EXCLUSIVE MODE";

const ADD_MESSAGES: &str = "
    INSERT INTO message (id, seq, source, sender, receiver, folded, received_at, disposition, redacted, record)
    SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[],
                         $8::smallint[], $9::boolean[], $10::bytea[])";

const ADD_DELIVERIES: &str = "
    INSERT INTO delivery (message, ordinal, seq, destination, conversation, queue, stage, due_at, pending_since, record)
    SELECT * FROM unnest($1::uuid[], $2::smallint[], $3::bigint[], $4::text[], $5::bytea[], $6::bytea[], $7::smallint[],
                         $8::bigint[], $9::bigint[], $10::bytea[])";

/// Of several messages with one provider id, the last one counts.
const ADD_SEEN: &str = "
    INSERT INTO seen AS s (digest, message, seq, received_at)
    SELECT * FROM unnest($1::bytea[], $2::uuid[], $3::bigint[], $4::bigint[])
    ON CONFLICT (digest) DO UPDATE SET
        message = excluded.message, seq = excluded.seq, received_at = excluded.received_at
    WHERE s.seq < excluded.seq";

const ADD_THREAD: &str = "
    INSERT INTO thread (destination, conversation, root, at) VALUES ($1, $2, $3, $4)
    ON CONFLICT (destination, conversation) DO NOTHING";

const ADD_PAUSED: &str = "
    INSERT INTO lane (destination, paused) VALUES ($1, true)
    ON CONFLICT (destination) DO UPDATE SET paused = true";

/// Why a backup was not restored.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The database cannot be used.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Its schema cannot be created or used.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// It is not empty. Existing messages are never overwritten.
    #[error("the database already has messages ({0} were accepted): use an empty one")]
    NotEmpty(i64),
    /// The database did not store the backup.
    #[error("the database could not be written: {0}")]
    Failed(String),
}

impl From<tokio_postgres::Error> for ImportError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Failed(described(&error))
    }
}

impl From<Error> for ImportError {
    fn from(error: Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// A restore in progress.
pub struct Import {
    connection: Connection,
    sums: Counts,
    deltas: Deltas,
    waiting: Vec<(u64, Message, Vec<Delivery>)>,
    seen: BTreeMap<[u8; 16], (MessageId, u64, Timestamp)>,
    last: u64,
    messages: u64,
    deliveries: u64,
}

impl Import {
    /// Creates the schema if there is none, and begins. The database must be empty.
    ///
    /// # Errors
    /// When it is not empty or cannot be used.
    pub async fn begin(pool: &Pool) -> Result<Self, ImportError> {
        let mut connection = pool.get().await?;
        migrate(&mut connection).await?;
        connection.batch_execute(BEGIN).await?;
        let accepted = "SELECT greatest((SELECT count(*) FROM message), \
                        (SELECT coalesce(sum(accepted), 0)::bigint FROM counter))";
        let accepted: i64 = connection.query_one(accepted, &[]).await?.try_get(0)?;
        if accepted > 0 {
            connection.batch_execute("ROLLBACK").await?;
            return Err(ImportError::NotEmpty(accepted));
        }
        // Unless it is finished, closing it ends the transaction without a change.
        connection.discard();
        Ok(Self {
            connection,
            sums: Counts::default(),
            deltas: Deltas::default(),
            waiting: Vec::new(),
            seen: BTreeMap::new(),
            last: 0,
            messages: 0,
            deliveries: 0,
        })
    }

    /// Adds one record. Records must have the order of the backup.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn add(&mut self, record: Record) -> Result<(), ImportError> {
        match record {
            Record::Sums(counts) => self.sums = counts,
            Record::Paused(destination) => self.execute(ADD_PAUSED, &[&destination.as_str()]).await?,
            Record::Message {
                seq,
                message,
                deliveries,
            } => {
                self.count(seq, &message, &deliveries);
                self.waiting.push((seq, message, deliveries));
            }
            Record::Seen {
                digest,
                id,
                seq,
                received_at,
            } => {
                self.seen.insert(digest, (id, seq, received_at));
            }
            Record::Thread {
                destination,
                conversation,
                thread,
                at,
            } => {
                let (conversation, root) = (&conversation[..], thread.as_bytes());
                self.execute(ADD_THREAD, &[&destination.as_str(), &conversation, &root, &at.0])
                    .await?;
            }
        }
        if self.waiting.len() >= STEP || self.seen.len() >= 2 * STEP {
            self.write().await?;
        }
        Ok(())
    }

    /// Commits. Returns the numbers of messages and deliveries.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn finish(mut self) -> Result<(u64, u64), ImportError> {
        self.write().await?;
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let sums = self.deltas.messages();
        sums.accepted = signed(self.sums.accepted.max(self.messages));
        sums.messages_purged = sums.accepted - signed(self.messages);
        sums.created += signed(self.sums.purged);
        sums.purged += signed(self.sums.purged);
        let deltas = std::mem::take(&mut self.deltas);
        deltas.write(&self.connection, "restore", SLOT).await?;
        let last = signed(self.last.max(self.sums.accepted).max(1));
        self.connection
            .query_one("SELECT setval('message_seq', $1)", &[&last])
            .await?;
        self.connection.batch_execute("COMMIT").await?;
        Ok((self.messages, self.deliveries))
    }

    fn count(&mut self, seq: u64, message: &Message, deliveries: &[Delivery]) {
        self.messages += 1;
        self.deliveries += deliveries.len() as u64;
        self.last = self.last.max(seq);
        for delivery in deliveries {
            self.deltas
                .moved(&delivery.destination, None, Some(record::stage(delivery)));
        }
        match disposition(message, deliveries) {
            KEPT => self.deltas.messages().kept += 1,
            UNROUTED => self.deltas.messages().unrouted += 1,
            _ => {}
        }
        if !message.provider_id.is_empty() {
            let digest = digest(&message.source, &message.provider_id);
            self.seen.insert(digest, (message.id, seq, message.received_at));
        }
    }

    async fn write(&mut self) -> Result<(), ImportError> {
        let waiting = std::mem::take(&mut self.waiting);
        let seen = std::mem::take(&mut self.seen);
        self.write_messages(&waiting).await?;
        self.write_deliveries(&waiting).await?;
        let digests: Vec<&[u8]> = seen.keys().map(|digest| &digest[..]).collect();
        let ids: Vec<Uuid> = seen.values().map(|(id, ..)| id.0).collect();
        let seqs: Vec<i64> = seen.values().map(|(_, seq, _)| seq.cast_signed()).collect();
        let times: Vec<i64> = seen.values().map(|(.., at)| at.0).collect();
        self.execute(ADD_SEEN, &[&digests, &ids, &seqs, &times]).await
    }

    async fn write_messages(&self, all: &[(u64, Message, Vec<Delivery>)]) -> Result<(), ImportError> {
        let column =
            |of: fn(&Message) -> String| all.iter().map(|(_, message, _)| of(message)).collect::<Vec<_>>();
        let ids: Vec<Uuid> = all.iter().map(|(_, message, _)| message.id.0).collect();
        let seqs: Vec<i64> = all.iter().map(|(seq, ..)| seq.cast_signed()).collect();
        let times: Vec<i64> = all.iter().map(|(_, message, _)| message.received_at.0).collect();
        let dispositions: Vec<i16> = all
            .iter()
            .map(|(_, message, deliveries)| disposition(message, deliveries))
            .collect();
        let redacted: Vec<bool> = all
            .iter()
            .map(|(_, message, _)| message.redacted_at.is_some())
            .collect();
        let records = all.iter().map(|(_, message, _)| record::of_message(message));
        let records: Vec<Vec<u8>> = records.collect::<Result<_, _>>()?;
        let parameters: [&(dyn ToSql + Sync); 10] = [
            &ids,
            &seqs,
            &column(|message| message.source.to_string()),
            &column(|message| record::indexed(message.from.normal())),
            &column(|message| record::indexed(message.to.normal())),
            &column(|message| record::folded(&message.text)),
            &times,
            &dispositions,
            &redacted,
            &records,
        ];
        self.execute(ADD_MESSAGES, &parameters).await
    }

    async fn write_deliveries(&self, all: &[(u64, Message, Vec<Delivery>)]) -> Result<(), ImportError> {
        let each = || {
            all.iter().flat_map(|(seq, message, deliveries)| {
                deliveries
                    .iter()
                    .map(move |delivery| (seq, message.conversation(), delivery))
            })
        };
        let ids: Vec<Uuid> = each().map(|(.., delivery)| delivery.id.message.0).collect();
        let ordinals: Vec<i16> = each().map(|(.., delivery)| ordinal(delivery.id)).collect();
        let seqs: Vec<i64> = each().map(|(seq, ..)| seq.cast_signed()).collect();
        let destinations: Vec<&str> = each()
            .map(|(.., delivery)| delivery.destination.as_str())
            .collect();
        let conversations: Vec<Vec<u8>> = each()
            .map(|(_, conversation, _)| conversation.0.to_vec())
            .collect();
        let queues: Vec<Vec<u8>> = each()
            .map(|(_, conversation, delivery)| delivery.queue(conversation).0.to_vec())
            .collect();
        let stages: Vec<i16> = each().map(|(.., delivery)| record::stage(delivery)).collect();
        let times: Vec<i64> = each().map(|(.., delivery)| due(delivery)).collect();
        let pending: Vec<i64> = each().map(|(.., delivery)| delivery.pending_since().0).collect();
        let records = each().map(|(.., delivery)| record::of_delivery(delivery));
        let records: Vec<Vec<u8>> = records.collect::<Result<_, _>>()?;
        let parameters: [&(dyn ToSql + Sync); 10] = [
            &ids,
            &ordinals,
            &seqs,
            &destinations,
            &conversations,
            &queues,
            &stages,
            &times,
            &pending,
            &records,
        ];
        self.execute(ADD_DELIVERIES, &parameters).await
    }

    async fn execute(
        &self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<(), ImportError> {
        let statement = self.connection.prepare_cached(sql).await?;
        self.connection.execute(&statement, parameters).await?;
        Ok(())
    }
}

/// How a message without a pending delivery is listed.
fn disposition(message: &Message, deliveries: &[Delivery]) -> i16 {
    match (deliveries.is_empty(), message.routes.is_empty()) {
        (true, false) => KEPT,
        (true, true) => UNROUTED,
        (false, true) => UNROUTED_DELIVERED,
        (false, false) => ROUTED,
    }
}
