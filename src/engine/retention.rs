//! Removes expired messages, texts and provider ids in the background, in small steps.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::engine::clock::Clock;
use crate::plan::Plan;
use crate::store::{RetentionCutoffs, Store};

/// The pause between two rounds.
const ROUND_PAUSE: Duration = Duration::from_secs(60);

/// The pause between two steps of a round, so that messages have priority.
const STEP_PAUSE: Duration = Duration::from_millis(20);

/// Removes expired messages, texts and provider ids until stopped.
pub async fn prune(
    store: Arc<dyn Store>,
    plan: watch::Receiver<Arc<Plan>>,
    clock: Clock,
    stop: CancellationToken,
) {
    loop {
        let cutoffs = cutoffs(&plan.borrow().clone(), &clock);
        let wait = match store.prune(&cutoffs, clock.date()).await {
            Ok(true) => STEP_PAUSE,
            Ok(false) => ROUND_PAUSE,
            Err(error) => {
                tracing::warn!("cannot remove expired messages: {error}; retrying later");
                ROUND_PAUSE
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn cutoffs(plan: &Plan, clock: &Clock) -> RetentionCutoffs {
    let now = clock.retention();
    RetentionCutoffs {
        purge_before: plan.store.retain.map(|retain| now.before(retain)),
        redact_before: plan.store.redact_after.map(|after| now.before(after)),
        dedup_before: now.before(plan.dedup_window_max()),
    }
}
