//! The deliveries of messages, locked by a transaction, and the changes that it writes.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::{join4, join5};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::counters::Deltas;
use super::pool::Connection;
use super::record::{self, BEHIND, DELAYED, READY};
use super::trouble::Trouble;
use crate::model::delivery::{Delivery, DeliveryId, State};
use crate::model::message::{Conversation, MessageId, Name, Timestamp};
use crate::store::acknowledge::{acknowledged_by, covered};
use crate::store::{Ended, Error, MessageState, is_new, state_of};

/// All deliveries of the messages, in an order that two transactions share.
const LOCK: &str = "
    SELECT FROM delivery WHERE message = ANY($1::uuid[]) ORDER BY message, ordinal FOR UPDATE";

/// The same, together with the deliveries that [`PROMOTE`] will change: locked afterwards, they would be out of order.
const LOCK_WITH_NEXT: &str = "
    SELECT FROM delivery WHERE (message, ordinal) IN (
        SELECT d.message, d.ordinal FROM delivery d WHERE d.message = ANY($1::uuid[])
        UNION
        SELECT n.message, n.ordinal
        FROM unnest($2::text[], $3::bytea[]) AS q(destination, queue)
        CROSS JOIN LATERAL (
            SELECT e.message, e.ordinal FROM delivery e
            WHERE e.destination = q.destination AND e.queue = q.queue AND e.stage = 2
            ORDER BY e.seq, e.ordinal LIMIT 1
        ) n
    )
    ORDER BY message, ordinal FOR UPDATE";

/// Reads after the locks are held: another transaction may have added deliveries before.
const READ: &str = "
    SELECT d.message, d.ordinal, d.seq, d.stage, d.ended, d.conversation, d.queue, d.record, m.redacted
    FROM delivery d JOIN message m ON m.id = d.message
    WHERE d.message = ANY($1::uuid[]) ORDER BY d.message, d.ordinal";

/// A delivery that is ready about now is due at once (0), because the clocks of daemons may differ.
macro_rules! due_at {
    () => {
        "CASE WHEN i.stage = 0 AND abs(i.due_at - extract(epoch FROM statement_timestamp()) * 1000) < 86400000 THEN 0 \
            ELSE i.due_at END"
    };
}

const UPDATE: &str = concat!(
    "
    UPDATE delivery d SET
        queue = i.queue, stage = i.stage, ended = i.ended, due_at = ",
    due_at!(),
    ",
        pending_since = i.pending_since, record = i.record
    FROM unnest($1::uuid[], $2::smallint[], $3::bytea[], $4::smallint[], $5::smallint[], $6::bigint[], $7::bigint[],
                $8::bytea[])
        AS i(message, ordinal, queue, stage, ended, due_at, pending_since, record)
    WHERE d.message = i.message AND d.ordinal = i.ordinal"
);

const INSERT: &str = concat!(
    "
    INSERT INTO delivery (message, ordinal, queue, stage, ended, due_at, pending_since, record, seq, destination, conversation)
    SELECT i.message, i.ordinal, i.queue, i.stage, i.ended, ",
    due_at!(),
    ",
        i.pending_since, i.record, i.seq, i.destination, i.conversation
    FROM unnest($1::uuid[], $2::smallint[], $3::bytea[], $4::smallint[], $5::smallint[], $6::bigint[],
                $7::bigint[], $8::bytea[], $9::bigint[], $10::text[], $11::bytea[])
        AS i(message, ordinal, queue, stage, ended, due_at, pending_since, record, seq, destination, conversation)"
);

/// Makes the first delivery of each queue that is behind others ready to be looked at again. This is a statement after
/// the change that ended another one: a claim that marks deliveries holds a lock on the one they are behind.
pub(super) const PROMOTE: &str = "
    UPDATE delivery d SET stage = 0
    FROM (
        SELECT n.message, n.ordinal
        FROM unnest($1::text[], $2::bytea[]) AS q(destination, queue)
        CROSS JOIN LATERAL (
            SELECT e.message, e.ordinal FROM delivery e
            WHERE e.destination = q.destination AND e.queue = q.queue AND e.stage = 2
            ORDER BY e.seq, e.ordinal LIMIT 1
        ) n
    ) x
    WHERE d.message = x.message AND d.ordinal = x.ordinal AND d.stage = 2";

const THREADS: &str = "
    INSERT INTO thread (destination, conversation, root, at)
    SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::bigint[])
    ON CONFLICT (destination, conversation) DO UPDATE SET root = excluded.root, at = excluded.at";

