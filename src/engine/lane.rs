//! A lane: delivers messages to one destination, independent of all others.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batch::BatchAttempt;
use super::circuit_breaker::Cause;
use super::gathering::{self, Gathering};
use super::hand_over::HandOvers;
use super::in_flight::MemoryPermit;
use super::lane_state::LaneState;
use super::rate_limiter::RateLimiter;
use super::{attempt, outcome};
use crate::destination::{Batching, Joins};
use crate::mask::Reason;
use crate::model::message::Timestamp;
use crate::plan::{Plan, PlannedDestination};
use crate::store::{ANY_TIME, Claim, Error, Selector};

/// The pause after a failed read of the store.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// The minimum pause after a claim without result, even if the store reports due deliveries.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The longest sleep of a lane, in case a wake-up is missed.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// How many overdue deliveries are given up in one step.
const EXPIRE_STEP: usize = 512;

/// How many due deliveries are claimed at once while a time interval holds deliveries.
const HOLD_STEP: usize = 512;

/// How many deliveries are given up or held concurrently, to share commits.
const EXPIRE_AT_ONCE: usize = 64;

/// The pause after a step that gave up nothing although a delivery is overdue: it is in progress, or behind an
/// earlier message of its conversation.
const EXPIRE_AGAIN: Duration = Duration::from_secs(1);

/// The task of one lane.
pub(super) struct Lane {
    state: Arc<LaneState>,
    plan: watch::Receiver<Arc<Plan>>,
    destination: Arc<PlannedDestination>,
    running: JoinSet<()>,
    limiter: Option<RateLimiter>,
    gathering: Gathering,
    expire_next: Instant,
    hand_overs: HandOvers,
    /// A due delivery was left in the store because the memory for messages is in use.
    is_memory_full: bool,
    /// Why deliveries may have been held by another configuration.
    hold_change: Option<HoldChange>,
    stop: CancellationToken,
}

/// Why the configuration of holds may have changed.
#[derive(Clone, Copy)]
enum HoldChange {
    /// The daemon was started.
    Start,
    /// The configuration was reloaded.
    Reload,
}

impl Lane {
    pub(super) fn new(
        state: Arc<LaneState>,
        plan: watch::Receiver<Arc<Plan>>,
        destination: Arc<PlannedDestination>,
        stop: CancellationToken,
    ) -> Self {
        let now = Instant::now();
        Self {
            state,
            plan,
            limiter: destination.rate.map(|rate| RateLimiter::new(rate, now)),
            hold_change: (!destination.hold_during.is_empty()).then_some(HoldChange::Start),
            destination,
            gathering: Gathering::default(),
            running: JoinSet::new(),
            expire_next: now,
            hand_overs: HandOvers::default(),
            is_memory_full: false,
            stop,
        }
    }

    /// Delivers messages until the lane is stopped or its destination is removed. If the destination is back before
    /// the last attempt has ended, this lane continues.
    pub(super) async fn run(mut self) {
        loop {
            let stopped = self.reload() && self.carry().await;
            while self.running.join_next().await.is_some() {
                self.state.inner().running = self.running.len();
            }
            if stopped || self.state.end(&self.plan) {
                return;
            }
        }
    }

