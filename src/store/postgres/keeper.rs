//! The task that keeps this daemon's lanes: it renews their leases, acquires and hands over, and passes notices on. It has
//! a connection of its own, so that a busy pool never delays a renewal.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Notification, Row};
use tokio_util::sync::CancellationToken;

use super::lanes::{Request, first};
use super::moment::Moment;
use super::pool::Dedicated;
use super::shared::Shared;
use super::trouble::Trouble;
use super::wake::{CHANNEL, Notice};
use crate::model::message::Name;
use crate::store::{Change, Error, REMEMBERED};

/// Interval between two looks at the lanes of others and at deliveries whose notice was lost.
const LOOK: Duration = Duration::from_secs(1);

/// The pause before the next attempt to connect.
const RECONNECT: Duration = Duration::from_millis(500);

/// Upper bound of the notices that are sent together.
const TOGETHER: usize = 64;

/// Renews the row of this daemon and its lanes, and removes the rows of those that died long ago.
const RENEW: &str = "
    WITH present AS (
        INSERT INTO node AS n (name, instance, started_at, seen_at, version, fingerprint, destinations)
        VALUES ($1, $2, clock_timestamp(), clock_timestamp(), $3, $4, $5)
        ON CONFLICT (name) DO UPDATE SET
            started_at = CASE WHEN n.instance = excluded.instance THEN n.started_at ELSE excluded.started_at END,
            instance = excluded.instance, seen_at = excluded.seen_at, version = excluded.version,
            fingerprint = excluded.fingerprint, destinations = excluded.destinations
    ), forgotten AS (
        DELETE FROM node WHERE name <> $1 AND name = ANY (ARRAY(
            SELECT name FROM node WHERE seen_at < clock_timestamp() - $9::double precision * interval '1 second'
            FOR UPDATE SKIP LOCKED
        ))
    )
    UPDATE lane l SET lease_until = clock_timestamp() + $6::double precision * interval '1 second'
    FROM unnest($7::text[], $8::bigint[]) AS o(destination, epoch)
    WHERE l.destination = o.destination AND l.epoch = o.epoch AND l.instance = $2
    RETURNING l.destination";

const CREATE: &str = "
    INSERT INTO lane (destination) SELECT * FROM unnest($1::text[]) ON CONFLICT DO NOTHING";

/// The state of lanes, and the other live daemons that serve them: all of them, and those that have been up for a lease.
const INSPECT: &str = "
    SELECT l.destination,
        l.lease_until <= clock_timestamp() OR l.instance = $2 AS free,
        l.lease_until <= clock_timestamp() - 2 * $3::double precision * interval '1 second' AS neglected,
        ARRAY(
            SELECT n.name FROM node n
            WHERE n.seen_at > clock_timestamp() - $3::double precision * interval '1 second'
                AND l.destination = ANY(n.destinations)
        ) AS live,
        ARRAY(
            SELECT n.name FROM node n
            WHERE n.seen_at > clock_timestamp() - $3::double precision * interval '1 second'
                AND n.started_at < clock_timestamp() - $3::double precision * interval '1 second'
                AND l.destination = ANY(n.destinations)
        ) AS settled
    FROM lane l WHERE l.destination = ANY($1::text[])";

/// Skips a lane that a transaction of its former owner still uses; the next look finds it free.
const ACQUIRE: &str = "
    UPDATE lane l SET
        owner = $1, instance = $2, epoch = l.epoch + 1, since = clock_timestamp(),
        lease_until = clock_timestamp() + $3::double precision * interval '1 second'
    FROM (
        SELECT destination FROM lane
        WHERE destination = ANY($4::text[]) AND (lease_until <= clock_timestamp() OR instance = $2)
        FOR UPDATE SKIP LOCKED
    ) free
    WHERE l.destination = free.destination
    RETURNING l.destination, l.epoch";

const RELEASE: &str = "
    UPDATE lane SET owner = NULL, instance = NULL, since = NULL, lease_until = clock_timestamp()
    WHERE destination = ANY($1::text[]) AND instance = $2";

const GONE: &str = "DELETE FROM node WHERE name = $1 AND instance = $2";

