//! The state of the daemon, with a list of current problems.

use std::time::Duration;

use super::problem::{self, Facts};
use super::view::{
    CountsView, DestinationView, MinuteView, ProblemKind, ProblemView, RatesView, SeriesView, StatusView,
    StoreView,
};
use super::{Control, Error};
use crate::metrics::series::Totals;
use crate::model::delivery::{Attempt, Delivery, State};
use crate::model::destination_state::DestinationState;
use crate::model::message::{Name, Timestamp};
use crate::plan::{Plan, Severity};
use crate::store::{DeliveryQuery, Health, MessageState, Nodes};

/// `late_after` of a destination that is no longer configured.
const LATE_AFTER: Duration = Duration::from_secs(120);

/// The maximum number of dead deliveries read to find one that needs attention.
const NEWEST: usize = 20;

impl Control {
    /// A summary of the daemon's state.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn status(&self) -> Result<StatusView, Error> {
        let (plan, now) = (self.plan(), self.clock.now());
        let health = self.store.health();
        let counts = self.store.counts().await?;
        let undelivered = self.store.undelivered();
        let nodes = self.store.nodes().await?;
        let destinations = self.destinations_on(&plan, nodes.as_ref()).await?;
        let taking = self.store.ready();
        let mut problems = self.general_problems(&plan, &health, taking.as_ref().err());
        problems.extend(nodes.iter().flat_map(|nodes| self.node_problems(nodes)));
        for view in &destinations {
            problems.extend(self.destination_problems(&plan, view).await?);
        }
        let stopping = self.stopping();
        problems.extend(stopping.as_deref().map(problem::stopping));
        let problems = problem::sorted(problems);
        Ok(StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at,
            now: self.clock.wall(),
            ready: taking.is_ok() && stopping.is_none(),
            stopping,
            problems,
            store: StoreView {
                bytes: health.bytes,
                free_bytes: health.free,
                commit_ms: health.commit_last.map(|took| took.as_secs_f64() * 1000.0),
                commits: health.commits,
                findings: health.findings,
            },
            messages: CountsView {
                accepted: counts.accepted,
                purged: counts.messages_purged,
                kept: undelivered.kept,
                unrouted: undelivered.unrouted,
                pending: counts.pending,
                delivered: counts.delivered,
                dead: destinations.iter().map(|view| view.dead).sum(),
                acknowledged: destinations.iter().map(|view| view.acknowledged).sum(),
            },
            rates: RatesView {
                accepted: self.metrics.rates.accepted.per_minute(now),
                delivered: self.metrics.rates.delivered.per_minute(now),
            },
            destinations,
            nodes: nodes.map(|nodes| self.nodes_view(&plan, &nodes)),
        })
    }

    /// Problems that do not belong to a destination.
    fn general_problems(&self, plan: &Plan, health: &Health, refused: Option<&String>) -> Vec<ProblemView> {
        use ProblemKind::{CatchUp, Certificate, Clock, Log, Numbers, PublicUrl, Store, Subscription};
        let warning = |kind| move |message: String| problem::general(Severity::Warning, kind, message);
        let mut problems = store_problems(health, refused);
        problems.extend(self.reload_problem());
        problems.extend(
            self.clock
                .doubt()
                .map(|doubt| doubt.to_string())
                .map(warning(Clock)),
        );
        let agreed = self.store.clock();
        let difference = agreed.and_then(|agreed| self.clock.difference(agreed));
        problems.extend(difference.map(warning(Clock)));
        let certificate = plan.tls.as_ref().and_then(|tls| tls.warning(self.clock.wall()));
        problems.extend(certificate.map(warning(Certificate)));
        problems.extend(self.checks.webhooks.problems().into_iter().map(warning(Numbers)));
        let wrong_urls = self.checks.urls.problems(plan).into_iter();
        problems.extend(wrong_urls.map(|(message, since)| ProblemView {
            since: Some(since),
            ..problem::general(Severity::Error, PublicUrl, message)
        }));
        let of_sources = plan
            .sources
            .values()
            .filter_map(|planned| planned.source.problem());
        problems.extend(of_sources.map(|(message, since)| ProblemView {
            since: Some(since),
            ..problem::general(Severity::Error, Subscription, message)
        }));
        let missed = self.checks.catch_up.problems(plan).into_iter();
        problems.extend(missed.map(|(message, since)| ProblemView {
            since: Some(since),
            ..problem::general(Severity::Warning, CatchUp, message)
        }));
        problems.extend(self.metrics.log.problem().map(warning(Log)));
        let findings = health
            .findings
            .iter()
            .map(|finding| format!("store: {finding}; `smsbridge status --acknowledge` ends this problem"));
        problems.extend(findings.map(warning(Store)));
        let warnings = health.warnings.iter().map(|words| format!("store: {words}"));
        problems.extend(warnings.map(warning(Store)));
        problems
    }

    /// Problems of a destination.
    async fn destination_problems(
        &self,
        plan: &Plan,
        view: &DestinationView,
    ) -> Result<Vec<ProblemView>, Error> {
        let planned = plan.destinations.get(&view.name);
        let facts = Facts {
            view,
            late_after: planned.map_or(LATE_AFTER, |planned| planned.late_after),
            has_rate: planned.is_some_and(|planned| planned.rate.is_some()),
            now: self.clock.wall(),
        };
        let last_failure = match facts.is_late() {
            true => facts.cause_of(self.store.oldest_pending(&view.name).await?),
            false => None,
        };
        let newest_dead = match view.dead {
            0 => None,
            _ => self.newest_dead(&view.name).await?,
        };
        let problems = [facts.holding_up(last_failure), facts.dead(newest_dead)];
        Ok(problems.into_iter().flatten().collect())
    }

    /// The reason of the newest dead delivery that needs attention, if it is among the newest ones.
    async fn newest_dead(&self, name: &Name) -> Result<Option<String>, Error> {
        let query = DeliveryQuery {
            destination: Some(name.clone()),
            state: Some(MessageState::Dead),
            limit: NEWEST,
            cursor: None,
        };
        let newest = self.store.deliveries(&query).await?.items.into_iter();
        Ok(newest
            .filter(Delivery::needs_attention)
            .find_map(|delivery| match delivery.state {
                State::Dead { reason, .. } => Some(reason),
                State::Waiting { .. } | State::Delivered { .. } => None,
            }))
    }

    /// Records the store's current counters for the charts.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn observe(&self) -> Result<(), Error> {
        let (counts, ended) = (self.store.counts().await?, self.store.ended());
        let totals = Totals {
            accepted: counts.accepted,
            delivered: ended.delivered,
            dead: ended.dead,
            pending: counts.pending,
        };
        self.metrics.series.observe(self.clock.wall(), totals);
        Ok(())
    }

    /// The messages of the last hour, minute by minute.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn series(&self) -> Result<SeriesView, Error> {
        self.observe().await?;
        let minutes = self.metrics.series.read().into_iter();
        Ok(SeriesView {
            minutes: minutes.map(|(at, minute)| MinuteView::of(at, minute)).collect(),
        })
    }

    /// The number of pending deliveries.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn pending(&self) -> Result<u64, Error> {
        Ok(self.store.counts().await?.pending)
    }

    /// All configured destinations, and removed ones that still have deliveries.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn destinations(&self, plan: &Plan) -> Result<Vec<DestinationView>, Error> {
        let nodes = self.store.nodes().await?;
        self.destinations_on(plan, nodes.as_ref()).await
    }

    pub(super) async fn destinations_on(
        &self,
        plan: &Plan,
        nodes: Option<&Nodes>,
    ) -> Result<Vec<DestinationView>, Error> {
        let mut names: Vec<Name> = plan.destinations.keys().cloned().collect();
        for name in self.store.destinations().await? {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let mut views = Vec::with_capacity(names.len());
        for name in names {
            let view = self.destination(plan, &name, nodes).await?;
            if view.kind.is_some() || view.pending + view.dead + view.acknowledged > 0 {
                views.push(view);
            }
        }
        Ok(views)
    }

    /// One destination.
    ///
    /// # Errors
    /// Errors of the store.
    pub(super) async fn destination(
        &self,
        plan: &Plan,
        name: &Name,
        nodes: Option<&Nodes>,
    ) -> Result<DestinationView, Error> {
        let owner = nodes.and_then(|nodes| nodes.lane(name)?.owner.as_ref());
        let backlog = self.store.backlog(name).await?;
        let planned = plan.destinations.get(name);
        // The lane of a removed destination remains until its last attempt has ended.
        let status = planned.and_then(|_| self.lanes.status(name));
        let shown = |time: Option<Timestamp>| time.map(|time| self.clock.shown(time));
        let of =
            |field: fn(&crate::engine::lanes::Status) -> Option<Timestamp>| status.as_ref().and_then(field);
        Ok(DestinationView {
            name: name.clone(),
            kind: planned.map(|planned| planned.kind.to_owned()),
            address: planned.and_then(|planned| planned.destination.address()),
            state: status
                .as_ref()
                .map_or(DestinationState::Removed, |status| status.state),
            since: shown(of(|status| status.since)),
            until: shown(of(|status| status.until)),
            pause_until: shown(of(|status| status.pause_until)),
            reason: status.as_ref().and_then(|status| status.reason.clone()),
            pending: backlog.pending,
            dead: backlog.dead,
            acknowledged: backlog.acknowledged,
            oldest: backlog.oldest.map(|oldest| self.clock.ago(oldest)),
            attempting_since: of(|status| status.attempting_since).map(|since| self.clock.ago(since)),
            delivered_at: of(|status| status.delivered_at),
            last_attempt: status.and_then(|status| status.last_attempt).map(|last| Attempt {
                at: self.clock.shown(last.at),
                ..last
            }),
            fallback: planned.and_then(|planned| planned.fallback.clone()),
            node: owner.map(|(node, _)| node.clone()),
            node_since: owner.map(|(_, served)| self.clock.wall().before(*served)),
        })
    }
}

