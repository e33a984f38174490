//! A lane: what carries texts to one destination, and never waits for another.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::attempt;
use super::gate::Cause;
use super::shared::Shared;
use crate::plan::{Plan, PlannedDestination};
use crate::store::Claim;

/// After a read of the store failed.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// After a claim that gave nothing, whatever the store says is due: a bound on how often it is asked.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The longest a lane sleeps without looking: a net under every wake-up.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// How many overaged deliveries are given up in one step.
const EXPIRE_STEP: usize = 64;

/// The task of one lane.
pub(super) struct Lane {
    shared: Arc<Shared>,
    plan: watch::Receiver<Arc<Plan>>,
    destination: Arc<PlannedDestination>,
    running: JoinSet<()>,
    send_next: Instant,
    stop: CancellationToken,
}

impl Lane {
    pub(super) fn new(
        shared: Arc<Shared>,
        plan: watch::Receiver<Arc<Plan>>,
        destination: Arc<PlannedDestination>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            shared,
            plan,
            destination,
            running: JoinSet::new(),
            send_next: Instant::now(),
            stop,
        }
    }

    /// Carries texts until it is stopped or its destination is configured away; then ends what is under way.
    pub(super) async fn run(mut self) {
        loop {
            let wait = self.fill().await;
            let wake = self.shared.notify.notified();
            tokio::select! {
                () = self.stop.cancelled() => break,
                changed = self.plan.changed() => {
                    if changed.is_err() || !self.reload() {
                        break;
                    }
                }
                Some(_) = self.running.join_next(), if !self.running.is_empty() => {}
                () = wake => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        while self.running.join_next().await.is_some() {}
    }

    /// Takes up the new plan; false when this destination is no longer in it.
    fn reload(&mut self) -> bool {
        let plan = self.plan.borrow_and_update().clone();
        let Some(destination) = plan.destinations.get(&self.shared.name) else {
            return false;
        };
        self.destination = destination.clone();
        // Whoever reloads may have mended something elsewhere, too. A pause that was asked for stays.
        if self
            .shared
            .gate()
            .closed()
            .is_some_and(|closed| closed.cause != Cause::Limited)
        {
            self.shared.gate().reset();
        }
        true
    }

    /// Starts what may be started now, and says how long there is nothing more to start.
    async fn fill(&mut self) -> Duration {
        while self.running.try_join_next().is_some() {}
        self.shared.inner().running = self.running.len();
        if self.shared.inner().paused {
            return IDLE_MAX;
        }
        let allowed = self.allowed();
        let started = match allowed {
            0 => 0,
            _ => match self.claim(allowed).await {
                Ok(started) => started,
                Err(wait) => return wait,
            },
        };
        self.expire().await;
        let wait = self.wait().await;
        if allowed > 0 && started == 0 {
            wait.max(LOOK_AGAIN)
        } else {
            wait
        }
    }

    fn allowed(&self) -> usize {
        let now = self.shared.clock.now();
        let allowed = self
            .shared
            .gate()
            .allows(self.running.len(), self.destination.concurrency, now);
        match self.destination.rate {
            Some(_) if Instant::now() < self.send_next => 0,
            Some(_) => allowed.min(1),
            None => allowed,
        }
    }

    /// Claims and starts up to `limit` deliveries; the permit is taken before the work.
    async fn claim(&mut self, limit: usize) -> Result<usize, Duration> {
        let now = self.shared.clock.now();
        let claims = self
            .shared
            .store
            .claim(&self.shared.name, now, limit)
            .await
            .map_err(|error| {
                tracing::error!(destination = %self.shared.name, "the store could not be read: {error}");
                STORE_PAUSE
            })?;
        let started = claims.len();
        if let (Some(rate), true) = (self.destination.rate, started > 0) {
            self.send_next = Instant::now() + Duration::from_secs_f64(1.0 / rate);
        }
        for claim in claims {
            self.start(claim);
        }
        self.shared.inner().running = self.running.len();
        Ok(started)
    }

    fn start(&mut self, claim: Claim) {
        let plan = self.plan.borrow().clone();
        self.running.spawn(attempt::run(
            self.shared.clone(),
            plan,
            self.destination.clone(),
            claim,
        ));
    }

    /// How long until a claim could succeed. Without a free place, the end of an attempt wakes the lane.
    async fn wait(&self) -> Duration {
        let now = self.shared.clock.now();
        let gate = self
            .shared
            .gate()
            .closed()
            .map_or(Duration::ZERO, |closed| closed.until.since(now));
        if gate.is_zero() && self.running.len() >= self.destination.concurrency {
            return IDLE_MAX;
        }
        if !gate.is_zero() {
            return gate.min(IDLE_MAX);
        }
        let rate = match self.destination.rate {
            Some(_) => self.send_next.saturating_duration_since(Instant::now()),
            None => Duration::ZERO,
        };
        match self.shared.store.next_due(&self.shared.name).await {
            Ok(None) => IDLE_MAX,
            Ok(Some(_)) if self.probing() => IDLE_MAX,
            Ok(Some(due)) => due.since(self.shared.clock.now()).max(rate).min(IDLE_MAX),
            Err(_) => STORE_PAUSE,
        }
    }

    /// Whether the one probe of a closed gate is under way; its end wakes the lane.
    fn probing(&self) -> bool {
        self.shared.gate().closed().is_some() && !self.running.is_empty()
    }

    /// While the destination is out, what has waited longer than its patience is given up without a try of
    /// its own: the probes' failures are its failures.
    async fn expire(&mut self) {
        let reason = match self.shared.gate().closed() {
            Some(closed) if closed.cause == Cause::Down && closed.failures >= 2 => closed.reason.clone(),
            _ => return,
        };
        let now = self.shared.clock.now();
        let overdue = now.before(self.destination.policy.give_up_after);
        match self.shared.store.backlog(&self.shared.name).await {
            Ok(backlog) if backlog.oldest.is_some_and(|oldest| oldest < overdue) => {}
            _ => return,
        }
        let Ok(claims) = self.shared.store.claim(&self.shared.name, now, EXPIRE_STEP).await else {
            return;
        };
        for claim in claims {
            if claim.delivery.created_at >= overdue {
                self.shared.store.release(claim).await;
                continue;
            }
            let reason = format!("given up while the destination could not be reached: {reason}");
            let dead = claim.delivery.dead(None, now, &reason);
            let settlement = attempt::bury(&self.shared, &self.destination, claim.token, dead);
            attempt::settle(&self.shared, settlement).await;
        }
    }
}
