//! Accepting messages. The arrivals that gather while a transaction is committed are stored by the next one, which is a
//! single statement. It can be repeated after an answer was lost, because ids come from the caller.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use uuid::Uuid;

use super::gather::Committer;
use super::pool::Connection;
use super::record::{self, KEPT, ROUTED, UNROUTED, UNROUTED_DELIVERED};
use super::rows;
use super::shared::{Shared, Work};
use super::trouble::Trouble;
use super::wake::Notice;
use crate::model::message::{MessageId, Name};
use crate::store::backup::digest;
use crate::store::{Acceptance, Arrival, Error};

/// The first writer number for arrivals.
pub(super) const WRITERS: [i16; 2] = [0, 1];

/// Stores messages whose digests are unknown or too old, with their deliveries, and counts them. The digests are sorted,
/// so that two daemons with the same arrivals do not wait for each other. A row is `ok` if the message is stored, now or
/// by an earlier transaction whose answer was lost, and `fresh` if it is stored now.
///
/// The statement is its own transaction, so it sets what its commit waits for: behind a connection pooler, the session may
/// not be the one that was prepared. A delivery that is due about now is due at once (0), because the clocks of the
/// daemons that accept and deliver it may differ.
const ACCEPT: &str = "
    WITH durable AS MATERIALIZED (
        SELECT set_config('synchronous_commit', $21::text, true)
    ), input AS MATERIALIZED (
        SELECT i.*, nextval('message_seq') AS seq
        FROM unnest($3::uuid[], $4::bytea[], $5::bigint[], $6::text[], $7::text[], $8::text[], $9::text[],
                    $10::bigint[], $11::smallint[], $12::bytea[])
            AS i(id, digest, since, source, sender, receiver, folded, received_at, disposition, record)
    ), known AS (
        INSERT INTO seen AS s (digest, message, seq, received_at)
        SELECT digest, id, seq, received_at FROM input WHERE digest IS NOT NULL ORDER BY digest
        ON CONFLICT (digest) DO UPDATE SET
            message = excluded.message,
            seq = CASE WHEN s.message = excluded.message THEN s.seq ELSE excluded.seq END,
            received_at = excluded.received_at
        WHERE s.message = excluded.message
            OR s.received_at < (SELECT i.since FROM input i WHERE i.digest = excluded.digest)
        RETURNING s.message
    ), fresh AS (
        INSERT INTO message (id, seq, source, sender, receiver, folded, received_at, disposition, record)
        SELECT id, seq, source, sender, receiver, folded, received_at, disposition, record FROM input
        WHERE digest IS NULL OR id IN (SELECT message FROM known)
        ORDER BY seq
        ON CONFLICT (id) DO NOTHING
        RETURNING id, seq, disposition
    ), created AS (
        INSERT INTO delivery (message, ordinal, seq, destination, conversation, queue, stage, due_at, pending_since, record)
        SELECT d.message, d.ordinal, f.seq, d.destination, d.conversation, d.queue, 0,
            CASE WHEN NOT d.held AND abs(d.due_at - extract(epoch FROM statement_timestamp()) * 1000) < 86400000 THEN 0 ELSE d.due_at END,
            d.pending_since, d.record
        FROM unnest($13::uuid[], $14::smallint[], $15::text[], $16::bytea[], $17::bytea[], $18::bigint[], $19::bigint[],
                    $20::bytea[], $22::boolean[])
            AS d(message, ordinal, destination, conversation, queue, due_at, pending_since, record, held)
        JOIN fresh f ON f.id = d.message
        RETURNING destination
    ), counted AS (
        INSERT INTO counter AS c (node, slot, destination, accepted, created, pending, kept, unrouted)
        SELECT $1::text, $2::smallint, '', count(*), 0, 0, count(*) FILTER (WHERE disposition = 1), count(*) FILTER (WHERE disposition = 2)
        FROM fresh HAVING count(*) > 0
        UNION ALL
        SELECT $1::text, $2::smallint, destination, 0, count(*), count(*), 0, 0 FROM created GROUP BY destination
        ON CONFLICT (node, slot, destination) DO UPDATE SET
            accepted = c.accepted + excluded.accepted,
            created = c.created + excluded.created,
            pending = c.pending + excluded.pending,
            kept = c.kept + excluded.kept,
            unrouted = c.unrouted + excluded.unrouted
    )
    SELECT i.id,
        i.digest IS NULL OR i.id IN (SELECT message FROM known) AS ok,
        i.id IN (SELECT id FROM fresh) AS fresh
    FROM durable CROSS JOIN input i";

