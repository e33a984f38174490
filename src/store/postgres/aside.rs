//! Deliveries that cannot be read or written. They are set aside, so that they do not hold up the others, and reported
//! as findings until an operator has acknowledged them. Their records are kept until retention removes the messages.

use tokio_postgres::types::ToSql;

use super::commands::WRITER;
use super::counters::Deltas;
use super::leases::Lease;
use super::pool::Connection;
use super::record::{ACKNOWLEDGED, READY};
use super::rows::{self, ordinal};
use super::settle::FENCE;
use super::shared::{Shared, Work};
use super::trouble::Trouble;
use crate::store::Error;

/// Ends a pending delivery without reading its record.
const SET_ASIDE: &str = "
    UPDATE delivery SET stage = 5 WHERE message = $1 AND ordinal = $2 AND stage < 3";

/// The findings, in the table of what daemons store by name.
const ADD: &str = "
    INSERT INTO state (name, value) VALUES ('finding ' || $1, $2) ON CONFLICT (name) DO NOTHING";
const ALL: &str = "SELECT value FROM state WHERE name LIKE 'finding %' ORDER BY name LIMIT 100";
const REMOVE: &str = "DELETE FROM state WHERE name LIKE 'finding %'";

/// Sets one delivery of a lane of this daemon aside.
struct SetAside<'a> {
    shared: &'a Shared,
    lease: &'a Lease,
    finding: &'a str,
}

impl Work for SetAside<'_> {
    type Output = ();

    async fn run(&self, connection: &Connection) -> Result<(), Trouble> {
        let (destination, queue) = &self.lease.queue;
        let (names, epochs) = ([destination.as_str()], [self.lease.epoch]);
        connection.begin().await?;
        let statement = connection.prepare_cached(FENCE).await?;
        let fence: [&(dyn ToSql + Sync); 3] = [&&names[..], &&epochs[..], &self.shared.instance];
        if connection.query(&statement, &fence).await?.is_empty() {
            return Err(Error::LostClaim.into());
        }
        let id = self.lease.id;
        let statement = connection.prepare_cached(SET_ASIDE).await?;
        let changed = connection
            .execute(&statement, &[&id.message.0, &ordinal(id)])
            .await?;
        if changed > 0 {
            let statement = connection.prepare_cached(rows::PROMOTE).await?;
            let queues = [&queue.0[..]];
            connection
                .execute(&statement, &[&&names[..], &&queues[..]])
                .await?;
            let mut deltas = Deltas::default();
            deltas.moved(destination, Some(READY), Some(ACKNOWLEDGED));
            deltas.write(connection, &self.shared.node, WRITER).await?;
            let statement = connection.prepare_cached(ADD).await?;
            connection
                .execute(&statement, &[&id.to_string(), &self.finding.as_bytes()])
                .await?;
        }
        connection.batch_execute("COMMIT").await?;
        Ok(())
    }
}

impl Shared {
    /// Sets a delivery aside, because of `why`. It must not be claimed by anyone else.
    pub(super) async fn set_aside(&self, lease: &Lease, why: &str) -> Result<(), Error> {
        let (id, name) = (lease.id, &lease.queue.0);
        let finding = format!(
            "delivery {id} to destination {name} was set aside and will not be delivered: {why}; \
             the other deliveries continue"
        );
        let work = SetAside {
            shared: self,
            lease,
            finding: &finding,
        };
        self.once(&work).await?;
        tracing::error!(delivery.id = %id, destination = %name, "{finding}");
        {
            let mut leases = self.leases();
            let token = leases.token(id);
            token.map(|token| leases.end(token));
        }
        self.lanes.look_again(name);
        self.monitor.seen().findings.push(finding);
        Ok(())
    }

    /// Reads the findings of all daemons.
    pub(super) async fn load_findings(&self, connection: &Connection) -> Result<(), Trouble> {
        let rows = connection
            .query(&connection.prepare_cached(ALL).await?, &[])
            .await?;
        let findings: Result<Vec<Vec<u8>>, _> = rows.iter().map(|row| row.try_get(0)).collect();
        let findings = findings?.into_iter();
        self.monitor.seen().findings = findings
            .map(|finding| String::from_utf8_lossy(&finding).into_owned())
            .collect();
        Ok(())
    }

    /// Deletes the findings. Returns their number.
    pub(super) async fn acknowledge_findings(&self) -> Result<u64, Error> {
        let connection = self.pool.get().await?;
        let remove = async || -> Result<u64, Trouble> {
            let statement = connection.prepare_cached(REMOVE).await?;
            Ok(connection.execute(&statement, &[]).await?)
        };
        let count = self.within(&connection, remove()).await?;
        self.monitor.seen().findings.clear();
        Ok(count)
    }
}