    /// Delivers messages. Returns true if the lane was stopped, false if its destination is not in the plan.
    async fn carry(&mut self) -> bool {
        loop {
            let wait = self.fill().await;
            let wake = self.state.notify.notified();
            tokio::select! {
                () = self.stop.cancelled() => return true,
                changed = self.plan.changed() => {
                    if changed.is_err() {
                        return true;
                    }
                    if !self.reload() {
                        return false;
                    }
                }
                Some(_) = self.running.join_next(), if !self.running.is_empty() => {}
                () = wake => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Applies the new plan. Returns false if the destination is not in it.
    fn reload(&mut self) -> bool {
        let plan = self.plan.borrow_and_update().clone();
        let Some(destination) = plan.destinations.get(&self.state.name) else {
            return false;
        };
        if destination.rate != self.destination.rate {
            self.limiter = destination
                .rate
                .map(|rate| RateLimiter::new(rate, Instant::now()));
        }
        let is_changed = !Arc::ptr_eq(destination, &self.destination);
        if destination.hold_during != self.destination.hold_during {
            self.hold_change = Some(HoldChange::Reload);
        }
        if is_changed {
            self.state.set_tested(false);
            self.hand_overs = HandOvers::default();
        }
        self.destination = destination.clone();
        // The operator may have fixed the configuration or an external cause: only an attempt shows it.
        self.state.breaker().probe(self.state.clock.now());
        true
    }

    /// Starts as many deliveries as are allowed. Returns how long no more can start.
    async fn fill(&mut self) -> Duration {
        while self.running.try_join_next().is_some() {}
        self.state.inner().running = self.running.len();
        self.end_holds().await;
        let handed_over = self.hand_overs.step(&self.state, &self.destination).await;
        if self.state.inner().paused {
            return handed_over.min(IDLE_MAX);
        }
        self.is_memory_full = false;
        let allowed = self.allowed();
        let started = match allowed {
            0 => 0,
            _ => match self.claim(allowed).await {
                Ok(started) => started,
                Err(wait) => return wait,
            },
        };
        self.show();
        let overdue = self.expire().await;
        let wait = self.wait().await.min(overdue).min(handed_over);
        if allowed > 0 && started == 0 {
            wait.max(LOOK_AGAIN)
        } else {
            wait
        }
    }

    /// Makes deliveries due that another configuration held. If deliveries are still to be held, only the first of each
    /// conversation, which is then held again.
    async fn end_holds(&mut self) {
        let Some(change) = self.hold_change else {
            return;
        };
        let (name, now) = (&self.state.name, self.state.clock.now());
        let ended = match (change, self.hold_end()) {
            (HoldChange::Reload, None) => {
                let all = Selector::Pending(name.clone());
                self.state.store.requeue(&all, now).await.map(drop)
            }
            _ => self.state.store.retry_now(name, now).await.map(drop),
        };
        match ended {
            Ok(()) => self.hold_change = None,
            Err(error) => tracing::debug!(destination = %name, "deliveries are held as before: {error}"),
        }
    }

    fn allowed(&self) -> usize {
        let now = self.state.clock.now();
        let allowed = self
            .state
            .breaker()
            .permits(self.running.len(), self.destination.concurrency, now);
        match &self.limiter {
            Some(limiter) => allowed.min(limiter.permits(Instant::now())),
            None => allowed,
        }
    }

    /// Claims and starts up to `limit` deliveries; permits are acquired before work is claimed.
    async fn claim(&mut self, limit: usize) -> Result<usize, Duration> {
        let held_until = self.hold_end();
        if let Some((batch, joins)) = gathering::joined(&self.destination)
            && self.state.breaker().open().is_none()
            && held_until.is_none()
        {
            return self.claim_batch(batch, joins).await;
        }
        let claims = match held_until {
            Some(until) => self.hold(limit, until).await?,
            None => self.due(limit).await?,
        };
        let mut started = 0;
        for claim in claims {
            let Some(memory) = self.reserve_memory(&claim) else {
                self.is_memory_full = true;
                self.state.store.release(claim).await;
                continue;
            };
            self.start(claim, memory);
            started += 1;
        }
        if let Some(limiter) = &mut self.limiter {
            limiter.took(started, Instant::now());
        }
        Ok(started)
    }

    /// Claims and starts one post, unless more messages are gathered for it. Returns 1, or 0 if nothing was started.
    async fn claim_batch(&mut self, batch: Batching, joins: Joins) -> Result<usize, Duration> {
        let now = Instant::now();
        if !self.gathering.wait(now).is_zero() {
            let backlog = self.state.store.backlog(&self.state.name).await;
            let pending = backlog.map_err(|_| STORE_PAUSE)?.pending;
            if pending < batch.max as u64 {
                return Ok(0);
            }
        }
        let mut claims = gathering::claims(&self.state, batch, joins, async |due, limit| {
            self.claimed(due, limit).await
        })
        .await?;
        let mut memory = Vec::new();
        let sendable = gathering::sendable(&claims);
        while let Some(claim) = claims.get(memory.len()).filter(|_| memory.len() < sendable) {
            let permit = match memory.is_empty() {
                true => self.reserve_memory(claim),
                false => self.state.memory.reserve(claim.message.size()),
            };
            let Some(permit) = permit else { break };
            memory.push(permit);
        }
        self.is_memory_full = memory.len() < sendable;
        for claim in claims.split_off(memory.len()).into_iter().rev() {
            self.state.store.release(claim).await;
        }
        if claims.is_empty() {
            return Ok(0);
        }
        self.gathering.began(now, batch.wait);
        if let Some(limiter) = &mut self.limiter {
            limiter.took(1, now);
        }
        self.start_batch(claims, memory);
        Ok(1)
    }

    fn start_batch(&mut self, mut claims: Vec<Claim>, mut memory: Vec<MemoryPermit>) {
        if claims.len() > 1 {
            let batch = BatchAttempt {
                lane: self.state.clone(),
                plan: self.plan.borrow().clone(),
                destination: self.destination.clone(),
                claims,
            };
            let stop = self.stop.clone();
            self.running.spawn(async move {
                batch.run(stop).await;
                drop(memory);
            });
        } else if let (Some(claim), Some(memory)) = (claims.pop(), memory.pop()) {
            self.start(claim, memory);
        }
    }

    async fn due(&self, limit: usize) -> Result<Vec<Claim>, Duration> {
        let claims = self.claimed(self.state.clock.now(), limit).await?;
        // A probe was requested but nothing is due, so the next delivery is taken.
        if claims.is_empty() && self.state.breaker().is_probe_requested() {
            return self.claimed(ANY_TIME, limit).await;
        }
        Ok(claims)
    }

    /// The end of the time intervals that hold deliveries now.
    fn hold_end(&self) -> Option<Timestamp> {
        self.state.clock.hold_end(&self.destination.hold_during)
    }

    /// Postpones the due deliveries that may not be sent before `until`, and returns up to `limit` others.
    async fn hold(&self, limit: usize, until: Timestamp) -> Result<Vec<Claim>, Duration> {
        let mut passing = Vec::new();
        while passing.len() < limit {
            let claims = self.claimed(self.state.clock.now(), HOLD_STEP).await?;
            if claims.is_empty() {
                break;
            }
            let (passed, held): (Vec<_>, Vec<_>) = claims
                .into_iter()
                .partition(|claim| claim.delivery.passes_holds());
            let is_last = held.is_empty();
            passing.extend(passed);
            stream::iter(held)
                .for_each_concurrent(EXPIRE_AT_ONCE, |claim| self.hold_conversation(claim, until))
                .await;
            if is_last || self.stop.is_cancelled() {
                break;
            }
        }
        for claim in passing.drain(limit.min(passing.len())..) {
            self.state.store.release(claim).await;
        }
        Ok(passing)
    }

    /// Postpones a delivery and those behind it in its conversation.
    async fn hold_conversation(&self, first: Claim, until: Timestamp) {
        let (store, now) = (&self.state.store, self.state.clock.now());
        let behind = store.claim_following(&first, now, HOLD_STEP).await;
        // The first one is last: its outcome gives the others back.
        for claim in behind.unwrap_or_default().into_iter().chain([first]) {
            if claim.delivery.passes_holds() {
                store.release(claim).await;
                continue;
            }
            let held = attempt::pending(claim.token, claim.delivery.held(until));
            outcome::settle(&self.state, held, vec![None]).await;
        }
    }

    async fn claimed(&self, due: Timestamp, limit: usize) -> Result<Vec<Claim>, Duration> {
        let claimed = self.state.store.claim(&self.state.name, due, limit).await;
        claimed.map_err(|error| {
            let name = &self.state.name;
            match error {
                // The store reports it once.
                Error::Unavailable(_) => tracing::debug!(destination = %name, "{error}"),
                _ => tracing::error!(destination = %name, "the store could not be read: {error}"),
            }
            STORE_PAUSE
        })
    }

    /// Publishes the state that the next start depends on.
    fn show(&self) {
        let now = self.state.clock.now();
        let wait = self.limiter.as_ref().map(|limiter| limiter.wait(Instant::now()));
        let mut inner = self.state.inner();
        inner.running = self.running.len();
        inner.rate_limited_until = wait.map(|wait| now.after(wait));
        inner.is_memory_full = self.is_memory_full;
    }

    /// Reserves memory for one more message, if available.
    fn reserve_memory(&self, claim: &Claim) -> Option<MemoryPermit> {
        if self.running.is_empty() {
            return Some(MemoryPermit::exempt());
        }
        self.state.memory.reserve(claim.message.size())
    }

    fn start(&mut self, claim: Claim, memory: MemoryPermit) {
        let plan = self.plan.borrow().clone();
        let attempt = attempt::run(
            self.state.clone(),
            plan,
            self.destination.clone(),
            claim,
            self.stop.clone(),
        );
        self.running.spawn(async move {
            attempt.await;
            drop(memory);
        });
    }

    /// How long until a claim may succeed. If `concurrency` is reached, the end of an attempt wakes the lane.
    async fn wait(&self) -> Duration {
        let now = self.state.clock.now();
        let until_probe = self
            .state
            .breaker()
            .open()
            .map_or(Duration::ZERO, |open| open.until.since(now));
        if until_probe.is_zero() && self.running.len() >= self.destination.concurrency {
            return IDLE_MAX;
        }
        if !until_probe.is_zero() {
            return until_probe.min(IDLE_MAX);
        }
        // This lane's own attempts are the first to release memory for it.
        if self.is_memory_full {
            return IDLE_MAX;
        }
        let rate_wait = self
            .limiter
            .as_ref()
            .map_or(Duration::ZERO, |limiter| limiter.wait(Instant::now()));
        let rate_wait = rate_wait.max(self.gathering.wait(Instant::now()));
        match self
            .state
            .store
            .next_due(&self.state.name, self.state.clock.now())
            .await
        {
            Ok(None) => {
                self.end_pause();
                IDLE_MAX
            }
            Ok(Some(_)) if self.probing() => IDLE_MAX,
            Ok(Some(due)) => due.since(self.state.clock.now()).max(rate_wait).min(IDLE_MAX),
            Err(_) => STORE_PAUSE,
        }
    }

    /// With nothing pending, a destination is not rate limiting any more once its pause is over.
    fn end_pause(&self) {
        let is_idle = self.running.is_empty();
        if is_idle && self.state.breaker().end_pause(self.state.clock.now()) {
            tracing::info!(destination = %self.state.name, "the pause of destination {} is over; nothing is pending", self.state.name);
            self.state.announce();
        }
    }

    /// Returns true while the probe of an open breaker is in progress; its end wakes the lane.
    fn probing(&self) -> bool {
        self.state.breaker().open().is_some() && !self.running.is_empty()
    }

    /// During an outage, gives up deliveries that have passed `give_up_after` without an attempt of their own.
    /// Returns how long nothing more has to be given up.
    async fn expire(&mut self) -> Duration {
        if self.state.breaker().give_up_from().is_none() {
            return IDLE_MAX;
        }
        let give_up_after = self.destination.policy.give_up_after;
        let now = self.state.clock.now();
        let end = match self.state.store.backlog(&self.state.name).await {
            Ok(backlog) => backlog
                .oldest
                .map(|oldest| self.state.clock.give_up_start(oldest).after(give_up_after)),
            Err(_) => return STORE_PAUSE,
        };
        let wait = match end {
            Some(end) if end <= now => self.expire_next.saturating_duration_since(Instant::now()),
            Some(end) => end.since(now),
            None => IDLE_MAX,
        };
        if !wait.is_zero() {
            return wait;
        }
        if self.give_up(now).await == 0 {
            self.expire_next = Instant::now() + EXPIRE_AGAIN;
        }
        self.expire_next.saturating_duration_since(Instant::now())
    }

    /// Gives up overdue deliveries. Returns their number.
    async fn give_up(&self, now: Timestamp) -> usize {
        let breaker = self.state.breaker().clone();
        let (Some(open), Some(from)) = (breaker.open(), breaker.give_up_from()) else {
            return 0;
        };
        let give_up_after = self.destination.policy.give_up_after;
        let starts = from.before(give_up_after)..=now.before(give_up_after);
        let pending_since = self.state.clock.pending_since(starts);
        let (store, name) = (&self.state.store, &self.state.name);
        let overdue = store.claim_overdue(name, pending_since, EXPIRE_STEP).await;
        let overdue = overdue.unwrap_or_default();
        let why = match open.cause {
            Cause::Limited => "was rate limiting",
            Cause::Down | Cause::Parked => "was unreachable",
        };
        let reason = Reason::from(format!("given up while the destination {why}: ")).and(&open.reason);
        let count = overdue.len();
        stream::iter(overdue)
            .for_each_concurrent(EXPIRE_AT_ONCE, |claim| {
                let dead = claim.delivery.dead(None, now, reason.shown());
                let settlement = attempt::mark_dead(&self.state, &self.destination, claim.token, dead);
                outcome::settle(&self.state, settlement, vec![Some(reason.clone())])
            })
            .await;
        count
    }
}
