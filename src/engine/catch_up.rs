//! Lists the messages that the carrier has received, and accepts those whose webhooks did not arrive: at start, after an
//! outage, and every hour. The ids are those of the webhooks, so that no message is accepted twice.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::intake::{Intake, Origin};
use crate::model::message::{Name, Timestamp};
use crate::plan::{Plan, PlannedSource};
use crate::source::{CatchUp, Incoming};
use crate::store::{Query, Store};

/// The interval without an outage.
const EVERY: Duration = Duration::from_secs(3600);

/// The delay after a webhook could not be stored: the cause may last, and the carrier may repeat the webhook.
const OUTAGE_DELAY: Duration = Duration::from_secs(10);

/// How much earlier than the last time the list begins: the carrier's clock may differ, and its list may lag behind.
const OVERLAP: Duration = Duration::from_secs(3600);

/// The delays after failures, unless the carrier asks for another.
const BACKOFF_FIRST: Duration = Duration::from_secs(30);
const BACKOFF_MAX: Duration = Duration::from_secs(1800);

/// Upper bound of the pages of one round.
const PAGES_MAX: usize = 200;

/// Messages that are stored at the same time.
const STEP: usize = 50;

/// The pause between two pages, for the carrier's rate limit.
const PAGE_PAUSE: Duration = Duration::from_millis(100);

/// The state of all sources with `catch_up`.
#[derive(Default)]
pub struct CatchUpState {
    sources: Mutex<BTreeMap<Name, State>>,
    outage: Notify,
}

/// The state of one source.
struct State {
    due: Instant,
    /// The begin of the last complete round.
    complete_until: Option<Timestamp>,
    failures: u32,
    problem: Option<(String, Timestamp)>,
}

impl CatchUpState {
    /// Records that a webhook could not be stored: its carrier may not repeat it.
    pub fn outage(&self) {
        self.outage.notify_one();
    }

    /// The current problems as sentences, with the time at which each began.
    #[must_use]
    pub fn problems(&self, plan: &Plan) -> Vec<(String, Timestamp)> {
        let sources = self.sources();
        let configured = sources.iter().filter(|(name, _)| planned(plan, name).is_some());
        configured
            .filter_map(|(name, state)| {
                let (reason, since) = state.problem.as_ref()?;
                let message = format!(
                    "messages that source {name} missed cannot be listed at the carrier: {reason}; retrying automatically"
                );
                Some((message, *since))
            })
            .collect()
    }

    /// Makes all sources due shortly after an outage.
    fn hasten(&self) {
        let soon = Instant::now() + OUTAGE_DELAY;
        self.sources()
            .values_mut()
            .for_each(|state| state.due = state.due.min(soon));
    }

    /// After a reload: forgets removed sources, and retries those that failed, because their keys may be right now.
    fn reloaded(&self, plan: &Plan) {
        let mut sources = self.sources();
        sources.retain(|name, _| planned(plan, name).is_some());
        let failing = sources.values_mut().filter(|state| state.problem.is_some());
        failing.for_each(|state| state.due = Instant::now());
    }

    fn is_due(&self, name: &Name) -> bool {
        self.sources()
            .get(name)
            .is_none_or(|state| state.due <= Instant::now())
    }

    fn next_due(&self) -> Instant {
        let latest = Instant::now() + EVERY;
        self.sources()
            .values()
            .map(|state| state.due)
            .fold(latest, Instant::min)
    }

    fn sources(&self) -> MutexGuard<'_, BTreeMap<Name, State>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a round failed.
struct Failed {
    reason: String,
    retry_after: Option<Duration>,
}

impl Failed {
    fn new(reason: impl ToString) -> Self {
        Self {
            reason: reason.to_string(),
            retry_after: None,
        }
    }
}

/// Catches up for all sources.
pub struct CatchingUp {
    /// The state, for `status`.
    pub state: Arc<CatchUpState>,
    /// Accepts the messages.
    pub intake: Intake,
    /// Knows the last message of a source.
    pub store: Arc<dyn Store>,
    /// The current plan.
    pub plan: watch::Receiver<Arc<Plan>>,
}

impl CatchingUp {
    /// Runs until stopped.
    pub async fn keep(mut self, stop: CancellationToken) {
        loop {
            let plan = self.plan.borrow_and_update().clone();
            for (name, source) in &plan.sources {
                let Some(catch_up) = source.catch_up.as_deref().filter(|_| self.state.is_due(name)) else {
                    continue;
                };
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.round(&plan, name, source, catch_up) => {}
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(self.state.next_due()) => {}
                () = self.state.outage.notified() => self.state.hasten(),
                changed = self.plan.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.state.reloaded(&self.plan.borrow());
                }
            }
        }
    }