/// The ordinal as a column.
pub(super) fn ordinal(id: DeliveryId) -> i16 {
    i16::try_from(id.ordinal).unwrap_or(i16::MAX)
}

/// When a pending delivery is due.
pub(super) fn due(delivery: &Delivery) -> i64 {
    match delivery.state {
        State::Waiting { due } => due.0,
        State::Delivered { .. } | State::Dead { .. } => 0,
    }
}

/// A queue or conversation as a column.
pub(super) fn conversation(column: &[u8]) -> Result<Conversation, Error> {
    let bytes = column.try_into();
    bytes
        .map(Conversation)
        .map_err(|_| Error::Failed("a conversation in the database is damaged".to_owned()))
}

/// A delivery of a locked message.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) delivery: Delivery,
    stage: i16,
    ended: i16,
    seq: i64,
    conversation: Conversation,
    /// Its stage and queue in the database; `None` if it is new.
    stored: Option<(i16, Conversation)>,
    is_changed: bool,
}

impl Row {
    /// Replaces the delivery. One that is due after `now` is looked at when it is due, any other one at once.
    pub(super) fn set(&mut self, delivery: Delivery, now: Timestamp) {
        self.stage = stage(&delivery, now);
        self.delivery = delivery;
        self.is_changed = true;
    }

    fn queue(&self) -> Conversation {
        self.delivery.queue(self.conversation)
    }

    /// The queue that the delivery has left, because it ended or became that of a recipient.
    fn left(&self) -> Option<Conversation> {
        let (stage, queue) = self.stored?;
        let is_left = stage <= BEHIND && (self.stage > BEHIND || self.queue() != queue);
        is_left.then_some(queue)
    }
}

fn stage(delivery: &Delivery, now: Timestamp) -> i16 {
    match delivery.state {
        State::Waiting { due } if due > now => DELAYED,
        State::Waiting { .. } => READY,
        _ => record::stage(delivery),
    }
}

/// A locked message.
#[derive(Clone, Debug)]
pub(super) struct Locked {
    /// Its deliveries, by ordinal.
    pub(super) rows: Vec<Row>,
    /// Its content was removed.
    pub(super) is_redacted: bool,
    pub(super) seq: i64,
    pub(super) conversation: Conversation,
    /// The largest ordinal of its deliveries, including those that cannot be read.
    pub(super) last: u16,
}

impl Locked {
    /// The index of a delivery.
    pub(super) fn position(&self, id: DeliveryId) -> Option<usize> {
        self.rows.iter().position(|row| row.delivery.id == id)
    }

    fn deliveries(&self) -> Vec<Delivery> {
        self.rows.iter().map(|row| row.delivery.clone()).collect()
    }

    /// Adds a delivery with the next ordinal, unless it is a fallback that is not needed.
    pub(super) fn follow_up(
        &mut self,
        id: MessageId,
        delivery: Delivery,
        now: Timestamp,
    ) -> Option<DeliveryId> {
        is_new(&delivery, &self.deliveries()).then(|| self.add(id, delivery, now))
    }

    /// Adds a delivery with the next ordinal.
    pub(super) fn add(&mut self, message: MessageId, mut delivery: Delivery, now: Timestamp) -> DeliveryId {
        self.last += 1;
        delivery.id = DeliveryId {
            message,
            ordinal: self.last,
        };
        let id = delivery.id;
        self.rows.push(Row {
            stage: stage(&delivery, now),
            delivery,
            ended: 0,
            seq: self.seq,
            conversation: self.conversation,
            stored: None,
            is_changed: true,
        });
        id
    }

    /// Acknowledges the dead deliveries that another one made up for.
    pub(super) fn cover(&mut self, at: Timestamp) {
        if self.rows.iter().all(|row| !row.delivery.is_dead()) {
            return;
        }
        for dead in covered(&self.deliveries(), at) {
            if let Some(row) = self.rows.iter_mut().find(|row| row.delivery.id == dead.id) {
                row.set(dead, at);
            }
        }
    }

    /// Acknowledges a dead delivery for an operator.
    pub(super) fn acknowledge(&mut self, index: usize, now: Timestamp) {
        let all = self.deliveries();
        if let Some(row) = self.rows.get_mut(index) {
            let by = acknowledged_by(&row.delivery, &all);
            row.set(row.delivery.clone().acknowledged(now, by), now);
        }
    }

