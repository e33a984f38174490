//! Describes the database and the daemons that share it, for operators.

use serde::Serialize;

use super::pool::Connection;
use super::session::described;

/// The server, the tables and the daemons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Overview {
    /// The version of PostgreSQL.
    pub server: String,
    /// The version of the schema; 0 for an empty database.
    pub schema: i32,
    /// What a commit waits for.
    pub synchronous_commit: String,
    /// The standbys that a commit waits for, as `synchronous_standby_names`; empty if it waits for none.
    pub synchronous_standbys: String,
    /// The size of the database in bytes.
    pub bytes: i64,
    /// The daemons, by name.
    pub nodes: Vec<Node>,
    /// The destinations, by name.
    pub lanes: Vec<Lane>,
}

/// A daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// A digest of its configuration. Daemons should have the same.
    pub configuration: String,
    /// Seconds since it started.
    pub up: i64,
    /// Seconds since it last reported.
    pub seen: i64,
}

/// A destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lane {
    /// Its name.
    pub destination: String,
    /// The daemon that serves it, if one does.
    pub node: Option<String>,
    /// Seconds since it has been serving it.
    pub since: Option<i64>,
    /// An operator paused it.
    pub paused: bool,
    /// Pending deliveries.
    pub pending: i64,
}

const SERVER: &str = "
    SELECT current_setting('server_version'), current_setting('synchronous_commit'),
        current_setting('synchronous_standby_names'), pg_database_size(current_database())";

const NODES: &str = "
    SELECT name, version, fingerprint, extract(epoch FROM clock_timestamp() - started_at)::bigint,
        extract(epoch FROM clock_timestamp() - seen_at)::bigint
    FROM node ORDER BY name";

const LANES: &str = "
    SELECT coalesce(l.destination, c.destination) AS destination,
        CASE WHEN l.lease_until > clock_timestamp() THEN l.owner END,
        CASE WHEN l.lease_until > clock_timestamp() THEN extract(epoch FROM clock_timestamp() - l.since)::bigint END,
        coalesce(l.paused, false), coalesce(c.pending, 0)
    FROM lane l
    FULL JOIN (
        SELECT destination, sum(pending)::bigint AS pending FROM counter WHERE destination <> '' GROUP BY destination
    ) c ON c.destination = l.destination
    ORDER BY 1";

impl Overview {
    /// Reads it.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn read(connection: &Connection, schema: i32) -> Result<Self, String> {
        Self::of(connection, schema)
            .await
            .map_err(|error| described(&error))
    }

    async fn of(connection: &Connection, schema: i32) -> Result<Self, tokio_postgres::Error> {
        let server = connection.query_one(SERVER, &[]).await?;
        let (nodes, lanes) = match schema {
            0 => (Vec::new(), Vec::new()),
            _ => (
                connection.query(NODES, &[]).await?,
                connection.query(LANES, &[]).await?,
            ),
        };
        let node = |row: &tokio_postgres::Row| {
            Ok::<_, tokio_postgres::Error>(Node {
                name: row.try_get(0)?,
                version: row.try_get(1)?,
                configuration: row.try_get(2)?,
                up: row.try_get(3)?,
                seen: row.try_get(4)?,
            })
        };
        let lane = |row: &tokio_postgres::Row| {
            Ok::<_, tokio_postgres::Error>(Lane {
                destination: row.try_get(0)?,
                node: row.try_get(1)?,
                since: row.try_get(2)?,
                paused: row.try_get(3)?,
                pending: row.try_get(4)?,
            })
        };
        Ok(Self {
            server: server.try_get(0)?,
            schema,
            synchronous_commit: server.try_get(1)?,
            synchronous_standbys: server.try_get(2)?,
            bytes: server.try_get(3)?,
            nodes: nodes.iter().map(node).collect::<Result<_, _>>()?,
            lanes: lanes.iter().map(lane).collect::<Result<_, _>>()?,
        })
    }
}
