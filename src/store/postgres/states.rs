//! The data besides messages: counters, paused destinations, and the state that a daemon keeps for its next run.

use std::collections::BTreeSet;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::record;
use super::shared::Shared;
use super::trouble::Trouble;
use crate::metrics::series::Saved;
use crate::model::message::{Name, Timestamp};
use crate::model::notices::Notices;
use crate::store::{Backlog, Counts, Error, Standings};
use crate::timeline::Timeline;

const COUNTS: &str = "
    SELECT coalesce(sum(accepted), 0)::bigint, coalesce(sum(messages_purged), 0)::bigint,
        coalesce(sum(created), 0)::bigint, coalesce(sum(delivered), 0)::bigint,
        coalesce(sum(dead + acknowledged), 0)::bigint, coalesce(sum(pending), 0)::bigint,
        coalesce(sum(purged), 0)::bigint
    FROM counter";

const BACKLOG: &str = "
    SELECT coalesce(sum(pending), 0)::bigint, coalesce(sum(dead), 0)::bigint, coalesce(sum(acknowledged), 0)::bigint,
        (SELECT min(pending_since) FROM delivery WHERE destination = $1 AND stage < 3)
    FROM counter WHERE destination = $1";

const DESTINATIONS: &str = "
    SELECT destination FROM counter WHERE destination <> ''
    GROUP BY destination HAVING sum(created - purged) > 0
    UNION SELECT destination FROM lane WHERE paused";

const SET_PAUSED: &str = "
    INSERT INTO lane (destination, paused) VALUES ($1, $2)
    ON CONFLICT (destination) DO UPDATE SET paused = excluded.paused";