    /// Called when a delivery has ended: counts the message if none is pending, once for each result.
    pub(super) fn count_ended(&mut self, index: usize, ended: &mut Ended) {
        let (bit, count) = match state_of(self.rows.iter().map(|row| &row.delivery)) {
            Some(MessageState::Delivered) => (1, &mut ended.delivered),
            Some(MessageState::Dead) => (2, &mut ended.dead),
            _ => return,
        };
        if self.rows.iter().any(|row| row.ended & bit != 0) {
            return;
        }
        if let Some(row) = self.rows.get_mut(index) {
            row.ended |= bit;
            row.is_changed = true;
            *count += 1;
        }
    }
}

/// Locked messages by id.
pub(super) type Messages = BTreeMap<MessageId, Locked>;

/// Queues as columns: destinations and queues.
pub(super) type Queues<'a> = (Vec<&'a str>, Vec<&'a [u8]>);

/// Begins a transaction and locks messages with their deliveries. `guard` is a further query of the same round trip, and
/// `leaving` are queues whose first deliveries may end. A delivery that cannot be read is left out, so that it does not
/// affect the others; the claim that finds it sets it aside.
pub(super) async fn lock(
    connection: &Connection,
    ids: &[Uuid],
    guard: (&'static str, &[&(dyn ToSql + Sync)]),
    leaving: &Queues<'_>,
) -> Result<(Messages, Vec<tokio_postgres::Row>), Trouble> {
    let has_next = !leaving.0.is_empty();
    let statements = (
        connection.prepare_cached(guard.0).await?,
        connection
            .prepare_cached(if has_next { LOCK_WITH_NEXT } else { LOCK })
            .await?,
        connection.prepare_cached(READ).await?,
    );
    let with_next: [&(dyn ToSql + Sync); 3] = [&ids, &leaving.0, &leaving.1];
    let lock = if has_next { &with_next[..] } else { &with_next[..1] };
    let (begun, guarded, locked, read) = join4(
        connection.begin(),
        connection.query(&statements.0, guard.1),
        connection.execute(&statements.1, lock),
        connection.query(&statements.2, &[&ids]),
    )
    .await;
    begun?;
    let guarded = guarded?;
    locked?;
    let mut messages = Messages::new();
    for row in read? {
        let (id, seq): (Uuid, i64) = (row.try_get(0)?, row.try_get(2)?);
        let (stage, queue) = (row.try_get(3)?, conversation(row.try_get(6)?)?);
        let conversation = conversation(row.try_get(5)?)?;
        let message = messages.entry(MessageId(id)).or_insert_with(|| Locked {
            rows: Vec::new(),
            is_redacted: false,
            seq,
            conversation,
            last: 0,
        });
        message.is_redacted = row.try_get(8)?;
        message.last = row.try_get::<_, i16>(1)?.cast_unsigned();
        let Ok(delivery) = record::delivery(row.try_get(7)?) else {
            continue;
        };
        message.rows.push(Row {
            delivery,
            stage,
            ended: row.try_get(4)?,
            seq,
            conversation,
            stored: Some((stage, queue)),
            is_changed: false,
        });
    }
    Ok((messages, guarded))
}

/// A change of the root of a conversation's thread.
pub(super) struct Root {
    pub(super) root: String,
    pub(super) at: Timestamp,
}

/// The roots of threads by destination and conversation, in the order in which every transaction writes them.
pub(super) type Roots = BTreeMap<(Name, Conversation), Root>;

/// The destinations that a transaction concerns.
#[derive(Default)]
pub(super) struct Touched {
    /// The messages with a changed delivery.
    pub(super) changed: BTreeSet<Name>,
    /// The messages with a pending one among them.
    pub(super) pending: BTreeSet<Name>,
    /// Those with a delivery that was behind another one, and may be the first of its queue now.
    pub(super) promoted: BTreeSet<Name>,
}

/// Writes the changed deliveries and commits.
pub(super) async fn commit(
    connection: &Connection,
    messages: &Messages,
    roots: &Roots,
    mut deltas: Deltas,
    (node, slot): (&str, i16),
) -> Result<Touched, Trouble> {
    let changed = messages.values().flat_map(|message| &message.rows);
    let (updated, created): (Vec<&Row>, Vec<&Row>) = changed
        .filter(|row| row.is_changed)
        .partition(|row| row.stored.is_some());
    let mut touched = Touched::default();
    let mut left = BTreeSet::new();
    for row in updated.iter().chain(&created) {
        let destination = &row.delivery.destination;
        deltas.moved(destination, row.stored.map(|(stage, _)| stage), Some(row.stage));
        if row.stage <= BEHIND {
            touched.pending.insert(destination.clone());
        }
        touched.changed.insert(destination.clone());
        if let Some(queue) = row.left() {
            left.insert((destination.clone(), queue));
        }
    }
    let (update, insert, promote, threads) = (
        connection.prepare_cached(UPDATE).await?,
        connection.prepare_cached(INSERT).await?,
        connection.prepare_cached(PROMOTE).await?,
        connection.prepare_cached(THREADS).await?,
    );
    Deltas::prepare(connection).await?;
    let updated = Columns::of(&updated)?;
    let created = Columns::of(&created)?;
    let queues = left;
    let left = {
        let (destinations, queues): (Vec<&str>, Vec<&[u8]>) = queues
            .iter()
            .map(|(destination, queue)| (destination.as_str(), &queue.0[..]))
            .unzip();
        (destinations, queues)
    };
    // The driver sends these in the order in which they are first polled, without waiting for the answers.
    let statements = join5(
        async {
            match updated.is_empty() {
                true => Ok(0),
                false => connection.execute(&update, &updated.changes()).await,
            }
        },
        async {
            match created.is_empty() {
                true => Ok(0),
                false => connection.execute(&insert, &created.all()).await,
            }
        },
        async {
            match left.0.is_empty() {
                true => Ok(0),
                false => connection.execute(&promote, &[&left.0, &left.1]).await,
            }
        },
        write_roots(connection, &threads, roots),
        async { deltas.write(connection, node, slot).await.map(|()| 0) },
    );
    let (statements, committed) = futures_util::future::join(statements, async {
        // A failed statement makes the server answer a COMMIT with a rollback.
        connection.batch_execute("COMMIT").await
    })
    .await;
    let (updated, created, promoted, threads, counted) = statements;
    // In the order in which they were sent: the first error is the cause of the others.
    updated?;
    created?;
    let promoted = promoted?;
    threads?;
    counted?;
    committed?;
    if promoted > 0 {
        touched.promoted = queues.into_iter().map(|(destination, _)| destination).collect();
    }
    Ok(touched)
}

async fn write_roots(
    connection: &Connection,
    statement: &tokio_postgres::Statement,
    roots: &Roots,
) -> Result<u64, tokio_postgres::Error> {
    if roots.is_empty() {
        return Ok(0);
    }
    let all: Vec<_> = roots.iter().collect();
    let destinations: Vec<&str> = all.iter().map(|((name, _), _)| name.as_str()).collect();
    let conversations: Vec<&[u8]> = all
        .iter()
        .map(|((_, conversation), _)| &conversation.0[..])
        .collect();
    let texts: Vec<&[u8]> = all.iter().map(|(_, root)| root.root.as_bytes()).collect();
    let times: Vec<i64> = all.iter().map(|(_, root)| root.at.0).collect();
    let parameters: [&(dyn ToSql + Sync); 4] = [&destinations, &conversations, &texts, &times];
    connection.execute(statement, &parameters).await
}

/// Deliveries as columns.
#[derive(Default)]
struct Columns {
    messages: Vec<Uuid>,
    ordinals: Vec<i16>,
    queues: Vec<Vec<u8>>,
    stages: Vec<i16>,
    ended: Vec<i16>,
    due: Vec<i64>,
    pending: Vec<i64>,
    records: Vec<Vec<u8>>,
    seqs: Vec<i64>,
    destinations: Vec<String>,
    conversations: Vec<Vec<u8>>,
}

impl Columns {
    fn of(rows: &[&Row]) -> Result<Self, Error> {
        let mut columns = Self::default();
        for row in rows {
            let delivery = &row.delivery;
            columns.messages.push(delivery.id.message.0);
            columns.ordinals.push(ordinal(delivery.id));
            columns.queues.push(row.queue().0.to_vec());
            columns.stages.push(row.stage);
            columns.ended.push(row.ended);
            columns.due.push(due(delivery));
            columns.pending.push(delivery.pending_since().0);
            columns.records.push(record::of_delivery(delivery)?);
            columns.seqs.push(row.seq);
            columns.destinations.push(delivery.destination.to_string());
            columns.conversations.push(row.conversation.0.to_vec());
        }
        Ok(columns)
    }

    fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    fn changes(&self) -> [&(dyn ToSql + Sync); 8] {
        [
            &self.messages,
            &self.ordinals,
            &self.queues,
            &self.stages,
            &self.ended,
            &self.due,
            &self.pending,
            &self.records,
        ]
    }

    fn all(&self) -> [&(dyn ToSql + Sync); 11] {
        let [messages, ordinals, queues, stages, ended, due, pending, records] = self.changes();
        let (seqs, destinations, conversations) = (&self.seqs, &self.destinations, &self.conversations);
        [
            messages,
            ordinals,
            queues,
            stages,
            ended,
            due,
            pending,
            records,
            seqs,
            destinations,
            conversations,
        ]
    }
}
