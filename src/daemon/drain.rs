//! The wait for what is under way when the daemon stops. What does not end in time is on disk and due again.

use std::time::Duration;

use tokio::time::{Instant, interval_at};
use tokio_util::task::TaskTracker;

use super::notify;
use crate::engine::lanes::Lanes;
use crate::plan::{Plan, PlannedDestination};

/// For carriers' requests, and the least for deliveries.
const GRACE: Duration = Duration::from_secs(15);

/// How much longer than its `timeout` an attempt is waited for. A mail server may take ten minutes for its last
/// answer; carriers are not kept waiting for so long.
const BEYOND_TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// For the outcome of the last attempt to be written.
const SETTLE: Duration = Duration::from_secs(3);

/// The wait that is worth a first line, and the time between two.
const FIRST_LINE: Duration = Duration::from_millis(100);
const NEXT_LINE: Duration = Duration::from_secs(10);

/// How long the service manager is asked to wait for the next word.
const EXTENSION: Duration = Duration::from_secs(30);

/// How long the longest attempt may take that could be under way.
pub(super) fn grace(plan: &Plan) -> Duration {
    let longest = plan.destinations.values().map(|destination| longest(destination));
    longest.max().unwrap_or_default().max(GRACE) + SETTLE
}

fn longest(destination: &PlannedDestination) -> Duration {
    let most = destination.timeout + BEYOND_TIMEOUT_MAX;
    destination.attempt_max().min(most)
}

/// Waits for requests that were being answered.
pub(super) async fn requests(tasks: &TaskTracker) {
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::warn!(
            "some requests did not end within {} s and were cut off",
            GRACE.as_secs()
        );
    }
}

/// Starts no attempts any more and waits for those under way; says every ten seconds which these are.
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
            _ = lines.tick() => tell(lanes, grace.saturating_sub(started.elapsed())),
        }
    }
    let what = in_flight(lanes);
    tracing::warn!("cut off {what}; each is pending and will be sent again after the next start");
}

fn tell(lanes: &Lanes, left: Duration) {
    let what = in_flight(lanes);
    let left = humantime::format_duration(Duration::from_secs(left.as_secs()));
    let line = format!("stopping: waiting for {what}, at most {left}");
    tracing::info!("{line}; a second SIGTERM or SIGINT ends at once");
    notify::going_on(&line, EXTENSION);
}

/// `2 deliveries to crm, 1 delivery to desk`
fn in_flight(lanes: &Lanes) -> String {
    let lanes = lanes.in_flight();
    let words: Vec<String> = lanes
        .iter()
        .map(|(name, count)| match count {
            1 => format!("1 delivery to {name}"),
            many => format!("{many} deliveries to {name}"),
        })
        .collect();
    match words.is_empty() {
        true => "deliveries to removed destinations".to_owned(),
        false => words.join(", "),
    }
}
