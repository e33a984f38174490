//! Retention: removes and redacts messages in limited steps. Of several daemons, one performs a step at a time.

use std::collections::BTreeMap;

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::counters::Deltas;
use super::phase::{Phase, Place};
use super::pool::Connection;
use super::record::{self, BEHIND, KEPT, UNROUTED};
use super::shared::{Shared, Work};
use super::states::name;
use super::trouble::Trouble;
use crate::model::message::Timestamp;
use crate::store::{Error, RetentionCutoffs, redacted};

/// The number of messages in a step.
const STEP: i64 = 500;

/// The writer of the counters.
const SLOT: i16 = 90;

/// The advisory lock of a step: `smsretai` in ASCII.
const LOCK: i64 = 0x736d_7372_6574_6169;

/// The next messages in the order of their receipt.
pub(super) const NEXT: &str = "
    SELECT id, received_at FROM message
    WHERE redacted = $1 AND (received_at, id) > ($2, $3) AND received_at < $4
    ORDER BY received_at, id LIMIT $5";

/// Those without a pending delivery. Those that another transaction has locked are left for the next time.
const ENDED: &str = "
    SELECT m.id, m.disposition, m.record FROM message m
    WHERE m.id = ANY($1::uuid[]) AND NOT EXISTS (SELECT FROM delivery d WHERE d.message = m.id AND d.stage < 3)
    ORDER BY m.id FOR UPDATE OF m SKIP LOCKED";

/// Locks the deliveries; one may be pending again by now.
const LOCK_DELIVERIES: &str = "
    SELECT message, destination, stage FROM delivery WHERE message = ANY($1::uuid[])
    ORDER BY message, ordinal FOR UPDATE";

const REMOVE_DELIVERIES: &str = "DELETE FROM delivery WHERE message = ANY($1::uuid[])";
const REMOVE_MESSAGES: &str = "DELETE FROM message WHERE id = ANY($1::uuid[])";

const REDACT: &str = "
    UPDATE message m SET redacted = true, folded = '', sender = i.sender, receiver = i.receiver, record = i.record
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[]) AS i(id, sender, receiver, record)
    WHERE m.id = i.id";

const FORGET: &str = "
    DELETE FROM seen WHERE digest = ANY (ARRAY(
        SELECT digest FROM seen WHERE received_at < $1 ORDER BY received_at LIMIT $2 FOR UPDATE SKIP LOCKED))";

const REMOVE_THREADS: &str = "
    DELETE FROM thread t USING (
        SELECT destination, conversation FROM thread WHERE at < $1 ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED
    ) old
    WHERE t.destination = old.destination AND t.conversation = old.conversation";

impl Shared {
    /// Performs one step. Returns true if there is more to do.
    pub(super) async fn prune(&self, cutoffs: &RetentionCutoffs, now: Timestamp) -> Result<bool, Error> {
        let phase = *self.retention.phase();
        let step = Step {
            shared: self,
            cutoffs: *cutoffs,
            now,
            phase,
        };
        let next = match self.once(&step).await? {
            // Another daemon is at work.
            None => None,
            Some(done) => {
                self.totals.add_undelivered(-done.kept, -done.unrouted);
                phase.after(done.reached)
            }
        };
        *self.retention.phase() = next.unwrap_or_default();
        Ok(next.is_some())
    }
}

/// The result of a step.
#[derive(Default)]
struct Done {
    /// The message up to which was read; `None` if none is left.
    reached: Option<Place>,
    kept: i64,
    unrouted: i64,
}

struct Step<'s> {
    shared: &'s Shared,
    cutoffs: RetentionCutoffs,
    now: Timestamp,
    phase: Phase,
}

impl Work for Step<'_> {
    /// `None` if another daemon performs a step.
    type Output = Option<Done>;

    async fn run(&self, connection: &Connection) -> Result<Option<Done>, Trouble> {
        connection.begin().await?;
        let statement = connection
            .prepare_cached("SELECT pg_try_advisory_xact_lock($1)")
            .await?;
        let is_alone: bool = connection.query_one(&statement, &[&LOCK]).await?.try_get(0)?;
        let done = match is_alone {
            true => Some(self.perform(connection).await?),
            false => None,
        };
        connection.batch_execute("COMMIT").await?;
        Ok(done)
    }
}

/// A message that a step can remove or redact.
struct Ended {
    disposition: i16,
    record: Vec<u8>,
    /// Destination and stage of its deliveries.
    deliveries: Vec<(String, i16)>,
}

