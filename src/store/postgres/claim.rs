//! Claims. Only the daemon that owns the lane of a destination claims from it, so leases stay in its memory, and the usual
//! claim reads and writes nothing. A delivery that is found behind another one of its queue, or is due later, is marked so
//! that it is not looked at again until that changes.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Instant;

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::ahead::{Ahead, Candidate};
use super::gather::WAIT;
use super::lanes::Turn;
use super::leases::Lease;
use super::pool::Connection;
use super::rows::{conversation, ordinal};
use super::shared::{Shared, Work};
use super::trouble::Trouble;
use super::{Postgres, record};
use crate::model::delivery::DeliveryId;
use crate::model::message::{Conversation, MessageId, Name, Timestamp};
use crate::store::{CLAIM_BYTES, Claim, Error, Overdue};

/// The number of deliveries to read ahead, so that the next claims need no look, and the size of their messages.
const AHEAD: usize = 128;
const AHEAD_BYTES: usize = 1 << 20;

/// Upper bound of the looks of one claim. Each marks deliveries, so the next claim continues behind them.
const LOOKS: usize = 32;

/// The least number of deliveries to look at: with a limit of one, a conversation with many messages would take a look for
/// each of them.
const LEAST: usize = 16;

/// The next deliveries of a destination in the order of acceptance, after a position: ready ones, delayed ones that are
/// due, and the first ones of queues in which all before them were answered. With each, the first unanswered delivery
/// that is before it in its queue; and unless there is one, the message, and whether the queue continues after it.
pub(super) const NEXT: &str = "
    WITH claimed AS MATERIALIZED (SELECT * FROM unnest($5::uuid[], $6::smallint[]) AS c(message, ordinal)),
    answered AS MATERIALIZED (SELECT * FROM unnest($7::uuid[], $8::smallint[]) AS a(message, ordinal)),
    candidate AS (
        (
            SELECT d.message, d.ordinal, d.seq, d.stage, d.due_at, d.queue, d.conversation, d.record FROM delivery d
            WHERE d.destination = $1 AND d.stage = 0 AND (d.seq, d.ordinal) > ($3, $4) AND NOT EXISTS (
                SELECT FROM claimed c WHERE c.message = d.message AND c.ordinal = d.ordinal)
            ORDER BY d.seq, d.ordinal LIMIT $9
        ) UNION ALL (
            SELECT * FROM (
                SELECT d.message, d.ordinal, d.seq, d.stage, d.due_at, d.queue, d.conversation, d.record FROM delivery d
                WHERE d.destination = $1 AND d.stage = 1 AND d.due_at <= $2 AND $3 < 0 AND NOT EXISTS (
                    SELECT FROM claimed c WHERE c.message = d.message AND c.ordinal = d.ordinal)
                ORDER BY d.due_at LIMIT 512
            ) due
            ORDER BY seq, ordinal LIMIT $9
        ) UNION ALL (
            SELECT n.* FROM unnest($10::bytea[]) AS q(queue)
            CROSS JOIN LATERAL (
                SELECT d.message, d.ordinal, d.seq, d.stage, d.due_at, d.queue, d.conversation, d.record FROM delivery d
                WHERE d.destination = $1 AND d.queue = q.queue AND d.stage < 3 AND NOT EXISTS (
                    SELECT FROM answered a WHERE a.message = d.message AND a.ordinal = d.ordinal)
                ORDER BY d.seq, d.ordinal LIMIT 1
            ) n
            WHERE n.stage = 2 AND $3 < 0 AND NOT EXISTS (
                SELECT FROM claimed c WHERE c.message = n.message AND c.ordinal = n.ordinal)
        )
    ), looked AS (
        SELECT c.*, b.message AS blocker, b.ordinal AS blocker_ordinal,
            b.message IS NULL AND EXISTS (
                SELECT FROM delivery e
                WHERE e.destination = $1 AND e.queue = c.queue AND e.stage < 3
                    AND (e.seq, e.ordinal) > (c.seq, c.ordinal)
            ) AS followed
        FROM (SELECT * FROM candidate ORDER BY seq, ordinal LIMIT $9) c
        LEFT JOIN LATERAL (
            SELECT e.message, e.ordinal FROM delivery e
            WHERE e.destination = $1 AND e.queue = c.queue AND e.stage < 3 AND (e.seq, e.ordinal) < (c.seq, c.ordinal)
                AND NOT EXISTS (SELECT FROM answered a WHERE a.message = e.message AND a.ordinal = e.ordinal)
            ORDER BY e.seq, e.ordinal LIMIT 1
        ) b ON true
    ), found AS (
        SELECT l.*, m.record AS content, t.root,
            COALESCE(sum(octet_length(m.record)) OVER (
                ORDER BY l.seq, l.ordinal ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
        FROM looked l
        LEFT JOIN message m ON $11 AND l.blocker IS NULL AND l.due_at <= $2 AND m.id = l.message
        LEFT JOIN thread t ON m.id IS NOT NULL AND t.destination = $1 AND t.conversation = l.conversation
    )
    SELECT message, ordinal, seq, stage, due_at, queue, blocker, blocker_ordinal, record,
        CASE WHEN before < $12 THEN content END AS content, root, followed, conversation
    FROM found ORDER BY seq, ordinal";

/// Marks deliveries that are behind others. The lock on those makes a transaction that ends one of them wait, and then
/// find what it has to make ready. One that meanwhile became the delivery of a single recipient is in another queue. All
/// of them are locked in the order in which other transactions lock deliveries.
const BEHIND: &str = "
    WITH locked AS MATERIALIZED (
        SELECT e.message, e.ordinal, e.destination, e.queue FROM delivery e
        WHERE (e.message, e.ordinal) IN (
                SELECT * FROM unnest($1::uuid[], $2::smallint[]) UNION SELECT * FROM unnest($3::uuid[], $4::smallint[])
            ) AND e.stage < 3
        ORDER BY e.message, e.ordinal
        FOR NO KEY UPDATE
    )
    UPDATE delivery d SET stage = 2
    FROM unnest($1::uuid[], $2::smallint[], $3::uuid[], $4::smallint[]) AS i(message, ordinal, blocker, blocker_ordinal)
    WHERE d.message = i.message AND d.ordinal = i.ordinal AND d.stage < 2
        AND (i.blocker, i.blocker_ordinal, d.destination, d.queue)
            IN (SELECT message, ordinal, destination, queue FROM locked)";

/// Marks deliveries that are due later.
const DELAYED: &str = "
    UPDATE delivery d SET stage = 1
    FROM unnest($1::uuid[], $2::smallint[]) AS i(message, ordinal)
    WHERE d.message = i.message AND d.ordinal = i.ordinal AND d.stage = 0 AND d.due_at > $3";

/// When the next delayed delivery is due.
pub(super) const NEXT_DUE: &str = "
    SELECT d.due_at FROM delivery d
    WHERE d.destination = $1 AND d.stage = 1 AND NOT EXISTS (
        SELECT FROM unnest($2::uuid[], $3::smallint[]) AS c(message, ordinal)
        WHERE c.message = d.message AND c.ordinal = d.ordinal)
    ORDER BY d.due_at LIMIT 1";

/// Unclaimed deliveries that are the first of their queues and have been pending since a time in a range.
const OLD: &str = "
    SELECT * FROM (
        SELECT d.message, d.ordinal, d.seq, d.queue, d.record, d.conversation FROM delivery d
        WHERE d.destination = $1 AND d.stage < 3 AND d.pending_since BETWEEN $2 AND $3
            AND NOT EXISTS (
                SELECT FROM unnest($4::uuid[], $5::smallint[]) AS c(message, ordinal)
                WHERE c.message = d.message AND c.ordinal = d.ordinal)
            AND NOT EXISTS (
                SELECT FROM delivery e
                WHERE e.destination = $1 AND e.queue = d.queue AND e.stage < 3 AND (e.seq, e.ordinal) < (d.seq, d.ordinal)
                    AND NOT EXISTS (
                        SELECT FROM unnest($6::uuid[], $7::smallint[]) AS a(message, ordinal)
                        WHERE a.message = e.message AND a.ordinal = e.ordinal))
        ORDER BY d.pending_since LIMIT $8
    ) old
    ORDER BY seq, ordinal";

/// Whether a queue has a pending delivery after this one.
const FOLLOWED: &str = "
    SELECT EXISTS (
        SELECT FROM delivery d JOIN delivery e ON e.destination = d.destination AND e.queue = $3 AND e.stage < 3
            AND (e.seq, e.ordinal) > (d.seq, d.ordinal)
        WHERE d.message = $1 AND d.ordinal = $2
    )";

/// The claims made so far.
struct Claims {
    all: Vec<Claim>,
    /// Deliveries that cannot be read, and why.
    damaged: Vec<(Lease, Error)>,
    limit: usize,
    room: usize,
}

impl Claims {
    fn new(limit: usize) -> Self {
        Self {
            all: Vec::new(),
            damaged: Vec::new(),
            limit,
            room: CLAIM_BYTES,
        }
    }

    fn missing(&self) -> usize {
        self.limit.saturating_sub(self.all.len())
    }

    fn is_full(&self) -> bool {
        self.missing() == 0 || self.room == 0
    }

    fn add(&mut self, claim: Claim) {
        self.room = self.room.saturating_sub(claim.message.size().max(1));
        self.all.push(claim);
    }
}

/// One look at the next deliveries of a destination.
struct Look<'a> {
    shared: &'a Shared,
    destination: &'a Name,
    now: Timestamp,
    after: (i64, i16),
    limit: usize,
    /// Whether the messages are needed.
    with_content: bool,
    room: usize,
}

impl Work for Look<'_> {
    type Output = Vec<Candidate>;

    /// Also marks what is behind others, or due later.
    async fn run(&self, connection: &Connection) -> Result<Vec<Candidate>, Trouble> {
        let name = self.destination.as_str();
        let (claimed, answered, open) = {
            let leases = self.shared.leases();
            (
                leases.claimed(self.destination),
                leases.answered(self.destination),
                leases.open_queues(self.destination),
            )
        };
        let (limit, room) = (number(self.limit), number(self.room));
        let parameters: [&(dyn ToSql + Sync); 12] = [
            &name,
            &self.now.0,
            &self.after.0,
            &self.after.1,
            &claimed.0,
            &claimed.1,
            &answered.0,
            &answered.1,
            &limit,
            &open,
            &self.with_content,
            &room,
        ];
        let statement = connection.prepare_cached(NEXT).await?;
        let rows = connection.query(&statement, &parameters).await?;
        let candidates: Result<Vec<_>, _> = rows.iter().map(Candidate::read).collect();
        let candidates = candidates?;
        self.mark_behind(connection, &candidates).await?;
        self.mark_delayed(connection, &candidates).await?;
        Ok(candidates)
    }
}

