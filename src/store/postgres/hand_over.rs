//! Hands late deliveries over to the fallback. Only the daemon that owns the lane does; the transaction is fenced.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::commands::WRITER;
use super::counters::Deltas;
use super::gather::WAIT;
use super::pool::Connection;
use super::rows::{self, Roots, Touched};
use super::settle::FENCE;
use super::shared::{Shared, Work};
use super::trouble::Trouble;
use super::wake::Notice;
use super::{Postgres, record};
use crate::model::delivery::{Delivery, DeliveryId};
use crate::model::message::{MessageId, Timestamp};
use crate::store::{Error, HandOver, HandedOver, LatePosition};

/// The pending deliveries of a destination after a position, in the order in which they became pending.
const PENDING: &str = "
    SELECT message, ordinal, seq, pending_since FROM delivery
    WHERE destination = $1 AND stage < 3 AND pending_since >= $2 AND (pending_since, seq, ordinal) > ($2, $3, $4)
    ORDER BY pending_since, seq, ordinal LIMIT $5";

/// All deliveries of messages whose content is there.
const ALL: &str = "
    SELECT d.record FROM delivery d JOIN message m ON m.id = d.message
    WHERE d.message = ANY($1::uuid[]) AND NOT m.redacted";

/// One step.
struct Step<'a> {
    shared: &'a Shared,
    request: &'a HandOver,
    epoch: i64,
}

/// The deliveries that a step looks at.
#[derive(Default)]
struct Late {
    ids: Vec<DeliveryId>,
    handed: HandedOver,
}

struct Stepped {
    handed: HandedOver,
    touched: Touched,
}

impl Work for Step<'_> {
    /// `None` if the lane belongs to another daemon.
    type Output = Option<Stepped>;

    async fn run(&self, connection: &Connection) -> Result<Option<Stepped>, Trouble> {
        let Late { ids, mut handed } = self.late(connection).await?;
        let left = self.not_handed_over(connection, &ids).await?;
        if left.is_empty() {
            let touched = Touched::default();
            return Ok(Some(Stepped { handed, touched }));
        }
        let (name, epochs) = (self.request.destination.as_str(), [self.epoch]);
        let names = [name];
        let fence: [&(dyn ToSql + Sync); 3] = [&&names[..], &&epochs[..], &self.shared.instance];
        let messages: BTreeSet<Uuid> = left.iter().map(|id| id.message.0).collect();
        let messages: Vec<Uuid> = messages.into_iter().collect();
        let (mut messages, own) =
            rows::lock(connection, &messages, (FENCE, &fence), &rows::Queues::default()).await?;
        if own.is_empty() {
            connection.batch_execute("ROLLBACK").await?;
            return Ok(None);
        }
        for id in left {
            let Some(message) = messages.get_mut(&id.message).filter(|one| !one.is_redacted) else {
                continue;
            };
            let all: Vec<Delivery> = message.rows.iter().map(|row| row.delivery.clone()).collect();
            let delivery = all.iter().find(|delivery| delivery.id == id);
            if let Some(follow_up) = delivery.and_then(|delivery| self.request.of(delivery, &all)) {
                let added = message.add(id.message, follow_up, self.request.now);
                handed.deliveries.push((id, added));
            }
        }
        let writer = (self.shared.node.as_str(), WRITER);
        let touched = rows::commit(connection, &messages, &Roots::new(), Deltas::default(), writer).await?;
        Ok(Some(Stepped { handed, touched }))
    }
}

impl Step<'_> {
    async fn late(&self, connection: &Connection) -> Result<Late, Trouble> {
        let request = self.request;
        let (since, seq, ordinal) = match request.after {
            Some(LatePosition { since, seq, ordinal }) => (since.0, seq.cast_signed(), ordinal.cast_signed()),
            None => (i64::MIN, i64::MIN, i16::MIN),
        };
        // One more shows when the next one is late.
        let limit = i64::try_from(request.limit.saturating_add(1)).unwrap_or(i64::MAX);
        let name = request.destination.as_str();
        let statement = connection.prepare_cached(PENDING).await?;
        let rows = connection
            .query(&statement, &[&name, &since, &seq, &ordinal, &limit])
            .await?;
        let mut late = Late::default();
        for row in &rows {
            let (message, ordinal, seq): (Uuid, i16, i64) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let since = Timestamp(row.try_get(3)?);
            if since > request.until || late.ids.len() >= request.limit {
                late.handed.next = Some(since);
                break;
            }
            let (message, ordinal) = (MessageId(message), ordinal.cast_unsigned());
            late.ids.push(DeliveryId { message, ordinal });
            late.handed.last = Some(LatePosition {
                since,
                seq: seq.cast_unsigned(),
                ordinal,
            });
        }
        Ok(late)
    }

    /// Most deliveries of a long backlog were handed over before: those are not locked.
    async fn not_handed_over(
        &self,
        connection: &Connection,
        ids: &[DeliveryId],
    ) -> Result<Vec<DeliveryId>, Trouble> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let messages: Vec<Uuid> = ids.iter().map(|id| id.message.0).collect();
        let statement = connection.prepare_cached(ALL).await?;
        let mut all: BTreeMap<MessageId, Vec<Delivery>> = BTreeMap::new();
        for row in connection.query(&statement, &[&messages]).await? {
            // One that cannot be read is left out: the claim that finds it sets it aside.
            let Ok(delivery) = record::delivery(row.try_get(0)?) else {
                continue;
            };
            all.entry(delivery.id.message).or_default().push(delivery);
        }
        let is_left = |id: &&DeliveryId| {
            let all = all.get(&id.message).map(Vec::as_slice).unwrap_or_default();
            let delivery = all.iter().find(|delivery| delivery.id == **id);
            delivery.is_some_and(|delivery| self.request.of(delivery, all).is_some())
        };
        Ok(ids.iter().filter(is_left).copied().collect())
    }
}

impl Postgres {
    pub(super) async fn hand_over_late(&self, request: &HandOver) -> Result<Option<HandedOver>, Error> {
        let Some(lane) = self.shared.lanes.claimable(&request.destination).await else {
            return Ok(None);
        };
        let step = Step {
            shared: &self.shared,
            request,
            epoch: lane.epoch,
        };
        // Repeated after a lost answer, it finds the deliveries that it has added.
        let Some(Stepped { handed, touched }) = self.shared.repeat(&step, Instant::now() + WAIT).await?
        else {
            return Ok(None);
        };
        for name in touched.pending {
            self.shared.lanes.look_again(&name);
            self.shared.announce(Notice::Work(name));
        }
        Ok(Some(handed))
    }
}