/// The messages that hold these digests.
const HOLDERS: &str = "SELECT digest, message FROM seen WHERE digest = ANY($1::bytea[])";

/// An arrival in its stored form.
pub(super) struct Prepared {
    arrival: Arrival,
    digest: Option<[u8; 16]>,
    disposition: i16,
    record: Vec<u8>,
    deliveries: Vec<Vec<u8>>,
}

impl Prepared {
    pub(super) fn new(arrival: Arrival) -> Result<Self, Error> {
        let message = &arrival.message;
        let digest = (!message.provider_id.is_empty()).then(|| digest(&message.source, &message.provider_id));
        let disposition = match (arrival.deliveries.is_empty(), message.routes.is_empty()) {
            (true, false) => KEPT,
            (true, true) => UNROUTED,
            (false, false) => ROUTED,
            (false, true) => UNROUTED_DELIVERED,
        };
        let record = record::of_message(message)?;
        let deliveries: Result<_, Error> = arrival.deliveries.iter().map(record::of_delivery).collect();
        Ok(Self {
            digest,
            disposition,
            record,
            deliveries: deliveries?,
            arrival,
        })
    }

    /// Messages of one conversation are stored in the order of their requests.
    pub(super) fn key(&self) -> u64 {
        u64::from_be_bytes(self.arrival.message.conversation().0)
    }

    fn id(&self) -> Uuid {
        self.arrival.message.id.0
    }
}

/// Stores arrivals.
pub(super) struct Accepting(pub(super) Arc<Shared>);

#[async_trait]
impl Committer for Accepting {
    type Change = Prepared;
    type Outcome = Acceptance;

    fn size(change: &Prepared) -> usize {
        change.record.len() + change.arrival.message.text.len()
    }

    async fn commit(
        &self,
        worker: i16,
        changes: &[Prepared],
        deadline: Instant,
    ) -> Vec<Result<Acceptance, Error>> {
        let mut outcomes: Vec<Option<Result<Acceptance, Error>>> = changes.iter().map(|_| None).collect();
        // Of several arrivals with one digest, the first is stored, and decides about the others.
        while outcomes.iter().any(Option::is_none) {
            let (leaders, followers) = divide(changes, &outcomes);
            let group = Group {
                shared: &self.0,
                slot: worker,
                arrivals: leaders.iter().filter_map(|&index| changes.get(index)).collect(),
            };
            let stored = match self.0.repeat(&group, deadline).await {
                Ok(stored) => stored,
                Err(error) => {
                    let failed = || Err(error.clone());
                    return outcomes
                        .into_iter()
                        .map(|outcome| outcome.unwrap_or_else(failed))
                        .collect();
                }
            };
            for (&index, acceptance) in leaders.iter().zip(&stored) {
                outcomes[index] = acceptance.map(Ok);
            }
            for (index, leader) in followers {
                let decided = outcomes[leader]
                    .as_ref()
                    .and_then(|decided| decided.as_ref().ok());
                outcomes[index] = follow(&changes[index], &changes[leader], decided.copied()).map(Ok);
            }
        }
        self.after(changes, &outcomes);
        let unknown = || Err(Error::Failed("the database returned no result".to_owned()));
        outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or_else(unknown))
            .collect()
    }
}

