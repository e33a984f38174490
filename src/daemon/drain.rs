//! Waits for requests and attempts in flight when the daemon stops. Deliveries that do not end in time are on
//! disk and become due again.

use std::time::Duration;

use tokio::time::{Instant, interval_at};
use tokio_util::task::TaskTracker;

use super::notify;
use crate::control::stopping::{in_flight, waiting};
use crate::engine::lanes::Lanes;
use crate::plan::{Plan, PlannedDestination};

/// Time limit for carriers' requests, and the minimum for deliveries.
const GRACE: Duration = Duration::from_secs(15);

/// How much longer than its `timeout` the daemon waits for an attempt. A mail server may take ten minutes for
/// its last answer; carriers cannot wait that long.
const BEYOND_TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Time limit for writing the outcome of the last attempt.
const SETTLE: Duration = Duration::from_secs(3);

/// The wait after which the first line is logged, and the interval of further lines.
const FIRST_LINE: Duration = Duration::from_millis(100);
const NEXT_LINE: Duration = Duration::from_secs(10);

/// How much more time the daemon asks the service manager for at once.
const EXTENSION: Duration = Duration::from_secs(30);

/// The longest possible duration of an attempt in flight.
pub(super) fn grace(plan: &Plan) -> Duration {
    let longest = plan.destinations.values().map(|destination| longest(destination));
    longest.max().unwrap_or_default().max(GRACE) + SETTLE
}

fn longest(destination: &PlannedDestination) -> Duration {
    let most = destination.timeout + BEYOND_TIMEOUT_MAX;
    destination.attempt_max().min(most)
}

/// Waits for requests in progress.
pub(super) async fn requests(tasks: &TaskTracker) {
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::warn!(
            "some requests did not end within {} s and were cut off",
            GRACE.as_secs()
        );
    }
}

/// Starts no more attempts and waits for those in flight; logs every ten seconds which they are.
pub(super) async fn deliveries(lanes: &Lanes, grace: Duration) {
    let started = Instant::now();
    let mut ended = std::pin::pin!(lanes.stop());
    let mut lines = interval_at(started + FIRST_LINE, NEXT_LINE);
    let mut over = std::pin::pin!(tokio::time::sleep(grace));
    loop {
        tokio::select! {
            biased;
            () = &mut ended => return,
            () = &mut over => break,
            _ = lines.tick() => log(lanes, grace.saturating_sub(started.elapsed())),
        }
    }
    let what = in_flight(lanes);
    tracing::warn!("cut off {what}; each is pending and will be sent again after the next start");
}

fn log(lanes: &Lanes, left: Duration) {
    let line = format!("stopping: {}", waiting(lanes, left));
    tracing::info!("{line}; a second SIGTERM or SIGINT stops immediately");
    notify::going_on(&line, EXTENSION);
}