impl Step<'_> {
    async fn perform(&self, connection: &Connection) -> Result<Done, Trouble> {
        let RetentionCutoffs {
            purge_before,
            redact_before,
            dedup_before,
        } = self.cutoffs;
        match self.phase {
            Phase::Purge { redacted, from } => match purge_before {
                Some(before) => self.purge(connection, (redacted, from, before)).await,
                None => Ok(Done::default()),
            },
            Phase::Redact { from } => match redact_before {
                Some(before) => self.redact(connection, (false, from, before)).await,
                None => Ok(Done::default()),
            },
            Phase::Forget => remove(connection, FORGET, dedup_before).await,
            Phase::Threads => match purge_before {
                Some(before) => remove(connection, REMOVE_THREADS, before).await,
                None => Ok(Done::default()),
            },
        }
    }

    async fn purge(&self, connection: &Connection, which: (bool, Place, Timestamp)) -> Result<Done, Trouble> {
        let (messages, reached) = ended(connection, which).await?;
        let mut done = Done {
            reached,
            ..Done::default()
        };
        let mut deltas = Deltas::default();
        for message in messages.values() {
            for (destination, stage) in &message.deliveries {
                deltas.moved(&name(destination)?, Some(*stage), None);
            }
            done.kept += i64::from(message.disposition == KEPT);
            done.unrouted += i64::from(message.disposition == UNROUTED);
        }
        let sums = deltas.messages();
        sums.messages_purged += i64::try_from(messages.len()).unwrap_or(i64::MAX);
        sums.kept -= done.kept;
        sums.unrouted -= done.unrouted;
        let ids: Vec<Uuid> = messages.into_keys().collect();
        execute(connection, REMOVE_DELIVERIES, &[&ids]).await?;
        execute(connection, REMOVE_MESSAGES, &[&ids]).await?;
        deltas.write(connection, &self.shared.node, SLOT).await?;
        Ok(done)
    }

    async fn redact(
        &self,
        connection: &Connection,
        which: (bool, Place, Timestamp),
    ) -> Result<Done, Trouble> {
        let (messages, reached) = ended(connection, which).await?;
        let (mut senders, mut receivers, mut records) = (Vec::new(), Vec::new(), Vec::new());
        let mut ids = Vec::new();
        for (id, message) in messages {
            // One that cannot be read stays until it is removed.
            let Ok(message) = record::message(&message.record) else {
                continue;
            };
            let message = redacted(message, self.now);
            ids.push(id);
            senders.push(record::indexed(message.from.normal()));
            receivers.push(record::indexed(message.to.normal()));
            records.push(record::of_message(&message)?);
        }
        execute(connection, REDACT, &[&ids, &senders, &receivers, &records]).await?;
        Ok(Done {
            reached,
            ..Done::default()
        })
    }
}

/// Messages received in a range of time that have ended, locked with their deliveries; and the last message that was read,
/// unless it is the last one of all.
async fn ended(
    connection: &Connection,
    (redacted, from, before): (bool, Place, Timestamp),
) -> Result<(BTreeMap<Uuid, Ended>, Option<Place>), Trouble> {
    let statement = connection.prepare_cached(NEXT).await?;
    let rows = connection
        .query(&statement, &[&redacted, &from.0, &from.1, &before.0, &STEP])
        .await?;
    let next: Result<Vec<(Uuid, i64)>, Trouble> = rows
        .iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect();
    let next = next?;
    let is_last = i64::try_from(next.len()).is_ok_and(|count| count < STEP);
    let reached = next.last().map(|(id, received_at)| (*received_at, *id));
    let ids: Vec<Uuid> = next.into_iter().map(|(id, _)| id).collect();
    let mut messages = BTreeMap::new();
    let statement = connection.prepare_cached(ENDED).await?;
    for row in connection.query(&statement, &[&ids]).await? {
        let message = Ended {
            disposition: row.try_get(1)?,
            record: row.try_get(2)?,
            deliveries: Vec::new(),
        };
        messages.insert(row.try_get::<_, Uuid>(0)?, message);
    }
    let ids: Vec<Uuid> = messages.keys().copied().collect();
    let statement = connection.prepare_cached(LOCK_DELIVERIES).await?;
    for row in connection.query(&statement, &[&ids]).await? {
        let (id, stage): (Uuid, i16) = (row.try_get(0)?, row.try_get(2)?);
        if stage <= BEHIND {
            messages.remove(&id);
        } else if let Some(message) = messages.get_mut(&id) {
            message.deliveries.push((row.try_get(1)?, stage));
        }
    }
    Ok((messages, reached.filter(|_| !is_last)))
}

/// Removes what is older.
async fn remove(connection: &Connection, sql: &'static str, before: Timestamp) -> Result<Done, Trouble> {
    let removed = execute(connection, sql, &[&before.0, &STEP]).await?;
    Ok(Done {
        reached: (removed >= STEP.cast_unsigned()).then_some((before.0, Uuid::nil())),
        ..Done::default()
    })
}

async fn execute(
    connection: &Connection,
    sql: &'static str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<u64, Trouble> {
    let statement = connection.prepare_cached(sql).await?;
    Ok(connection.execute(&statement, parameters).await?)
}
