//! Carries the known time and the states of the destinations from one run to the next, and watches for a
//! wrong clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::engine::clock::Clock;
use crate::engine::lanes::Lanes;
use crate::model::delivery::Delivery;
use crate::model::message::{Name, Timestamp};
use crate::plan::Plan;
use crate::store::{Cause, Error, Query, Standings, Store};
use crate::timeline::Timeline;

/// Interval of reading the clocks. After a crash, the time since the last reading counts as downtime.
const OBSERVE: Duration = Duration::from_secs(60);

/// Interval of comparing the states of the destinations with the stored ones. After a crash, only changes within this
/// time are lost, including requests for a pause.
const COMPARE: Duration = Duration::from_secs(1);

/// Delay after a failed store operation.
const STORE_PAUSE: Duration = Duration::from_secs(5);

/// Minimum delay that counts as waiting for a wrong date.
const WAIT_MAX: Duration = Duration::from_secs(3_600);

/// Watches the clocks.
pub(super) struct Timekeeper {
    pub(super) store: Arc<dyn Store>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) clock: Clock,
    pub(super) plan: watch::Receiver<Arc<Plan>>,
}

/// Continues from the last run. Returns true if deliveries of that run may be due in the future because its
/// clock was ahead.
///
/// A store on which no daemon with this knowledge has run has the time of its newest message.
pub(super) async fn resume(store: &dyn Store, clock: &Clock) -> anyhow::Result<bool> {
    let known = store.timeline().await.context("the store could not be read")?;
    let is_known = known.is_some();
    let last = match known {
        Some(last) => Some(last),
        None => newest(store).await.context("the store could not be read")?,
    };
    let is_set_back = last.is_some_and(|last| clock.resume(&last) || !is_known);
    if let Some(doubt) = clock.doubt() {
        tracing::warn!("{doubt}");
    }
    Ok(is_set_back)
}

async fn newest(store: &dyn Store) -> Result<Option<Timeline>, Error> {
    let query = Query {
        limit: 1,
        ..Query::default()
    };
    let newest = store.messages(&query).await?.items.pop();
    Ok(newest.map(|found| {
        let received_at = found.message.received_at;
        let created = found.deliveries.iter().map(Delivery::pending_since);
        Timeline::new(received_at, created.max().unwrap_or(received_at))
    }))
}

impl Timekeeper {
    /// Observes the clocks until stopped. Deliveries that are due too late are brought forward first, because
    /// the next run could not detect that the clock was set back.
    pub(super) async fn keep(self, is_set_back: bool, stop: CancellationToken) {
        if is_set_back && stop.run_until_cancelled(self.bring_forward()).await.is_none() {
            return;
        }
        let mut is_doubted = self.clock.doubt().is_some();
        let mut remembered = Standings::default();
        let mut observed = Instant::now();
        let mut is_apart = false;
        loop {
            stop.run_until_cancelled(tokio::time::sleep(COMPARE)).await;
            // The last thing before the end is an observation.
            let is_stopping = stop.is_cancelled();
            let is_due = is_stopping || observed.elapsed() >= OBSERVE;
            if is_due {
                observed = Instant::now();
                is_doubted = self.observe(is_doubted).await;
            }
            is_apart = self.compare(is_apart);
            let standings = self.lanes.standings();
            if is_due || faults(&standings).ne(faults(&remembered)) {
                self.remember(standings, &mut remembered).await;
            }
            if is_stopping {
                return;
            }
        }
    }

    /// Writes the states of the destinations, if they differ from the last written ones.
    async fn remember(&self, standings: Standings, remembered: &mut Standings) {
        if standings == *remembered {
            return;
        }
        match self.store.set_standings(&standings).await {
            Ok(()) => *remembered = standings,
            Err(error) => tracing::debug!("cannot record the state of the destinations: {error}"),
        }
    }

    /// Compares the clock with that of a shared store, and logs when that begins or ends to be far from it. Returns
    /// whether it is.
    fn compare(&self, was_apart: bool) -> bool {
        let Some(agreed) = self.store.clock() else {
            return was_apart;
        };
        let difference = self.clock.difference(agreed);
        match (was_apart, &difference) {
            (false, Some(difference)) => tracing::warn!("{difference}"),
            (true, None) => {
                tracing::info!("the clock of this machine agrees with that of the database again");
            }
            _ => {}
        }
        difference.is_some()
    }

    async fn bring_forward(&self) {
        // The deliveries of a shared store are not due too late because the clock of this machine was set back.
        let now = self.clock.now();
        let now = self.store.clock().map_or(now, |agreed| agreed.max(now));
        let longest = self.longest_wait();
        let count = loop {
            match self.store.advance(now.after(longest), now).await {
                Ok(count) => break count,
                Err(Error::Busy | Error::Slow | Error::Full(_) | Error::Unavailable(_)) => {
                    tokio::time::sleep(STORE_PAUSE).await;
                }
                Err(error) => {
                    tracing::error!("cannot reschedule deliveries that are due too late: {error}");
                    return;
                }
            }
        };
        if count > 0 {
            let longest = humantime::format_duration(longest);
            tracing::warn!(
                "the clock was ahead and has been set back: {count} pending deliveries were due more than {longest} \
                 from now; they are due now"
            );
            let plan = self.plan.borrow().clone();
            plan.destinations.keys().for_each(|name| self.lanes.wake(name));
        }
    }

    fn longest_wait(&self) -> Duration {
        let plan = self.plan.borrow();
        let waits = plan
            .destinations
            .values()
            .map(|destination| destination.policy.max);
        waits.max().unwrap_or_default().max(WAIT_MAX)
    }

    /// Reads the clocks and logs what changed. Returns whether they are distrusted.
    async fn observe(&self, was_doubted: bool) -> bool {
        let timeline = self.clock.observe();
        if let Err(error) = self.store.set_timeline(&timeline).await {
            tracing::debug!("cannot record the time: {error}");
        }
        match (was_doubted, self.clock.doubt()) {
            (false, Some(doubt)) => tracing::warn!("{doubt}"),
            (true, None) => tracing::info!("the system clock is trusted from now on: {}", self.clock.wall()),
            _ => return was_doubted,
        }
        !was_doubted
    }
}

/// The part that is written immediately, because a crash must not lose it. The time of the last delivery changes too often.
fn faults(standings: &Standings) -> impl Iterator<Item = (&Name, bool, Option<(Cause, Option<Timestamp>)>)> {
    standings.iter().map(|(name, standing)| {
        let fault = standing.fault.as_ref();
        let fault = fault.map(|fault| (fault.cause, fault.pause.and_then(|pause| pause.until)));
        (name, standing.is_tested, fault)
    })
}
