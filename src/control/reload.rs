//! Runs reloads one after the other. Requests during a reload share the next one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use tokio::sync::Mutex;

use super::problem::general;
use super::view::{ProblemKind, ProblemView};
use super::{Control, begin_metrics};
use crate::config::Problems;
use crate::engine::events::Event;
use crate::model::message::Timestamp;
use crate::plan::{Change, Loader, Loading, Plan, Severity};

/// The result of a reload.
#[derive(Clone, Debug)]
pub struct Reloaded {
    /// The differences from the previous configuration.
    pub changes: Vec<Change>,
    /// The warnings about the active configuration.
    pub warnings: Problems,
}

/// The requested reloads.
pub(super) struct Reloads {
    loader: Loader,
    /// The number of reloads started.
    started: AtomicU64,
    turn: Mutex<Turn>,
    /// The last completed reload, if it failed.
    failed: std::sync::Mutex<Option<Failed>>,
}

#[derive(Clone)]
struct Failed {
    at: Timestamp,
    /// The first error with its file, line and column.
    place: String,
    /// How many errors there are.
    count: String,
}

/// The state of the running reload. It is kept when the caller that waits for the reload is cancelled.
#[derive(Default)]
struct Turn {
    under_way: Option<UnderWay>,
    /// The number of the last completed reload.
    ended: Option<(u64, Result<Reloaded, Problems>)>,
}

struct UnderWay {
    number: u64,
    loading: Loading,
    /// Reported as failed already, because a file did not respond in time.
    is_late: bool,
}

impl Reloads {
    pub(super) fn new(loader: Loader) -> Self {
        Self {
            loader,
            started: AtomicU64::new(0),
            turn: Mutex::default(),
            failed: std::sync::Mutex::default(),
        }
    }

    fn failed(&self) -> std::sync::MutexGuard<'_, Option<Failed>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, plan: Arc<Plan>) -> Result<UnderWay, Problems> {
        let number = self.started.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(UnderWay {
            number,
            loading: self.loader.start(Some(plan))?,
            is_late: false,
        })
    }
}

impl Control {
    /// Reads the configuration again, builds the complete new plan, and then swaps it once. Returns the differences;
    /// after an error nothing has changed.
    ///
    /// A separate thread reads the files, and there is never more than one such thread: while a file does not
    /// respond, every reload fails immediately.
    ///
    /// # Errors
    /// All problems of the new configuration.
    pub async fn reload(&self) -> Result<Reloaded, Problems> {
        // A reload that started earlier may have read a file before it was changed.
        let wanted = self.reloads.started.load(Ordering::Relaxed) + 1;
        let mut turn = self.reloads.turn.lock().await;
        loop {
            match &turn.ended {
                Some((number, outcome)) if *number >= wanted => return outcome.clone(),
                _ => self.next(&mut turn).await?,
            }
        }
    }

    fn reload_succeeded(&self, reloaded: &Reloaded) {
        if reloaded.changes.is_empty() {
            tracing::info!("reloaded: nothing changed");
        }
        for change in &reloaded.changes {
            tracing::info!("reloaded: {change}");
        }
        self.metrics.show_reload(true);
        *self.reloads.failed() = None;
    }

    fn reload_failed(&self, problems: &Problems) {
        self.metrics.show_reload(false);
        let first = problems
            .all()
            .iter()
            .find(|problem| problem.severity == Severity::Error);
        let place = first.map(|problem| problems.place(problem)).unwrap_or_default();
        let at = self.clock.wall();
        let count = problems.error_count();
        tracing::error!("reload failed: {count}; previous configuration stays active");
        for problem in problems.all() {
            let place = problems.place(problem);
            match problem.severity {
                Severity::Error => tracing::error!("reload failed: {place}"),
                Severity::Warning => tracing::warn!("{place}"),
            }
        }
        if let Some(unlisted) = problems.unlisted() {
            tracing::warn!("reload failed: {unlisted}");
        }
        *self.reloads.failed() = Some(Failed { at, place, count });
    }

    /// The problem of a failed last reload, which otherwise only its caller would know about.
    pub(super) fn reload_problem(&self) -> Option<ProblemView> {
        let Failed { at, place, count } = self.reloads.failed().clone()?;
        let message = format!(
            "the last reload failed: {place} ({count}); the previous configuration stays active; fix the file, then \
             `smsbridge reload`"
        );
        Some(ProblemView {
            cause: Some(place),
            since: Some(at),
            ..general(Severity::Error, ProblemKind::Reload, message)
        })
    }

    /// Runs the next reload: the one in progress if there is one, or a new one.
    async fn next(&self, turn: &mut Turn) -> Result<(), Problems> {
        let under_way = match turn.under_way.take() {
            Some(under_way) => under_way,
            None => self
                .reloads
                .start(self.plan())
                .inspect_err(|problems| self.reload_failed(problems))?,
        };
        let under_way = turn.under_way.insert(under_way);
        if let Err(problems) = under_way.loading.ready().await {
            under_way.is_late = true;
            self.reload_failed(&problems);
            return Err(problems);
        }
        let paused = self.store.paused().await;
        if let Err(error) = &paused {
            tracing::debug!("paused destinations could not be read: {error}; those known before apply");
        }
        // From here on the function does not await, so that it cannot be cancelled half-way.
        let Some(under_way) = turn.under_way.take() else {
            return Ok(());
        };
        // A plan that was read long ago may be outdated.
        if under_way.is_late {
            return Ok(());
        }
        let outcome = under_way.loading.loaded().map(|loaded| {
            let plan = Arc::new(loaded.plan);
            let changes = plan.changes_from(&self.plan());
            begin_metrics(&self.metrics, &plan);
            self.plan.send_replace(plan);
            self.lanes
                .reconcile(&self.plan.subscribe(), paused.as_deref().ok());
            self.lanes.events().publish(|| Event::Reload {});
            for problem in loaded.warnings.all() {
                tracing::warn!("{}", loaded.warnings.place(problem));
            }
            Reloaded {
                changes,
                warnings: loaded.warnings,
            }
        });
        match &outcome {
            Ok(reloaded) => self.reload_succeeded(reloaded),
            Err(problems) => self.reload_failed(problems),
        }
        turn.ended = Some((under_way.number, outcome));
        Ok(())
    }
}
