//! The nodes that share the database, and the lanes that each of them owns.

use std::time::Duration;

use tokio_postgres::Row;

use super::shared::Shared;
use super::states::name;
use super::trouble::Trouble;
use crate::store::{Error, Lane, Node, Nodes};

const NODES: &str = "
    SELECT name, version, fingerprint, extract(epoch FROM clock_timestamp() - started_at)::double precision,
        extract(epoch FROM clock_timestamp() - seen_at)::double precision,
        seen_at > clock_timestamp() - $1::double precision * interval '1 second'
    FROM node ORDER BY name";

const LANES: &str = "
    SELECT destination, CASE WHEN lease_until > clock_timestamp() THEN owner END,
        extract(epoch FROM clock_timestamp() - since)::double precision
    FROM lane ORDER BY destination";

impl Shared {
    pub(super) async fn nodes(&self) -> Result<Nodes, Error> {
        let connection = self.pool.get().await?;
        let read = async || -> Result<Nodes, Trouble> {
            let lease = self.lease.as_secs_f64();
            let statement = connection.prepare_cached(NODES).await?;
            let nodes = connection.query(&statement, &[&lease]).await?;
            let statement = connection.prepare_cached(LANES).await?;
            let lanes = connection.query(&statement, &[]).await?;
            Ok(Nodes {
                own: self.node.clone(),
                nodes: nodes.iter().map(node).collect::<Result<_, _>>()?,
                lanes: lanes.iter().map(lane).collect::<Result<_, _>>()?,
            })
        };
        self.within(&connection, read()).await
    }
}

fn node(row: &Row) -> Result<Node, Trouble> {
    Ok(Node {
        name: row.try_get(0)?,
        version: row.try_get(1)?,
        configuration: row.try_get(2)?,
        up: age(row.try_get(3)?),
        seen: age(row.try_get(4)?),
        is_live: row.try_get(5)?,
    })
}

fn lane(row: &Row) -> Result<Lane, Trouble> {
    let owner: Option<String> = row.try_get(1)?;
    let since: Option<f64> = row.try_get(2)?;
    Ok(Lane {
        destination: name(row.try_get(0)?)?,
        owner: owner.map(|owner| (owner, age(since.unwrap_or_default()))),
    })
}

/// The clock of the database may have been set back.
fn age(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