impl Accepting {
    /// Tells the daemons that serve the destinations of new messages.
    fn after(&self, changes: &[Prepared], outcomes: &[Option<Result<Acceptance, Error>>]) {
        let stored = changes.iter().zip(outcomes);
        let stored = stored.filter(|(_, outcome)| matches!(outcome, Some(Ok(Acceptance::New))));
        let names: std::collections::BTreeSet<&Name> = stored
            .flat_map(|(change, _)| &change.arrival.deliveries)
            .map(|delivery| &delivery.destination)
            .collect();
        for name in names {
            self.0.announce(Notice::Work(name.clone()));
        }
    }
}

/// The undecided arrivals: those to store, and those with the digest of one of them, with its index.
fn divide(
    changes: &[Prepared],
    outcomes: &[Option<Result<Acceptance, Error>>],
) -> (Vec<usize>, Vec<(usize, usize)>) {
    let (mut leaders, mut followers) = (Vec::new(), Vec::new());
    let (mut by_digest, mut by_id) = (HashMap::new(), HashMap::new());
    let undecided = outcomes
        .iter()
        .enumerate()
        .filter(|(_, outcome)| outcome.is_none());
    for (index, _) in undecided {
        let change = &changes[index];
        let same = change.digest.and_then(|digest| by_digest.get(&digest).copied());
        match same.or_else(|| by_id.get(&change.id()).copied()) {
            Some(leader) => followers.push((index, leader)),
            None => {
                leaders.push(index);
                by_id.insert(change.id(), index);
                change.digest.map(|digest| by_digest.insert(digest, index));
            }
        }
    }
    (leaders, followers)
}

/// The result for a later arrival with the same digest. `None`: it must be queried.
fn follow(later: &Prepared, leader: &Prepared, decided: Option<Acceptance>) -> Option<Acceptance> {
    let (message, since) = (&leader.arrival.message, later.arrival.dedup_since);
    match decided? {
        _ if later.id() == leader.id() => decided,
        Acceptance::New => (message.received_at >= since).then_some(Acceptance::Duplicate(message.id)),
        Acceptance::Duplicate(id) => {
            (since <= leader.arrival.dedup_since).then_some(Acceptance::Duplicate(id))
        }
    }
}

/// Arrivals without equal digests.
struct Group<'a> {
    shared: &'a Shared,
    slot: i16,
    arrivals: Vec<&'a Prepared>,
}

impl Work for Group<'_> {
    /// For each arrival the result, or `None` if another message held its digest and does not any more.
    type Output = Vec<Option<Acceptance>>;

    async fn run(&self, connection: &Connection) -> Result<Self::Output, Trouble> {
        let (stored, fresh) = self.store(connection).await?;
        self.shared.monitor.has_room();
        self.shared
            .totals
            .accepted(self.arrivals.iter().filter_map(|arrival| {
                let is_fresh = fresh.get(&arrival.id()).copied().unwrap_or_default();
                is_fresh.then_some(arrival.disposition)
            }));
        let is_stored = |arrival: &Prepared| stored.get(&arrival.id()).copied().unwrap_or_default();
        let repeated: Vec<&[u8]> = self
            .arrivals
            .iter()
            .filter(|arrival| !is_stored(arrival))
            .filter_map(|arrival| arrival.digest.as_ref().map(|digest| &digest[..]))
            .collect();
        let mut holders = HashMap::new();
        if !repeated.is_empty() {
            let statement = connection.prepare_cached(HOLDERS).await?;
            for row in connection.query(&statement, &[&repeated]).await? {
                let (digest, message): (Vec<u8>, Uuid) = (row.try_get(0)?, row.try_get(1)?);
                holders.insert(digest, MessageId(message));
            }
        }
        let result = |arrival: &&Prepared| {
            if is_stored(arrival) {
                return Some(Acceptance::New);
            }
            let holder = arrival.digest.and_then(|digest| holders.get(&digest[..]));
            holder.map(|id| Acceptance::Duplicate(*id))
        };
        Ok(self.arrivals.iter().map(result).collect())
    }
}