    async fn round(&self, plan: &Plan, name: &Name, source: &PlannedSource, catch_up: &dyn CatchUp) {
        let began = self.intake.now();
        let result = self.catch_up(plan, name, source, catch_up, began).await;
        let mut sources = self.state.sources();
        let state = sources.entry(name.clone()).or_insert(State {
            due: Instant::now(),
            complete_until: None,
            failures: 0,
            problem: None,
        });
        match result {
            Ok(accepted) => {
                state.complete_until = Some(began);
                state.failures = 0;
                state.due = Instant::now() + EVERY;
                let had_problem = state.problem.take().is_some();
                if accepted > 0 || had_problem {
                    tracing::info!(source = %name, accepted, "caught up with the carrier of {name}: accepted {accepted} missed messages");
                }
            }
            Err(Failed { reason, retry_after }) => {
                let backoff = BACKOFF_FIRST
                    .saturating_mul(1 << state.failures.min(10))
                    .min(BACKOFF_MAX);
                let wait = retry_after.map_or(backoff, |asked| asked.clamp(Duration::from_secs(1), EVERY));
                state.failures += 1;
                state.due = Instant::now() + wait;
                let since = state.problem.as_ref().map_or(began, |(_, since)| *since);
                let next = humantime::format_duration(Duration::from_secs(wait.as_secs()));
                tracing::warn!(source = %name, "cannot list the messages that source {name} missed: {reason}; retrying in {next}");
                state.problem = Some((reason, since));
            }
        }
    }

    /// One round. Returns the number of accepted messages.
    async fn catch_up(
        &self,
        plan: &Plan,
        name: &Name,
        source: &PlannedSource,
        catch_up: &dyn CatchUp,
        now: Timestamp,
    ) -> Result<usize, Failed> {
        self.store.ready().map_err(Failed::new)?;
        let since = self.since(plan, name, source, now).await?;
        let (mut listed, mut pages) = (Vec::new(), 0);
        for first in catch_up.first_pages(since) {
            let mut next = Some(first);
            while let Some(page) = next.take() {
                pages += 1;
                if pages > PAGES_MAX {
                    return Err(Failed::new(format!("the list has more than {PAGES_MAX} pages")));
                }
                let found = catch_up.page(&page, since).await.map_err(|error| Failed {
                    reason: error.reason,
                    retry_after: error.retry_after,
                })?;
                // Without an id, a message that is stored already would be accepted again.
                listed.extend(
                    found
                        .messages
                        .into_iter()
                        .filter(|one| !one.provider_id.is_empty()),
                );
                next = found.next.filter(|next| *next != page);
                tokio::time::sleep(PAGE_PAUSE).await;
            }
        }
        self.accept(plan, name, source, listed).await
    }

    /// Accepts the messages in the order in which they were sent.
    async fn accept(
        &self,
        plan: &Plan,
        name: &Name,
        source: &PlannedSource,
        mut listed: Vec<Incoming>,
    ) -> Result<usize, Failed> {
        listed.sort_by_key(|message| message.sent_at);
        listed
            .iter_mut()
            .for_each(|message| source.source.complete(message));
        let mut accepted = 0;
        let mut listed = listed.into_iter().peekable();
        while listed.peek().is_some() {
            let step: Vec<Incoming> = listed.by_ref().take(STEP).collect();
            let receipts = self.intake.receive(plan, name, step, Origin::CatchUp).await;
            let receipts = receipts.map_err(Failed::new)?;
            accepted += receipts.iter().filter(|receipt| !receipt.duplicate).count();
        }
        Ok(accepted)
    }

    /// The begin of the list: the last complete round, or the last accepted message of the source, minus the overlap.
    /// Never so early that the id of a stored message may be forgotten, because it would be accepted again. The
    /// first list of a source without messages begins now.
    async fn since(
        &self,
        plan: &Plan,
        name: &Name,
        source: &PlannedSource,
        now: Timestamp,
    ) -> Result<Timestamp, Failed> {
        let window = source.source.dedup_window().unwrap_or(plan.store.dedup_window);
        let complete_until = self
            .state
            .sources()
            .get(name)
            .and_then(|state| state.complete_until);
        let last = match complete_until {
            Some(at) => Some(at),
            None => self.last_accepted(name).await?,
        };
        let since = last.map_or(now, |at| at.min(now).before(OVERLAP));
        Ok(since.max(now.before(window.mul_f64(0.9))))
    }

    async fn last_accepted(&self, name: &Name) -> Result<Option<Timestamp>, Failed> {
        let query = Query {
            source: Some(name.clone()),
            limit: 1,
            ..Query::default()
        };
        let page = self.store.messages(&query).await.map_err(Failed::new)?;
        Ok(page.items.first().map(|found| found.message.received_at))
    }
}

fn planned<'p>(plan: &'p Plan, name: &Name) -> Option<&'p dyn CatchUp> {
    plan.sources.get(name)?.catch_up.as_deref()
}
