//! Adds deliveries to a stored message.

use super::commands::WRITER;
use super::counters::Deltas;
use super::pool::Connection;
use super::record::{KEPT, ROUTED, UNROUTED, UNROUTED_DELIVERED};
use super::rows::{self, Locked, Roots, Touched};
use super::shared::{Shared, Work};
use super::trouble::Trouble;
use super::{Postgres, record};
use crate::model::delivery::{Delivery, DeliveryId};
use crate::model::message::MessageId;
use crate::store::Error;

const MESSAGE: &str = "SELECT seq, disposition, record FROM message WHERE id = $1 FOR UPDATE";

const DISPOSITION: &str = "UPDATE message SET disposition = $2 WHERE id = $1";

/// Adds deliveries to a message.
struct Add<'a> {
    shared: &'a Shared,
    id: MessageId,
    deliveries: &'a [Delivery],
}

struct Added {
    ids: Vec<DeliveryId>,
    touched: Touched,
    kept: i64,
    unrouted: i64,
}

impl Work for Add<'_> {
    type Output = Added;

    async fn run(&self, connection: &Connection) -> Result<Added, Trouble> {
        let id = self.id.0;
        let (mut messages, found) =
            rows::lock(connection, &[id], (MESSAGE, &[&id]), &rows::Queues::default()).await?;
        let Some(found) = found.first() else {
            return Err(Error::NotFound.into());
        };
        let (seq, disposition): (i64, i16) = (found.try_get(0)?, found.try_get(1)?);
        let record: &[u8] = found.try_get(2)?;
        let conversation = record::message(record)?.conversation();
        let message = messages.entry(self.id).or_insert_with(|| Locked {
            rows: Vec::new(),
            is_redacted: false,
            seq,
            conversation,
            last: 0,
        });
        let add = |one: &Delivery| message.add(self.id, one.clone(), one.created_at);
        let ids: Vec<DeliveryId> = self.deliveries.iter().map(add).collect();
        let changed = match disposition {
            _ if ids.is_empty() => disposition,
            KEPT => ROUTED,
            UNROUTED => UNROUTED_DELIVERED,
            other => other,
        };
        let mut deltas = Deltas::default();
        let (kept, unrouted) = match changed == disposition {
            true => (0, 0),
            false => (
                -i64::from(disposition == KEPT),
                -i64::from(disposition == UNROUTED),
            ),
        };
        if changed != disposition {
            let statement = connection.prepare_cached(DISPOSITION).await?;
            connection.execute(&statement, &[&id, &changed]).await?;
            deltas.messages().kept += kept;
            deltas.messages().unrouted += unrouted;
        }
        let writer = (self.shared.node.as_str(), WRITER);
        let touched = rows::commit(connection, &messages, &Roots::new(), deltas, writer).await?;
        Ok(Added {
            ids,
            touched,
            kept,
            unrouted,
        })
    }
}

impl Postgres {
    pub(super) async fn add_to(
        &self,
        id: MessageId,
        deliveries: &[Delivery],
    ) -> Result<Vec<DeliveryId>, Error> {
        let add = Add {
            shared: &self.shared,
            id,
            deliveries,
        };
        // Repeated after a lost answer, it could add them twice.
        let added = self.shared.once(&add).await?;
        self.shared.totals.add_undelivered(added.kept, added.unrouted);
        self.tell(added.touched);
        Ok(added.ids)
    }
}