/// `refused` is the reason why no messages are accepted.
fn store_problems(health: &Health, refused: Option<&String>) -> Vec<ProblemView> {
    let mut problems = Vec::new();
    if let Some(failed) = &health.failed {
        problems.push(format!("the store failed and accepts no more messages: {failed}"));
    }
    if let Some(why) = &health.unavailable {
        problems.push(format!(
            "the database is unavailable: {why}; new messages are answered 503 until it is back"
        ));
    }
    if health.full {
        let space = health.space();
        problems.push(format!("{space}; new messages are answered 503 until then"));
    }
    if health.no_inodes {
        problems.push(
            "the store's file system has no free inodes: delete files there; until then the store cannot be compacted, and \
             may not start again"
                .to_owned(),
        );
    }
    let is_explained = health.failed.is_some() || health.unavailable.is_some() || health.full;
    if let (false, Some(why)) = (is_explained, refused) {
        let what = if health.free.is_some() { "disk" } else { "database" };
        problems.push(format!("messages are not accepted, the {what} may hang: {why}"));
    }
    let error = |message| problem::general(Severity::Error, ProblemKind::Store, message);
    problems.into_iter().map(error).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unavailable_database_is_one_problem_with_its_reason() {
        let health = Health {
            unavailable: Some("connection refused".to_owned()),
            ..Health::default()
        };
        let problems = store_problems(&health, Some(&"the database is unavailable".to_owned()));
        let messages: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
        assert_eq!(
            messages,
            [
                "the database is unavailable: connection refused; new messages are answered 503 until it is back"
            ]
        );
    }
}