impl Look<'_> {
    async fn mark_behind(&self, connection: &Connection, all: &[Candidate]) -> Result<(), Trouble> {
        let behind = all.iter().filter_map(|one| Some((one, one.blocker?)));
        let (mut ids, mut ordinals, mut blockers, mut their_ordinals) = (vec![], vec![], vec![], vec![]);
        for (one, blocker) in behind {
            self.shared.leases().follow((self.destination.clone(), one.queue));
            ids.push(one.id.message.0);
            ordinals.push(ordinal(one.id));
            blockers.push(blocker.0);
            their_ordinals.push(blocker.1);
        }
        if !ids.is_empty() {
            let statement = connection.prepare_cached(BEHIND).await?;
            let parameters: [&(dyn ToSql + Sync); 4] = [&ids, &ordinals, &blockers, &their_ordinals];
            connection.execute(&statement, &parameters).await?;
        }
        Ok(())
    }

    async fn mark_delayed(&self, connection: &Connection, all: &[Candidate]) -> Result<(), Trouble> {
        let is_delayed =
            |one: &&Candidate| one.blocker.is_none() && one.stage == record::READY && one.due > self.now;
        let delayed = all.iter().filter(is_delayed);
        let (ids, ordinals): (Vec<Uuid>, Vec<i16>) =
            delayed.map(|one| (one.id.message.0, ordinal(one.id))).unzip();
        if !ids.is_empty() {
            let statement = connection.prepare_cached(DELAYED).await?;
            let parameters: [&(dyn ToSql + Sync); 3] = [&ids, &ordinals, &self.now.0];
            connection.execute(&statement, &parameters).await?;
        }
        Ok(())
    }
}