/// The destinations with unclaimed deliveries to look at.
const POLL: &str = "
    SELECT d FROM unnest($1::text[]) AS d
    WHERE EXISTS (
        SELECT FROM delivery e WHERE e.destination = d AND e.stage = 0 AND NOT EXISTS (
            SELECT FROM unnest($2::uuid[], $3::smallint[]) AS l(message, ordinal)
            WHERE l.message = e.message AND l.ordinal = e.ordinal
        )
    )";

/// The pauses by operators, whose notices may be lost.
const PAUSES: &str = "
    SELECT destination FROM lane WHERE paused ORDER BY destination";

const NOTIFY: &str = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload";

/// The task.
pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) notices: mpsc::Receiver<Notice>,
    pub(super) stop: CancellationToken,
}

/// The connection and what has been sent through it.
struct Session {
    connection: Dedicated,
    renewed: Option<Moment>,
    /// The paused destinations of the last look.
    paused: Option<BTreeSet<Name>>,
}

impl Keeper {
    /// Keeps the lanes until it is stopped, and reconnects when a connection is lost. Then it releases them.
    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        loop {
            let connecting = stop.run_until_cancelled(self.shared.pool.dedicated()).await;
            let ended = match connecting {
                None => return,
                Some(Ok((connection, incoming))) => {
                    let session = Session {
                        connection,
                        renewed: None,
                        paused: None,
                    };
                    self.keep(session, incoming).await
                }
                Some(Err(error)) => Err(Error::from(error).into()),
            };
            match ended {
                Ok(()) => return,
                Err(trouble) => tracing::debug!("cannot renew the lane leases: {}", Error::from(trouble)),
            }
            if stop
                .run_until_cancelled(tokio::time::sleep(RECONNECT))
                .await
                .is_none()
            {
                return;
            }
        }
    }

    async fn keep(
        &mut self,
        mut session: Session,
        mut incoming: mpsc::Receiver<Notification>,
    ) -> Result<(), Trouble> {
        self.listen(&session).await?;
        self.look(&mut session).await?;
        self.pauses(&mut session).await?;
        // Notices sent before this connection was opened are lost.
        self.tell(Change::All);
        let mut ticks = tokio::time::interval(LOOK.min(self.shared.lease / 3));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.stop.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => return self.leave(&session).await,
                _ = ticks.tick() => {
                    self.look(&mut session).await?;
                    self.pauses(&mut session).await?;
                    self.poll(&session).await?;
                }
                Some(request) = self.requests.recv() => {
                    session.renewed = None;
                    self.look(&mut session).await?;
                    let _ = request.send(());
                }
                Some(notice) = self.notices.recv() => {
                    let notices = self.gathered(notice);
                    self.send(&session, notices).await?;
                }
                notification = incoming.recv() => match notification {
                    Some(notification) => self.receive(&mut session, notification.payload()).await?,
                    None => return Err(Error::Unavailable("the connection was closed".to_owned()).into()),
                },
            }
        }
    }

    /// Asks for notices. They are hints, so a server or pooler that refuses them must not stop the renewals.
    async fn listen(&self, session: &Session) -> Result<(), Trouble> {
        let listen = format!("LISTEN {CHANNEL}");
        let refused = match within(self.patience(), session.connection.batch_execute(&listen)).await {
            Ok(()) => None,
            Err(trouble) => Some(trouble.refusal().ok_or(trouble)?),
        };
        self.shared.monitor.listens(refused);
        Ok(())
    }

    /// Tells the lanes when the paused destinations are not those of the last look.
    async fn pauses(&self, session: &mut Session) -> Result<(), Trouble> {
        let rows = within(self.patience(), session.connection.query(PAUSES, &[])).await?;
        let paused = names_of(&rows)?;
        let before = session.paused.replace(paused);
        if before.is_some() && before != session.paused {
            self.tell(Change::Paused);
        }
        Ok(())
    }

    /// The time limit of each request: a third of the lease, so that a hanging connection is replaced in time.
    fn patience(&self) -> Duration {
        self.shared.lease / 3
    }

    fn tell(&self, change: Change) {
        // Without lanes there is no receiver.
        drop(self.shared.changes.send(change));
    }

    /// Renews the lanes if it is time, acquires those that are free and begins and ends hand-overs.
    async fn look(&self, session: &mut Session) -> Result<(), Trouble> {
        if session
            .renewed
            .is_none_or(|renewed| renewed.elapsed() >= self.patience())
        {
            session.renewed = Some(self.renew(session).await?);
        }
        self.acquire(session).await?;
        self.hand_over(session).await
    }

    async fn renew(&self, session: &Session) -> Result<Moment, Trouble> {
        let Shared {
            node,
            instance,
            lease,
            lanes,
            ..
        } = &*self.shared;
        let owned = lanes.owned();
        let (names, epochs): (Vec<&str>, Vec<i64>) =
            owned.iter().map(|(name, epoch)| (name.as_str(), *epoch)).unzip();
        let wanted = lanes.wanted();
        let wanted: Vec<&str> = wanted.iter().map(Name::as_str).collect();
        let (version, fingerprint) = (env!("CARGO_PKG_VERSION"), self.shared.fingerprint());
        let (seconds, remembered) = (lease.as_secs_f64(), REMEMBERED.as_secs_f64());
        let sent = Moment::now();
        let parameters: [&(dyn ToSql + Sync); 9] = [
            node,
            instance,
            &version,
            &fingerprint,
            &wanted,
            &seconds,
            &names,
            &epochs,
            &remembered,
        ];
        let rows = within(self.patience(), session.connection.query(RENEW, &parameters)).await?;
        let renewed = names_of(&rows)?;
        for (name, epoch) in &owned {
            if renewed.contains(name) {
                lanes.hold(name, *epoch, sent + *lease);
            } else {
                tracing::warn!(destination = %name, "another daemon serves destination {name} now, because its lease expired here");
                self.shared.leases().lose(name);
                lanes.forget(name);
            }
        }
        Ok(sent)
    }

    async fn acquire(&self, session: &Session) -> Result<(), Trouble> {
        let Shared {
            node,
            instance,
            lease,
            lanes,
            ..
        } = &*self.shared;
        let missing = lanes.missing();
        if missing.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = missing.iter().map(Name::as_str).collect();
        within(self.patience(), session.connection.execute(CREATE, &[&names])).await?;
        let inspected = self.inspect(session, &names).await?;
        let own = |lane: &&Inspected| lane.is_neglected || first(&lane.name, node, &lane.live) == node;
        let free = inspected.iter().filter(|lane| lane.is_free).filter(own);
        let free: Vec<&str> = free.map(|lane| lane.name.as_str()).collect();
        if free.is_empty() {
            return Ok(());
        }
        let seconds = lease.as_secs_f64();
        let sent = Moment::now();
        let parameters: [&(dyn ToSql + Sync); 4] = [node, instance, &seconds, &free];
        let acquired = within(self.patience(), session.connection.query(ACQUIRE, &parameters)).await?;
        for row in acquired {
            let name = name_of(&row)?;
            lanes.hold(&name, row.try_get(1)?, sent + *lease);
            tracing::info!(destination = %name, "this daemon serves destination {name}");
            self.tell(Change::Work(name));
        }
        Ok(())
    }

    /// Stops claiming from lanes that another daemon is to serve, and releases those whose claims have ended.
    async fn hand_over(&self, session: &Session) -> Result<(), Trouble> {
        let Shared { node, lanes, .. } = &*self.shared;
        let owned = lanes.owned();
        let names: Vec<&str> = owned.iter().map(|(name, _)| name.as_str()).collect();
        if names.is_empty() {
            return Ok(());
        }
        for lane in self.inspect(session, &names).await? {
            let other = first(&lane.name, node, &lane.settled);
            if other != node && !lanes.leaving().contains(&lane.name) {
                tracing::info!(destination = %lane.name, "destination {} is handed over to {other}", lane.name);
                lanes.leave(&lane.name);
            }
        }
        let ended = |name: &Name| self.shared.leases().count(name) == 0;
        let ended: Vec<Name> = lanes.leaving().into_iter().filter(ended).collect();
        self.release(session, &ended).await
    }

    async fn release(&self, session: &Session, lanes: &[Name]) -> Result<(), Trouble> {
        if lanes.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = lanes.iter().map(Name::as_str).collect();
        let parameters: [&(dyn ToSql + Sync); 2] = [&names, &self.shared.instance];
        // First here: from now on no attempt starts. If the release fails, the lane ends with its lease.
        for name in lanes {
            self.shared.lanes.forget(name);
        }
        within(self.patience(), session.connection.execute(RELEASE, &parameters)).await?;
        for name in lanes {
            self.send(session, [Notice::Free(name.clone())]).await?;
        }
        Ok(())
    }

    async fn inspect(&self, session: &Session, names: &[&str]) -> Result<Vec<Inspected>, Trouble> {
        let seconds = self.shared.lease.as_secs_f64();
        let parameters: [&(dyn ToSql + Sync); 3] = [&names, &self.shared.instance, &seconds];
        let rows = within(self.patience(), session.connection.query(INSPECT, &parameters)).await?;
        rows.iter().map(Inspected::read).collect()
    }

    /// Wakes the lanes whose notices were lost.
    async fn poll(&self, session: &Session) -> Result<(), Trouble> {
        let owned = self.shared.lanes.owned();
        if owned.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = owned.iter().map(|(name, _)| name.as_str()).collect();
        let (messages, ordinals) = self.shared.leases().all();
        let parameters: [&(dyn ToSql + Sync); 3] = [&names, &messages, &ordinals];
        let rows = within(self.patience(), session.connection.query(POLL, &parameters)).await?;
        for name in names_of(&rows)? {
            self.tell(Change::Work(name));
        }
        Ok(())
    }

    /// Sends notices. Work for an own lane concerns no other daemon.
    async fn send(
        &self,
        session: &Session,
        notices: impl IntoIterator<Item = Notice>,
    ) -> Result<(), Trouble> {
        let concerns = |notice: &Notice| match notice {
            Notice::Work(name) | Notice::Changed(name) => !self.shared.lanes.is_owned(name),
            Notice::Free(_) | Notice::Paused => true,
        };
        let payloads = notices.into_iter().filter(concerns);
        let payloads: Vec<String> = payloads
            .map(|notice| notice.payload(self.shared.instance))
            .collect();
        if payloads.is_empty() {
            return Ok(());
        }
        let parameters: [&(dyn ToSql + Sync); 2] = [&CHANNEL, &payloads];
        within(self.patience(), session.connection.execute(NOTIFY, &parameters)).await?;
        Ok(())
    }

    /// This notice and those that wait, each once.
    fn gathered(&mut self, notice: Notice) -> BTreeSet<Notice> {
        let mut notices = BTreeSet::from([notice]);
        while notices.len() < TOGETHER
            && let Ok(notice) = self.notices.try_recv()
        {
            notices.insert(notice);
        }
        notices
    }

    async fn receive(&self, session: &mut Session, payload: &str) -> Result<(), Trouble> {
        match Notice::parse(payload, self.shared.instance) {
            Some(Notice::Work(name)) => self.tell(Change::Work(name)),
            Some(Notice::Changed(name)) => {
                self.shared.lanes.look_again(&name);
                self.tell(Change::Work(name));
            }
            Some(Notice::Paused) => self.tell(Change::Paused),
            Some(Notice::Free(_)) => self.look(session).await?,
            None => {}
        }
        Ok(())
    }

    /// Releases all lanes and removes the row of this daemon.
    async fn leave(&self, session: &Session) -> Result<(), Trouble> {
        let owned: Vec<Name> = self
            .shared
            .lanes
            .owned()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        let parameters: [&(dyn ToSql + Sync); 2] = [&self.shared.node, &self.shared.instance];
        within(self.patience(), session.connection.execute(GONE, &parameters)).await?;
        self.release(session, &owned).await
    }
}

/// A lane in the database.
struct Inspected {
    name: Name,
    is_free: bool,
    /// No daemon has acquired it for two leases.
    is_neglected: bool,
    live: Vec<String>,
    settled: Vec<String>,
}

impl Inspected {
    fn read(row: &Row) -> Result<Self, Trouble> {
        Ok(Self {
            name: name_of(row)?,
            is_free: row.try_get::<_, Option<bool>>(1)?.unwrap_or_default(),
            is_neglected: row.try_get(2)?,
            live: row.try_get(3)?,
            settled: row.try_get(4)?,
        })
    }
}

async fn within<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Trouble> {
    match tokio::time::timeout(limit, request).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Error::Unavailable("no answer in time".to_owned()).into()),
    }
}

fn name_of(row: &Row) -> Result<Name, Trouble> {
    let name: &str = row.try_get(0)?;
    name.parse()
        .map_err(|error| Error::Failed(format!("a destination in the database: {error}")).into())
}

fn names_of(rows: &[Row]) -> Result<BTreeSet<Name>, Trouble> {
    rows.iter().map(name_of).collect()
}
