//! Removes expired messages, message bodies and provider ids in the background, in small steps.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::engine::clock::Clock;
use crate::engine::joining::parts::{IDS_KEPT, PARTS_KEPT};
use crate::plan::Plan;
use crate::store::{RetentionCutoffs, Store};

/// The pause between two rounds.
const ROUND_PAUSE: Duration = Duration::from_secs(60);

/// The pause between two steps of a round, so that messages have priority.
const STEP_PAUSE: Duration = Duration::from_millis(20);

/// Removes expired messages, message bodies and provider ids until stopped.
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
    let joins = plan.sources.values().any(|planned| planned.source.sends_parts());
    let (content_min, ids_min) = match joins {
        true => (PARTS_KEPT, IDS_KEPT),
        false => (Duration::ZERO, Duration::ZERO),
    };
    let before = |age: Duration| now.before(age.max(content_min));
    RetentionCutoffs {
        purge_before: plan.store.retain.map(before),
        redact_before: plan.store.redact_after.map(before),
        dedup_before: now.before(plan.dedup_window_max().max(ids_min)),
    }
}
