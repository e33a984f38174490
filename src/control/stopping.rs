//! The work that the daemon still waits for while it stops.

use std::time::Duration;

use super::Control;
use crate::engine::lanes::Lanes;

impl Control {
    /// Begins the stop: the daemon is no longer ready, and waits at most `grace` for attempts in progress.
    pub fn begin_stop(&self, grace: Duration) {
        // Only the first call has an effect.
        let _ = self.stop_until.set(self.clock.now().after(grace));
    }

    /// The work that the daemon still waits for; `None` unless it is stopping.
    #[must_use]
    pub fn stopping(&self) -> Option<String> {
        let left = self.stop_until.get()?.since(self.clock.now());
        Some(match self.lanes.in_flight().is_empty() {
            true => "finishing requests and closing the store".to_owned(),
            false => waiting(&self.lanes, left),
        })
    }
}

/// `waiting for 2 deliveries to crm, at most 14s`
#[must_use]
pub fn waiting(lanes: &Lanes, left: Duration) -> String {
    let left = humantime::format_duration(Duration::from_secs(left.as_secs()));
    format!("waiting for {}, at most {left}", in_flight(lanes))
}

/// `2 deliveries to crm, 1 delivery to desk`
#[must_use]
pub fn in_flight(lanes: &Lanes) -> String {
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