impl Turn {
    fn lease(
        &self,
        destination: &Name,
        id: DeliveryId,
        (queue, conversation): (Conversation, Conversation),
    ) -> Lease {
        Lease {
            id,
            queue: (destination.clone(), queue),
            conversation,
            epoch: self.epoch,
            is_answered: false,
        }
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The position before all others.
const START: (i64, i16) = (-1, -1);

impl Postgres {
    pub(super) async fn claim_due(
        &self,
        destination: &Name,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<Claim>, Error> {
        let Some(lane) = self.shared.lanes.claimable(destination).await else {
            return Ok(Vec::new());
        };
        let (mut ahead, _claiming) = (lane.turn.lock().await, self.shared.claiming.read().await);
        let mut claims = Claims::new(limit);
        let version = self.shared.lanes.version(destination);
        ahead.refresh(lane.epoch, version);
        let result = self
            .fill(&lane, destination, &mut ahead, (version, now), &mut claims)
            .await;
        let Claims {
            all: mut claims,
            damaged,
            ..
        } = claims;
        self.set_all_aside(damaged).await;
        // While the database answered slowly, the lease may have ended.
        if !self.shared.lanes.holds(destination, lane.epoch) {
            for claim in claims.drain(..) {
                self.shared.leases().end(claim.token);
            }
        }
        // What was claimed before an error is delivered; the error comes again if it lasts.
        match result {
            Err(error) if claims.is_empty() => Err(error),
            _ => Ok(claims),
        }
    }

    /// Claims from what was read ahead, and looks for more until there are enough.
    async fn fill(
        &self,
        lane: &Turn,
        destination: &Name,
        ahead: &mut Ahead,
        (version, now): (u64, Timestamp),
        claims: &mut Claims,
    ) -> Result<(), Error> {
        self.take(lane, destination, ahead, now, claims);
        if !claims.is_full() {
            ahead.restart(lane.epoch, version);
        }
        let mut after = START;
        for _ in 0..LOOKS {
            if claims.is_full() {
                break;
            }
            let look = Look {
                shared: &self.shared,
                destination,
                now,
                after,
                limit: claims.missing().saturating_add(AHEAD),
                with_content: true,
                room: AHEAD_BYTES,
            };
            let candidates = self.shared.repeat(&look, Instant::now() + WAIT).await?;
            let mut is_last = candidates.len() < look.limit;
            for candidate in candidates {
                if candidate.is_claimable(now) && candidate.content.is_none() {
                    // The next look begins with it.
                    is_last = false;
                    break;
                }
                after = (candidate.seq, ordinal(candidate.id));
                ahead.add(candidate, now);
            }
            self.take(lane, destination, ahead, now, claims);
            if is_last {
                break;
            }
        }
        Ok(())
    }

    /// Claims from what was read ahead.
    fn take(&self, lane: &Turn, destination: &Name, ahead: &mut Ahead, now: Timestamp, claims: &mut Claims) {
        while !claims.is_full()
            && let Some(candidate) = ahead.next(now)
        {
            let queues = (candidate.queue, candidate.conversation);
            let lease = lane.lease(destination, candidate.id, queues);
            match self.grant(lease.clone(), candidate) {
                Ok(Some(claim)) => claims.add(claim),
                Ok(None) => {}
                Err(error) => claims.damaged.push((lease, error)),
            }
        }
    }

    /// Claims a candidate, unless its queue is blocked. Fails if it cannot be read.
    fn grant(&self, lease: Lease, candidate: Candidate) -> Result<Option<Claim>, Error> {
        let Some(content) = candidate.content else {
            return Ok(None);
        };
        let delivery = record::delivery(&candidate.record)?;
        let message = record::message(&content)?;
        // Without a root, the delivery begins a new thread.
        let thread = candidate.root.and_then(|root| String::from_utf8(root).ok());
        let mut leases = self.shared.leases();
        let queue = lease.queue.clone();
        let token = leases.grant(lease);
        if candidate.is_followed && token.is_some() {
            leases.follow(queue);
        }
        Ok(token.map(|token| Claim {
            delivery,
            message: Arc::new(message),
            thread,
            token,
        }))
    }

    pub(super) async fn claim_old(
        &self,
        destination: &Name,
        pending_since: RangeInclusive<Timestamp>,
        limit: usize,
    ) -> Result<Vec<Overdue>, Error> {
        let Some(lane) = self.shared.lanes.claimable(destination).await else {
            return Ok(Vec::new());
        };
        let (_turn, _claiming) = (lane.turn.lock().await, self.shared.claiming.read().await);
        let (claimed, answered) = {
            let leases = self.shared.leases();
            (leases.claimed(destination), leases.answered(destination))
        };
        let (first, last, limit) = (pending_since.start().0, pending_since.end().0, number(limit));
        let name = destination.as_str();
        let parameters: [&(dyn ToSql + Sync); 8] = [
            &name,
            &first,
            &last,
            &claimed.0,
            &claimed.1,
            &answered.0,
            &answered.1,
            &limit,
        ];
        let connection = self.shared.pool.get().await?;
        let mut damaged = Vec::new();
        let mut old = async || -> Result<Vec<Overdue>, Trouble> {
            let rows = connection
                .query(&connection.prepare_cached(OLD).await?, &parameters)
                .await?;
            let mut found = Vec::new();
            // One of these may have been read ahead.
            self.shared.lanes.look_again(destination);
            for row in &rows {
                let (message, ordinal): (Uuid, i16) = (row.try_get(0)?, row.try_get(1)?);
                let id = DeliveryId {
                    message: MessageId(message),
                    ordinal: ordinal.cast_unsigned(),
                };
                let queues = (conversation(row.try_get(3)?)?, conversation(row.try_get(5)?)?);
                let lease = lane.lease(destination, id, queues);
                match record::delivery(row.try_get(4)?) {
                    Ok(delivery) => found.push((lease, delivery)),
                    Err(error) => damaged.push((lease, error)),
                }
            }
            let mut leases = self.shared.leases();
            let overdue = found.into_iter().filter_map(|(lease, delivery)| {
                let token = leases.grant(lease)?;
                Some(Overdue { delivery, token })
            });
            Ok(overdue.collect())
        };
        let overdue = self.shared.within(&connection, old()).await?;
        drop(connection);
        self.set_all_aside(damaged).await;
        Ok(overdue)
    }

    async fn set_all_aside(&self, damaged: Vec<(Lease, Error)>) {
        for (lease, error) in damaged {
            if let Err(error) = self.shared.set_aside(&lease, &error.to_string()).await {
                tracing::debug!(delivery.id = %lease.id, "cannot set a delivery aside: {error}");
            }
        }
    }

    pub(super) async fn next_due_at(
        &self,
        destination: &Name,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Error> {
        let Some(lane) = self.shared.lanes.claimable(destination).await else {
            return Ok(None);
        };
        let (mut ahead, _claiming) = (lane.turn.lock().await, self.shared.claiming.read().await);
        ahead.refresh(lane.epoch, self.shared.lanes.version(destination));
        let is_free = |one: &Candidate| {
            let queue = (destination.clone(), one.queue);
            one.is_claimable(now) && !self.shared.leases().is_held(&queue)
        };
        if ahead.any(is_free) {
            return Ok(Some(now));
        }
        let mut after = START;
        for _ in 0..LOOKS {
            let look = Look {
                shared: &self.shared,
                destination,
                now,
                after,
                limit: LEAST,
                with_content: false,
                room: 0,
            };
            let candidates = self.shared.repeat(&look, Instant::now() + WAIT).await?;
            if candidates.iter().any(is_free) {
                return Ok(Some(now));
            }
            let Some(last) = candidates.last().filter(|_| candidates.len() == LEAST) else {
                return self.next_delayed(destination, now).await;
            };
            after = (last.seq, ordinal(last.id));
        }
        // There is more to look at.
        Ok(Some(now))
    }

    async fn next_delayed(&self, destination: &Name, now: Timestamp) -> Result<Option<Timestamp>, Error> {
        let (messages, ordinals) = self.shared.leases().claimed(destination);
        let connection = self.shared.pool.get().await?;
        let next = async || -> Result<_, Trouble> {
            let statement = connection.prepare_cached(NEXT_DUE).await?;
            let name = destination.as_str();
            let row = connection
                .query_opt(&statement, &[&name, &messages, &ordinals])
                .await?;
            Ok(row.map(|row| row.try_get(0)).transpose()?.map(Timestamp))
        };
        let next = self.shared.within(&connection, next()).await?;
        Ok(next.map(|due| due.max(now)))
    }

    pub(super) async fn answered_by(&self, claim: &Claim) -> Result<bool, Error> {
        let lease = self.shared.leases().get(claim.token).cloned();
        let Some(lease) = lease.filter(|lease| self.shared.leases().is_followed(&lease.queue)) else {
            return Ok(false);
        };
        let connection = self.shared.pool.get().await?;
        let is_followed = async || -> Result<bool, Trouble> {
            let statement = connection.prepare_cached(FOLLOWED).await?;
            let (id, number, queue) = (lease.id.message.0, ordinal(lease.id), &lease.queue.1.0[..]);
            let row = connection.query_one(&statement, &[&id, &number, &queue]).await?;
            Ok(row.try_get(0)?)
        };
        let is_followed = self.shared.within(&connection, is_followed()).await?;
        let mut leases = self.shared.leases();
        if !is_followed {
            leases.unfollow(&lease.queue);
            return Ok(false);
        }
        Ok(leases.answer(claim.token))
    }
}
