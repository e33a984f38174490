//! Removes expired messages, texts and provider ids in the background, in small steps.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::engine::clock::Clock;
use crate::plan::Plan;
use crate::store::{Horizon, Store};

/// The pause between two rounds.
const IDLE: Duration = Duration::from_secs(60);

/// The pause between two steps of a round, so that messages have priority.
const BREATH: Duration = Duration::from_millis(20);

/// Removes expired messages, texts and provider ids until stopped.
pub async fn forget(
    store: Arc<dyn Store>,
    plan: watch::Receiver<Arc<Plan>>,
    clock: Clock,
    stop: CancellationToken,
) {
    loop {
        let horizon = horizon(&plan.borrow().clone(), &clock);
        let wait = match store.prune(&horizon, clock.date()).await {
            Ok(true) => BREATH,
            Ok(false) => IDLE,
            Err(error) => {
                tracing::warn!("cannot remove expired messages: {error}; retrying later");
                IDLE
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn horizon(plan: &Plan, clock: &Clock) -> Horizon {
    let now = clock.retention();
    Horizon {
        purge_before: plan.store.retain.map(|retain| now.before(retain)),
        redact_before: plan.store.redact_after.map(|after| now.before(after)),
        dedup_before: now.before(plan.store.dedup_window),
    }
}
