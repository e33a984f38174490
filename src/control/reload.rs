//! Reloads, one after the other. Whoever asks while one is under way gets the next, which all of them share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use tokio::sync::Mutex;

use super::problem::general;
use super::view::{ProblemKind, ProblemView};
use super::{Control, begin_metrics};
use crate::config::Problems;
use crate::events::Event;
use crate::message::Timestamp;
use crate::plan::{Change, Loader, Loading, Plan, Severity};

/// What a reload did.
#[derive(Clone, Debug)]
pub struct Reloaded {
    /// What is different from the configuration before.
    pub changes: Vec<Change>,
    /// What is doubtful about the configuration that runs now.
    pub warnings: Problems,
}

/// Reloads that were asked for.
pub(super) struct Reloads {
    loader: Loader,
    /// How many were started.
    started: AtomicU64,
    turn: Mutex<Turn>,
    /// The last one that ended, if it failed.
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

/// What only one reload at a time works with. It stays when whoever waits for a reload stops waiting.
#[derive(Default)]
struct Turn {
    under_way: Option<UnderWay>,
    /// The last one that ended, by its number.
    ended: Option<(u64, Result<Reloaded, Problems>)>,
}

struct UnderWay {
    number: u64,
    loading: Loading,
    /// It was reported as failed already, because a file did not answer.
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
    /// Reads the configuration again, builds all that could fail, and swaps once. Says what changed; after an
    /// error nothing did.
    ///
    /// The files are read on a thread of their own, and there is never more than one such thread: while a file does not
    /// answer, every reload fails at once.
    ///
    /// # Errors
    /// All problems of the new configuration.
    pub async fn reload(&self) -> Result<Reloaded, Problems> {
        // One that was started before may have read a file before it was changed.
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
            tracing::error!("reload failed: {}", problems.place(problem));
        }
        if let Some(unlisted) = problems.unlisted() {
            tracing::error!("reload failed: {unlisted}");
        }
        *self.reloads.failed() = Some(Failed { at, place, count });
    }

    /// The problem that the last reload failed, if it did: only whoever asked for it was told.
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

    /// Carries out the reload that is under way, or a new one.
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
        let paused = self.store.paused().await.unwrap_or_default();
        // From here on nothing waits, so that nothing is broken off half-way.
        let Some(under_way) = turn.under_way.take() else {
            return Ok(());
        };
        // What was read long ago may be outdated by now.
        if under_way.is_late {
            return Ok(());
        }
        let outcome = under_way.loading.loaded().map(|loaded| {
            let plan = Arc::new(loaded.plan);
            let changes = plan.changes_from(&self.plan());
            begin_metrics(&self.metrics, &plan);
            self.plan.send_replace(plan);
            self.lanes.follow(&self.plan.subscribe(), &paused);
            self.lanes.events().tell(|| Event::Reload {});
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
