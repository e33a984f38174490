//! Checks at start and daily whether the webhooks of the configured numbers still point here, and logs each change
//! once.
//!
//! A number whose webhook was changed fails silently: no message arrives, and there is no other symptom.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::mask::Reason;
use crate::metrics::Metrics;
use crate::model::message::Name;
use crate::model::number::Number;
use crate::plan::Plan;
use crate::source::NumberPoints;

/// The interval of the checks, reduced by a random part of up to a tenth, so that many daemons do not query at the
/// same time.
const EVERY: Duration = Duration::from_secs(24 * 3600);

/// The interval while a number has another webhook, or the carrier could not be queried.
const AGAIN: Duration = Duration::from_secs(15 * 60);

/// The results of the last check.
#[derive(Default)]
pub struct WebhookCheck(Mutex<BTreeMap<Name, BTreeMap<Number, NumberPoints>>>);

impl WebhookCheck {
    /// The problems as sentences, with complete numbers: for the operator, not for a log.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let found = self.found();
        let wrong = |(source, numbers): (&Name, &BTreeMap<Number, NumberPoints>)| {
            let wrong = numbers
                .values()
                .filter_map(|points| Some((points, points.problem.as_ref()?)));
            wrong
                .map(|(points, problem)| format!("{source}: {}: {}", points.number, problem.shown()))
                .collect::<Vec<_>>()
        };
        found.iter().flat_map(wrong).collect()
    }

    /// The problems for a log: how many numbers are affected, not which.
    #[must_use]
    pub fn summary(&self) -> Vec<String> {
        let found = self.found();
        let line = |(source, numbers): (&Name, &BTreeMap<Number, NumberPoints>)| {
            let wrong = numbers.values().filter(|points| points.problem.is_some()).count();
            (wrong > 0).then(|| {
                format!(
                    "source {source}: the webhooks of {wrong} of {} numbers may not point here",
                    numbers.len()
                )
            })
        };
        found.iter().filter_map(line).collect()
    }

    /// Records the result of one check, and logs the changes.
    fn record(&self, source: &Name, checked: Vec<NumberPoints>, metrics: &Metrics) {
        let mut found = self.found();
        let before = found.remove(source).unwrap_or_default();
        let now: BTreeMap<Number, NumberPoints> = checked
            .into_iter()
            .map(|points| (points.number.clone(), points))
            .collect();
        for (number, points) in &now {
            let before = before.get(number).and_then(|before| before.problem.as_ref());
            log_change(source, number, before, points);
        }
        let wrong = now.values().filter(|points| points.problem.is_some()).count();
        metrics.show_webhook_problems(source.as_str(), wrong as u64);
        found.insert(source.clone(), now);
    }

    /// Removes the sources that are not checked any more, and returns their names.
    fn forget_others(&self, plan: &Plan) -> Vec<Name> {
        let is_asked = |name: &Name| {
            let source = plan.sources.get(name);
            source.is_some_and(|source| source.upstream.is_some())
        };
        let mut found = self.found();
        let others = found.extract_if(.., |name, _| !is_asked(name));
        others.map(|(name, _)| name).collect()
    }

    fn found(&self) -> MutexGuard<'_, BTreeMap<Name, BTreeMap<Number, NumberPoints>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log_change(source: &Name, number: &Number, before: Option<&Reason>, points: &NumberPoints) {
    let number = number.masked();
    match (&points.problem, before) {
        (Some(problem), before) if before != Some(problem) && points.known => {
            let problem = problem.logged();
            tracing::error!(source = %source, number, "messages to {number} may not arrive: {problem}");
        }
        (Some(problem), before) if before != Some(problem) => {
            let problem = problem.logged();
            tracing::warn!(source = %source, number, "cannot check the webhook of {number} at {source}: {problem}");
        }
        (None, Some(_)) => {
            tracing::info!(source = %source, number, "the webhook of {number} points here again")
        }
        _ => {}
    }
}

/// Checks at start, daily, at every reload, and more often while there is a problem.
pub async fn watch(
    webhooks: Arc<WebhookCheck>,
    metrics: Arc<Metrics>,
    mut plan: watch::Receiver<Arc<Plan>>,
    stop: CancellationToken,
) {
    loop {
        let current = plan.borrow_and_update().clone();
        let is_ok = tokio::select! {
            () = stop.cancelled() => return,
            is_ok = check(&webhooks, &metrics, &current) => is_ok,
        };
        let wait = if is_ok {
            EVERY.mul_f64(1.0 - 0.1 * rand::random::<f64>())
        } else {
            AGAIN
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            changed = plan.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// Queries the carrier of every source. Returns false if a number has another webhook, or a query failed.
async fn check(webhooks: &WebhookCheck, metrics: &Metrics, plan: &Plan) -> bool {
    for source in webhooks.forget_others(plan) {
        if !plan.sources.contains_key(&source) {
            metrics.forget_webhook_problems(source.as_str());
        }
    }
    for (name, source) in &plan.sources {
        match &source.upstream {
            Some(upstream) => webhooks.record(name, upstream.check().await, metrics),
            None => metrics.show_webhook_problems(name.as_str(), 0),
        }
    }
    webhooks.summary().is_empty()
}
