//! Follows the changes that other processes make in a shared store.

use std::sync::Arc;

use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::lanes::Lanes;
use crate::store::{Change, Store};

/// Tells the lanes of changes until `stop`. Ends at once if the store is not shared.
pub async fn follow(store: Arc<dyn Store>, lanes: Arc<Lanes>, stop: CancellationToken) {
    let Some(mut changes) = store.changes() else {
        return;
    };
    while let Some(change) = stop.run_until_cancelled(changes.recv()).await {
        match change {
            Ok(Change::Work(name)) => lanes.wake(&name),
            Ok(Change::Paused) => apply_pauses(&*store, &lanes).await,
            Ok(Change::All) | Err(RecvError::Lagged(_)) => {
                apply_pauses(&*store, &lanes).await;
                lanes.wake_all();
            }
            Err(RecvError::Closed) => return,
        }
    }
}

async fn apply_pauses(store: &dyn Store, lanes: &Lanes) {
    match store.paused().await {
        Ok(paused) => lanes.apply_pauses(&paused),
        // The store reports another change when it is available again.
        Err(error) => tracing::debug!("paused destinations could not be read: {error}"),
    }
}
