//! Changes of the counters. Every writer of every daemon adds to its own rows, so that no row is written by all.

use std::collections::BTreeMap;

use super::pool::Connection;
use super::record::{ACKNOWLEDGED, BEHIND, DEAD, DELIVERED};
use crate::model::message::Name;

/// An increment of the counters of one destination, or of the messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Delta {
    pub(super) accepted: i64,
    pub(super) messages_purged: i64,
    pub(super) created: i64,
    pub(super) delivered: i64,
    pub(super) dead: i64,
    pub(super) acknowledged: i64,
    pub(super) pending: i64,
    pub(super) purged: i64,
    pub(super) kept: i64,
    pub(super) unrouted: i64,
}

/// The increments of one transaction.
#[derive(Debug, Default)]
pub(super) struct Deltas(BTreeMap<String, Delta>);

/// The rows of one writer. The order is that of the primary key, so that two transactions never wait for each other.
const ADD: &str = "
    INSERT INTO counter AS c (node, slot, destination, accepted, messages_purged, created, delivered, dead, acknowledged,
                              pending, purged, kept, unrouted)
    SELECT $1, $2, * FROM unnest($3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
                                 $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[])
    ON CONFLICT (node, slot, destination) DO UPDATE SET
        accepted = c.accepted + excluded.accepted,
        messages_purged = c.messages_purged + excluded.messages_purged,
        created = c.created + excluded.created,
        delivered = c.delivered + excluded.delivered,
        dead = c.dead + excluded.dead,
        acknowledged = c.acknowledged + excluded.acknowledged,
        pending = c.pending + excluded.pending,
        purged = c.purged + excluded.purged,
        kept = c.kept + excluded.kept,
        unrouted = c.unrouted + excluded.unrouted";

impl Deltas {
    /// The counters of a destination.
    pub(super) fn of(&mut self, destination: &Name) -> &mut Delta {
        self.0.entry(destination.as_str().to_owned()).or_default()
    }

    /// The counters of the messages.
    pub(super) fn messages(&mut self) -> &mut Delta {
        self.0.entry(String::new()).or_default()
    }

    /// Counts a delivery that changed its stage: `None` before it was created, and after it was removed.
    pub(super) fn moved(&mut self, destination: &Name, from: Option<i16>, to: Option<i16>) {
        let delta = self.of(destination);
        match (from, to) {
            (None, Some(_)) => delta.created += 1,
            (Some(_), None) => delta.purged += 1,
            _ => {}
        }
        for (stage, by) in [(from, -1), (to, 1)] {
            match stage {
                None => {}
                Some(DELIVERED) => delta.delivered += by,
                Some(DEAD) => delta.dead += by,
                Some(ACKNOWLEDGED) => delta.acknowledged += by,
                Some(pending) => {
                    debug_assert!((0..=BEHIND).contains(&pending), "{pending} is no stage");
                    delta.pending += by;
                }
            }
        }
    }

    /// Prepares the statement, so that [`Deltas::write`] sends it when it is first polled.
    pub(super) async fn prepare(connection: &Connection) -> Result<(), tokio_postgres::Error> {
        connection.prepare_cached(ADD).await.map(drop)
    }

    /// Adds the changes to the rows of a writer, as part of the current transaction.
    pub(super) async fn write(
        &self,
        connection: &Connection,
        node: &str,
        slot: i16,
    ) -> Result<(), tokio_postgres::Error> {
        let changed = || self.0.iter().filter(|(_, delta)| **delta != Delta::default());
        let destinations: Vec<&str> = changed().map(|(destination, _)| destination.as_str()).collect();
        if destinations.is_empty() {
            return Ok(());
        }
        let column = |of: fn(&Delta) -> i64| changed().map(|(_, delta)| of(delta)).collect::<Vec<i64>>();
        let statement = connection.prepare_cached(ADD).await?;
        connection
            .execute(
                &statement,
                &[
                    &node,
                    &slot,
                    &destinations,
                    &column(|delta| delta.accepted),
                    &column(|delta| delta.messages_purged),
                    &column(|delta| delta.created),
                    &column(|delta| delta.delivered),
                    &column(|delta| delta.dead),
                    &column(|delta| delta.acknowledged),
                    &column(|delta| delta.pending),
                    &column(|delta| delta.purged),
                    &column(|delta| delta.kept),
                    &column(|delta| delta.unrouted),
                ],
            )
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::postgres::record::READY;

    #[test]
    fn every_change_of_a_stage_keeps_the_sum() {
        let desk = "desk".parse().unwrap();
        let mut deltas = Deltas::default();
        for (from, to) in [
            (None, Some(READY)),
            (Some(READY), Some(BEHIND)),
            (Some(BEHIND), Some(DEAD)),
            (Some(DEAD), Some(ACKNOWLEDGED)),
            (None, Some(READY)),
            (Some(READY), Some(DELIVERED)),
            (Some(DELIVERED), None),
        ] {
            deltas.moved(&desk, from, to);
        }
        let expected = Delta {
            created: 2,
            acknowledged: 1,
            purged: 1,
            ..Delta::default()
        };
        assert_eq!(*deltas.of(&desk), expected);
    }
}
