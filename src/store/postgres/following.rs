//! Claims the deliveries behind a claimed one, to be sent together with it. Their leases block nothing: that of the first
//! does.

use std::sync::Arc;
use std::time::Instant;

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::gather::WAIT;
use super::leases::Lease;
use super::pool::Connection;
use super::rows::ordinal;
use super::shared::Work;
use super::trouble::Trouble;
use super::{Postgres, record};
use crate::model::delivery::{Delivery, DeliveryId};
use crate::model::message::{Message, MessageId, Timestamp};
use crate::store::{CLAIM_BYTES, Claim, Error};

/// The pending deliveries of a queue after one of them, with their messages.
const FOLLOWING: &str = "
    SELECT d.message, d.ordinal, d.due_at, d.record, m.record, t.root
    FROM delivery f
    JOIN delivery d ON d.destination = f.destination AND d.queue = f.queue AND d.stage < 3
        AND (d.seq, d.ordinal) > (f.seq, f.ordinal)
    JOIN message m ON m.id = d.message
    LEFT JOIN thread t ON t.destination = d.destination AND t.conversation = d.conversation
    WHERE f.message = $1 AND f.ordinal = $2
    ORDER BY d.seq, d.ordinal LIMIT $3";

struct Following<'a> {
    lease: &'a Lease,
    limit: i64,
}

struct Found {
    due: Timestamp,
    delivery: Delivery,
    message: Message,
    thread: Option<String>,
}

impl Work for Following<'_> {
    type Output = Vec<Found>;

    async fn run(&self, connection: &Connection) -> Result<Vec<Found>, Trouble> {
        let DeliveryId { message, .. } = self.lease.id;
        let number = ordinal(self.lease.id);
        let parameters: [&(dyn ToSql + Sync); 3] = [&message.0, &number, &self.limit];
        let statement = connection.prepare_cached(FOLLOWING).await?;
        let mut found = Vec::new();
        for row in connection.query(&statement, &parameters).await? {
            let id: (Uuid, i16) = (row.try_get(0)?, row.try_get(1)?);
            let delivery = record::delivery(row.try_get(3)?)?;
            debug_assert_eq!(
                (MessageId(id.0), id.1),
                (delivery.id.message, ordinal(delivery.id))
            );
            let root: Option<&[u8]> = row.try_get(5)?;
            found.push(Found {
                due: Timestamp(row.try_get(2)?),
                delivery,
                message: record::message(row.try_get(4)?)?,
                thread: root.map(|root| String::from_utf8_lossy(root).into_owned()),
            });
        }
        Ok(found)
    }
}

impl Postgres {
    pub(super) async fn claim_after(
        &self,
        claim: &Claim,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<Claim>, Error> {
        let Some(first) = self.shared.leases().get(claim.token).cloned() else {
            return Ok(Vec::new());
        };
        let _claiming = self.shared.claiming.read().await;
        let following = Following {
            lease: &first,
            limit: i64::try_from(limit).unwrap_or(i64::MAX),
        };
        let found = self.shared.repeat(&following, Instant::now() + WAIT).await?;
        let (mut claims, mut size) = (Vec::new(), 0);
        for one in found {
            if one.due > now || size >= CLAIM_BYTES {
                break;
            }
            let lease = Lease {
                id: one.delivery.id,
                is_answered: true,
                ..first.clone()
            };
            let Some(token) = self.shared.leases().grant_following(lease) else {
                break;
            };
            size += one.message.size();
            claims.push(Claim {
                delivery: one.delivery,
                message: Arc::new(one.message),
                thread: one.thread,
                token,
            });
        }
        if !claims.is_empty() {
            // One of these may have been read ahead.
            self.shared.lanes.look_again(&first.queue.0);
        }
        Ok(claims)
    }
}