impl Group<'_> {
    async fn store(
        &self,
        connection: &Connection,
    ) -> Result<(HashMap<Uuid, bool>, HashMap<Uuid, bool>), Trouble> {
        let arrivals = || self.arrivals.iter().copied();
        let messages = || arrivals().map(|arrival| &arrival.arrival.message);
        let ids: Vec<Uuid> = arrivals().map(Prepared::id).collect();
        let digests: Vec<Option<&[u8]>> = arrivals()
            .map(|arrival| arrival.digest.as_ref().map(|digest| &digest[..]))
            .collect();
        let since: Vec<i64> = arrivals().map(|arrival| arrival.arrival.dedup_since.0).collect();
        let sources: Vec<&str> = messages().map(|message| message.source.as_str()).collect();
        let senders: Vec<String> = messages()
            .map(|message| record::indexed(message.from.normal()))
            .collect();
        let receivers: Vec<String> = messages()
            .map(|message| record::indexed(message.to.normal()))
            .collect();
        let folded: Vec<String> = messages().map(|message| record::folded(&message.text)).collect();
        let received: Vec<i64> = messages().map(|message| message.received_at.0).collect();
        let dispositions: Vec<i16> = arrivals().map(|arrival| arrival.disposition).collect();
        let records: Vec<&[u8]> = arrivals().map(|arrival| &arrival.record[..]).collect();

        let deliveries = || {
            arrivals().flat_map(|arrival| {
                let conversation = arrival.arrival.message.conversation();
                let own = arrival.arrival.deliveries.iter().zip(&arrival.deliveries);
                own.map(move |(delivery, record)| (conversation, delivery, record))
            })
        };
        let of: Vec<Uuid> = deliveries()
            .map(|(_, delivery, _)| delivery.id.message.0)
            .collect();
        let ordinals: Vec<i16> = deliveries()
            .map(|(_, delivery, _)| rows::ordinal(delivery.id))
            .collect();
        let destinations: Vec<&str> = deliveries()
            .map(|(_, delivery, _)| delivery.destination.as_str())
            .collect();
        let conversations: Vec<Vec<u8>> = deliveries()
            .map(|(conversation, ..)| conversation.0.to_vec())
            .collect();
        let queues: Vec<Vec<u8>> = deliveries()
            .map(|(conversation, delivery, _)| delivery.queue(conversation).0.to_vec())
            .collect();
        let due: Vec<i64> = deliveries().map(|(_, delivery, _)| rows::due(delivery)).collect();
        let pending: Vec<i64> = deliveries()
            .map(|(_, delivery, _)| delivery.pending_since().0)
            .collect();
        let held: Vec<bool> = deliveries()
            .map(|(_, delivery, _)| delivery.hold().is_some())
            .collect();
        let bodies: Vec<&[u8]> = deliveries().map(|(.., record)| &record[..]).collect();

        let statement = connection.prepare_cached(ACCEPT).await?;
        let rows = connection
            .query(
                &statement,
                &[
                    &self.shared.node,
                    &self.slot,
                    &ids,
                    &digests,
                    &since,
                    &sources,
                    &senders,
                    &receivers,
                    &folded,
                    &received,
                    &dispositions,
                    &records,
                    &of,
                    &ordinals,
                    &destinations,
                    &conversations,
                    &queues,
                    &due,
                    &pending,
                    &bodies,
                    &connection.durability(),
                    &held,
                ],
            )
            .await?;
        let (mut stored, mut fresh) = (HashMap::new(), HashMap::new());
        for row in rows {
            let id: Uuid = row.try_get(0)?;
            stored.insert(id, row.try_get(1)?);
            fresh.insert(id, row.try_get(2)?);
        }
        Ok((stored, fresh))
    }
}
