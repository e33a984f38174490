//! Where pending deliveries stand in the queues of their destinations.

use std::collections::HashSet;

use uuid::Uuid;

use super::Postgres;
use super::record;
use super::trouble::Trouble;
use crate::model::delivery::{Delivery, DeliveryId};
use crate::model::message::{Conversation, MessageId, Name, Timestamp};
use crate::store::{Error, Queued, Turn};

/// The pending deliveries of a message, each with the first one of its queue and when its turn comes.
const QUEUED: &str = "
    SELECT d.ordinal, d.seq, f.message, f.ordinal, f.due_at
    FROM delivery d
    CROSS JOIN LATERAL (
        SELECT e.message, e.ordinal, max(e.due_at) OVER () AS due_at FROM delivery e
        WHERE e.destination = d.destination AND e.queue = d.queue AND e.stage < 3
            AND (e.seq, e.ordinal) <= (d.seq, d.ordinal)
        ORDER BY e.seq, e.ordinal LIMIT 1
    ) f
    WHERE d.message = $1 AND d.stage < 3 ORDER BY d.ordinal";

const AHEAD: &str = "
    SELECT count(*) FROM (
        SELECT seq, ordinal, max(due_at) OVER (PARTITION BY queue ORDER BY seq, ordinal) AS due_at FROM delivery
        WHERE destination = $1 AND stage < 3
    ) d
    WHERE (greatest(due_at, $2), seq << 16 | ordinal) < ($3, $4)";

/// No delivery behind another one is the first.
pub(super) const OLDEST: &str = "
    SELECT record FROM (
        (SELECT seq, ordinal, record FROM delivery WHERE destination = $1 AND stage = 0 ORDER BY seq, ordinal LIMIT 1)
        UNION ALL
        (SELECT seq, ordinal, record FROM delivery WHERE destination = $1 AND stage = 1 ORDER BY seq, ordinal LIMIT 1)
    ) d
    ORDER BY seq, ordinal LIMIT 1";

const HELD: &str = "
    SELECT DISTINCT d.queue FROM delivery d
    WHERE d.destination = $1 AND d.queue = ANY($2::bytea[]) AND d.stage < 3 AND NOT EXISTS (
        SELECT FROM unnest($3::uuid[], $4::smallint[]) AS a(message, ordinal)
        WHERE a.message = d.message AND a.ordinal = d.ordinal)";

impl Postgres {
    pub(super) async fn queued_of(&self, id: MessageId) -> Result<Vec<Queued>, Error> {
        let connection = self.shared.pool.get().await?;
        let queued = async || -> Result<_, Trouble> {
            let statement = connection.prepare_cached(QUEUED).await?;
            let rows = connection.query(&statement, &[&id.0]).await?;
            let read = |row: &tokio_postgres::Row| {
                let (ordinal, first): (i16, i16) = (row.try_get(0)?, row.try_get(3)?);
                let (seq, due): (i64, i64) = (row.try_get(1)?, row.try_get(4)?);
                let own = DeliveryId {
                    message: id,
                    ordinal: ordinal.cast_unsigned(),
                };
                let first = DeliveryId {
                    message: MessageId(row.try_get(2)?),
                    ordinal: first.cast_unsigned(),
                };
                Ok(Queued {
                    id: own,
                    claim: self.shared.leases().token(own),
                    behind: (first != own).then_some(first),
                    turn: Turn {
                        due: Timestamp(due),
                        place: seq.cast_unsigned() << 16 | u64::from(own.ordinal),
                    },
                })
            };
            rows.iter().map(read).collect()
        };
        self.shared.within(&connection, queued()).await
    }

    pub(super) async fn ahead_of(
        &self,
        destination: &Name,
        turn: Turn,
        now: Timestamp,
    ) -> Result<u64, Error> {
        let connection = self.shared.pool.get().await?;
        let turn = turn.seen_at(now);
        let ahead = async || -> Result<i64, Trouble> {
            let statement = connection.prepare_cached(AHEAD).await?;
            let (name, place) = (destination.as_str(), turn.place.cast_signed());
            let row = connection
                .query_one(&statement, &[&name, &now.0, &turn.due.0, &place])
                .await?;
            Ok(row.try_get(0)?)
        };
        Ok(self.shared.within(&connection, ahead()).await?.cast_unsigned())
    }

    pub(super) async fn oldest_of(&self, destination: &Name) -> Result<Option<Delivery>, Error> {
        let connection = self.shared.pool.get().await?;
        let oldest = async || -> Result<Option<Delivery>, Trouble> {
            let statement = connection.prepare_cached(OLDEST).await?;
            let row = connection.query_opt(&statement, &[&destination.as_str()]).await?;
            let record = row.map(|row| row.try_get::<_, Vec<u8>>(0)).transpose()?;
            Ok(record.and_then(|record| record::delivery(&record).ok()))
        };
        self.shared.within(&connection, oldest()).await
    }

    pub(super) async fn held_among(
        &self,
        destination: &Name,
        conversation: Conversation,
        recipients: &[String],
    ) -> Result<Vec<String>, Error> {
        let queues: Vec<Vec<u8>> = recipients
            .iter()
            .map(|recipient| conversation.with(recipient).0.to_vec())
            .collect();
        let (messages, ordinals): (Vec<Uuid>, Vec<i16>) = self.shared.leases().answered(destination);
        let connection = self.shared.pool.get().await?;
        let held = async || -> Result<HashSet<Vec<u8>>, Trouble> {
            let statement = connection.prepare_cached(HELD).await?;
            let name = destination.as_str();
            let rows = connection
                .query(&statement, &[&name, &queues, &messages, &ordinals])
                .await?;
            Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
        };
        let held = self.shared.within(&connection, held()).await?;
        let all = recipients.iter().zip(&queues);
        Ok(all
            .filter(|(_, queue)| held.contains(*queue))
            .map(|(recipient, _)| recipient.clone())
            .collect())
    }
}
