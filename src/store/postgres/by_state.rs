//! Finds pending and dead deliveries. They are few among all, and have indexes of their own for each destination, so a
//! search for them does not read the others.

use tokio_postgres::Row;

use super::pool::Connection;
use super::trouble::Trouble;
use crate::store::{DeliveryQuery, MessageState};

/// The destinations that have had deliveries.
const DESTINATIONS: &str = "SELECT DISTINCT destination FROM counter WHERE destination <> ''";

/// Messages with a pending delivery, the newest first.
pub(super) const PENDING_MESSAGES: &str = "
    SELECT p.seq FROM unnest($1::text[]) AS q(destination) CROSS JOIN LATERAL (
        (
            SELECT DISTINCT d.seq FROM delivery d
            WHERE d.destination = q.destination AND d.stage = 0 AND d.seq < $2 ORDER BY d.seq DESC LIMIT $3
        ) UNION ALL (
            SELECT DISTINCT d.seq FROM delivery d
            WHERE d.destination = q.destination AND d.stage IN (1, 2) AND d.seq < $2 ORDER BY d.seq DESC LIMIT $3
        )
    ) p
    GROUP BY p.seq ORDER BY p.seq DESC LIMIT $3";

/// Messages with a dead delivery, the newest first.
pub(super) const DEAD_MESSAGES: &str = "
    SELECT p.seq FROM unnest($1::text[]) AS q(destination) CROSS JOIN LATERAL (
        SELECT DISTINCT d.seq FROM delivery d
        WHERE d.destination = q.destination AND d.stage >= 4 AND d.seq < $2 ORDER BY d.seq DESC LIMIT $3
    ) p
    GROUP BY p.seq ORDER BY p.seq DESC LIMIT $3";

/// Pending deliveries, those of the newest message first.
pub(super) const PENDING: &str = "
    SELECT p.seq, p.ordinal, p.record FROM unnest($1::text[]) AS q(destination) CROSS JOIN LATERAL (
        (
            SELECT d.seq, d.ordinal, d.record FROM delivery d
            WHERE d.destination = q.destination AND d.stage = 0 AND (d.seq, d.ordinal) < ($2::bigint, $3::integer)
            ORDER BY d.seq DESC, d.ordinal DESC LIMIT $4
        ) UNION ALL (
            SELECT d.seq, d.ordinal, d.record FROM delivery d
            WHERE d.destination = q.destination AND d.stage IN (1, 2) AND (d.seq, d.ordinal) < ($2::bigint, $3::integer)
            ORDER BY d.seq DESC, d.ordinal DESC LIMIT $4
        )
    ) p
    ORDER BY p.seq DESC, p.ordinal DESC LIMIT $4";

/// Dead deliveries, those of the newest message first.
pub(super) const DEAD: &str = "
    SELECT p.seq, p.ordinal, p.record FROM unnest($1::text[]) AS q(destination) CROSS JOIN LATERAL (
        SELECT d.seq, d.ordinal, d.record FROM delivery d
        WHERE d.destination = q.destination AND d.stage >= 4 AND (d.seq, d.ordinal) < ($2::bigint, $3::integer)
        ORDER BY d.seq DESC, d.ordinal DESC LIMIT $4
    ) p
    ORDER BY p.seq DESC, p.ordinal DESC LIMIT $4";

/// A state that has indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Indexed {
    Pending,
    Dead,
}

impl Indexed {
    pub(super) fn of(state: Option<MessageState>) -> Option<Self> {
        match state? {
            MessageState::Pending => Some(Self::Pending),
            MessageState::Dead => Some(Self::Dead),
            MessageState::Delivered | MessageState::Kept | MessageState::Unrouted => None,
        }
    }

    /// The numbers of at most `limit` messages below `below` that have such a delivery, the newest first.
    pub(super) async fn messages(
        self,
        connection: &Connection,
        below: i64,
        limit: i64,
    ) -> Result<Vec<i64>, Trouble> {
        let sql = match self {
            Self::Pending => PENDING_MESSAGES,
            Self::Dead => DEAD_MESSAGES,
        };
        let names = destinations(connection).await?;
        let statement = connection.prepare_cached(sql).await?;
        let rows = connection.query(&statement, &[&names, &below, &limit]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// At most `limit` such deliveries: numbers, ordinals and records, those of the newest message first.
    pub(super) async fn deliveries(
        self,
        connection: &Connection,
        query: &DeliveryQuery,
        limit: i64,
    ) -> Result<Vec<Row>, Trouble> {
        let sql = match self {
            Self::Pending => PENDING,
            Self::Dead => DEAD,
        };
        let names = match &query.destination {
            Some(name) => vec![name.to_string()],
            None => destinations(connection).await?,
        };
        let cursor = query.cursor.unwrap_or(u64::MAX);
        let below = (cursor >> 16).cast_signed();
        let ordinal = i32::from(u16::try_from(cursor & 0xffff).unwrap_or(u16::MAX));
        let statement = connection.prepare_cached(sql).await?;
        Ok(connection
            .query(&statement, &[&names, &below, &ordinal, &limit])
            .await?)
    }
}

async fn destinations(connection: &Connection) -> Result<Vec<String>, Trouble> {
    let statement = connection.prepare_cached(DESTINATIONS).await?;
    let rows = connection.query(&statement, &[]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}
