//! Observes what the charts show, and keeps it over a restart.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::control::Control;
use crate::metrics::Metrics;
use crate::store::Store;

/// Between two observations. A burst that is delivered faster does not show among the pending.
const OBSERVE: Duration = Duration::from_secs(1);

/// How many observations there are between two writes.
const WRITE: u32 = 60;

/// Observes until stopped; then writes the last time.
pub(super) async fn keep(
    control: Arc<Control>,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut since = 0;
    loop {
        if let Err(error) = control.observe().await {
            tracing::debug!("the store could not be observed for the charts: {error}");
        }
        since += 1;
        if since >= WRITE || stop.is_cancelled() {
            since = 0;
            if let Err(error) = store.set_series(&metrics.series.saved()).await {
                tracing::debug!("the series of the last hour was not written: {error}");
            }
        }
        if stop.is_cancelled() {
            return;
        }
        stop.run_until_cancelled(tokio::time::sleep(OBSERVE)).await;
    }
}
