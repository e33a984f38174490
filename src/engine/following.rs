//! Follows the changes that other processes make in a shared store.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::lanes::Lanes;
use crate::store::{Change, Store};

/// The pause before paused destinations are read again after an error.
const AGAIN: Duration = Duration::from_secs(1);

/// Tells the lanes of changes until `stop`. Ends at once if the store is not shared.
pub async fn follow(store: Arc<dyn Store>, lanes: Arc<Lanes>, stop: CancellationToken) {
    let Some(mut changes) = store.changes() else {
        return;
    };
    // A change between the start and the subscription was missed.
    let mut are_known = apply_pauses(&*store, &lanes).await;
    lanes.wake_all();
    loop {
        let change = tokio::select! {
            () = stop.cancelled() => return,
            change = changes.recv() => change,
            () = tokio::time::sleep(AGAIN), if !are_known => Ok(Change::Paused),
        };
        match change {
            Ok(Change::Work(name)) => lanes.wake(&name),
            Ok(Change::Paused) => are_known = apply_pauses(&*store, &lanes).await,
            Ok(Change::All) | Err(RecvError::Lagged(_)) => {
                are_known = apply_pauses(&*store, &lanes).await;
                lanes.wake_all();
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// Returns false if the store could not be read.
async fn apply_pauses(store: &dyn Store, lanes: &Lanes) -> bool {
    match store.paused().await {
        Ok(paused) => {
            lanes.apply_pauses(&paused);
            true
        }
        Err(error) => {
            tracing::debug!("paused destinations could not be read: {error}");
            false
        }
    }
}