const SET_STATE: &str = "
    INSERT INTO state (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";

/// A daemon stores the states of the destinations that it serves, and of those that no daemon serves.
const SET_STANDINGS: &str = "
    INSERT INTO lane AS l (destination, standing) SELECT * FROM unnest($1::text[], $2::bytea[])
    ON CONFLICT (destination) DO UPDATE SET standing = excluded.standing
    WHERE l.owner IS NULL OR l.lease_until < clock_timestamp() OR l.instance = $3";

const REMOVE_STANDINGS: &str = "
    UPDATE lane SET standing = NULL WHERE standing IS NOT NULL AND destination <> ALL ($1::text[])
        AND (owner IS NULL OR lease_until < clock_timestamp() OR instance = $2)";

const STANDINGS: &str = "SELECT destination, standing FROM lane WHERE standing IS NOT NULL";

impl Shared {
    /// The sums of the counters of all daemons.
    pub(super) async fn counts(&self) -> Result<Counts, Error> {
        let connection = self.pool.get().await?;
        let counts = async || -> Result<Counts, Trouble> {
            let row = connection
                .query_one(&connection.prepare_cached(COUNTS).await?, &[])
                .await?;
            let sum = |index: usize| row.try_get::<_, i64>(index).map(whole);
            Ok(Counts {
                accepted: sum(0)?,
                messages_purged: sum(1)?,
                created: sum(2)?,
                delivered: sum(3)?,
                dead: sum(4)?,
                pending: sum(5)?,
                purged: sum(6)?,
            })
        };
        self.within(&connection, counts()).await
    }

    pub(super) async fn backlog(&self, destination: &Name) -> Result<Backlog, Error> {
        let connection = self.pool.get().await?;
        let backlog = async || -> Result<Backlog, Trouble> {
            let statement = connection.prepare_cached(BACKLOG).await?;
            let row = connection.query_one(&statement, &[&destination.as_str()]).await?;
            let sum = |index: usize| row.try_get::<_, i64>(index).map(whole);
            Ok(Backlog {
                pending: sum(0)?,
                dead: sum(1)?,
                acknowledged: sum(2)?,
                oldest: row.try_get::<_, Option<i64>>(3)?.map(Timestamp),
            })
        };
        self.within(&connection, backlog()).await
    }

    pub(super) async fn destinations(&self) -> Result<Vec<Name>, Error> {
        self.names(DESTINATIONS).await
    }

    pub(super) async fn paused(&self) -> Result<Vec<Name>, Error> {
        self.names("SELECT destination FROM lane WHERE paused").await
    }

    /// The names that a query returns, sorted.
    async fn names(&self, sql: &'static str) -> Result<Vec<Name>, Error> {
        let connection = self.pool.get().await?;
        let names = async || -> Result<BTreeSet<Name>, Trouble> {
            let rows = connection
                .query(&connection.prepare_cached(sql).await?, &[])
                .await?;
            rows.iter().map(|row| name(row.try_get(0)?)).collect()
        };
        Ok(self.within(&connection, names()).await?.into_iter().collect())
    }

    /// Stores whether a destination is paused.
    pub(super) async fn set_paused(&self, destination: &Name, paused: bool) -> Result<(), Error> {
        let connection = self.pool.get().await?;
        let set = async || -> Result<(), Trouble> {
            let statement = connection.prepare_cached(SET_PAUSED).await?;
            connection
                .execute_durably(&statement, &[&destination.as_str(), &paused])
                .await?;
            Ok(())
        };
        self.within(&connection, set()).await
    }

    pub(super) async fn set_timeline(&self, timeline: &Timeline) -> Result<(), Error> {
        self.set_state("timeline", timeline).await
    }

    pub(super) async fn timeline(&self) -> Result<Option<Timeline>, Error> {
        self.state("timeline").await
    }

    pub(super) async fn set_series(&self, series: &Saved) -> Result<(), Error> {
        self.set_state("series", series).await
    }

    pub(super) async fn series(&self) -> Result<Option<Saved>, Error> {
        self.state("series").await
    }

    pub(super) async fn set_notices(&self, notices: &Notices) -> Result<(), Error> {
        self.set_state("notices", notices).await
    }

    pub(super) async fn notices(&self) -> Result<Option<Notices>, Error> {
        self.state("notices").await
    }

    /// Stores a value of this daemon for its next run.
    async fn set_state<T: Serialize + Sync>(&self, what: &str, value: &T) -> Result<(), Error> {
        let record = record::encode(value)?;
        let connection = self.pool.get().await?;
        let set = async || -> Result<(), Trouble> {
            let statement = connection.prepare_cached(SET_STATE).await?;
            connection
                .execute(&statement, &[&self.state_name(what), &record])
                .await?;
            Ok(())
        };
        self.within(&connection, set()).await
    }

    /// The value that this daemon stored last.
    async fn state<T: DeserializeOwned>(&self, what: &str) -> Result<Option<T>, Error> {
        let connection = self.pool.get().await?;
        let read = async || -> Result<Option<Vec<u8>>, Trouble> {
            let statement = connection
                .prepare_cached("SELECT value FROM state WHERE name = $1")
                .await?;
            let row = connection
                .query_opt(&statement, &[&self.state_name(what)])
                .await?;
            Ok(row.map(|row| row.try_get(0)).transpose()?)
        };
        let value = self.within(&connection, read()).await?;
        value.map(|value| record::decode(&value)).transpose()
    }

    fn state_name(&self, what: &str) -> String {
        format!("{what} {}", self.node)
    }

    /// Stores the states of the destinations, except of those that other daemons serve.
    pub(super) async fn set_standings(&self, standings: &Standings) -> Result<(), Error> {
        let names: Vec<&str> = standings.keys().map(Name::as_str).collect();
        let records = standings
            .values()
            .map(record::encode)
            .collect::<Result<Vec<_>, _>>()?;
        let connection = self.pool.get().await?;
        let set = async || -> Result<(), Trouble> {
            let statement = connection.prepare_cached(SET_STANDINGS).await?;
            connection
                .execute(&statement, &[&names, &records, &self.instance])
                .await?;
            let statement = connection.prepare_cached(REMOVE_STANDINGS).await?;
            connection.execute(&statement, &[&names, &self.instance]).await?;
            Ok(())
        };
        self.within(&connection, set()).await
    }

    pub(super) async fn standings(&self) -> Result<Standings, Error> {
        let connection = self.pool.get().await?;
        let read = async || -> Result<Standings, Trouble> {
            let rows = connection
                .query(&connection.prepare_cached(STANDINGS).await?, &[])
                .await?;
            let one =
                |row: &tokio_postgres::Row| Ok((name(row.try_get(0)?)?, record::decode(row.try_get(1)?)?));
            rows.iter().map(one).collect()
        };
        self.within(&connection, read()).await
    }
}

/// A sum as a number; a sum that is negative because a daemon has written only a part of its changes is zero.
fn whole(sum: i64) -> u64 {
    sum.try_into().unwrap_or_default()
}

/// The name in a column.
pub(super) fn name(column: &str) -> Result<Name, Trouble> {
    let damaged = |_| Error::Failed("a name in the database is damaged".to_owned());
    Ok(column.parse().map_err(damaged)?)
}
