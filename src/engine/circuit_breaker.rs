//! Circuit breaker of one lane: decides whether deliveries to a destination may start. Pure; the caller passes the
//! time.
//!
//! A destination-wide failure opens the breaker. After the retry delay it is half-open: one delivery at a time is let
//! through as a probe, and the first success closes it.

use std::time::Duration;

use crate::destination::{Failure, Fate, Scope};
use crate::mask::Reason;
use crate::model::message::Timestamp;
use crate::retry::Policy;
pub use crate::store::Cause;
use crate::store::{Fault, Pause};

/// Upper bound of the delay between probes of a parked destination, so that a corrected one is noticed soon.
const PROBE_MAX: Duration = Duration::from_secs(300);

/// Interval between repeated log lines while the breaker stays open.
const LOG_INTERVAL: Duration = Duration::from_secs(3600);

/// An open circuit breaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The kind of failure.
    pub cause: Cause,
    /// The failure, including the destination's reply.
    pub reason: Reason,
    /// Since when deliveries have failed.
    pub since: Timestamp,
    /// The time of the next probe: after the backoff, and not before the end of a pause that the destination asked
    /// for.
    pub until: Timestamp,
    /// The end of the last pause that the destination asked for.
    asked_until: Option<Timestamp>,
    /// Failures in a row.
    pub failures: u32,
    /// The outage that counts towards `give_up_after`; `None` while parked.
    outage: Option<Outage>,
    /// The time of the last log line about this state.
    logged_at: Timestamp,
    /// An immediate probe was requested: it may take a delivery that is not due yet.
    is_probe_requested: bool,
}

/// Failures in a row of a destination that is down or rate limiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outage {
    since: Timestamp,
    failures: u32,
}

impl Open {
    /// The end of the pause that the destination asked for; `None` if it is over, or there was none.
    #[must_use]
    pub fn pause_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.asked_until.filter(|end| *end > now)
    }
}

/// A change of the breaker that is worth a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It opened, or its cause changed.
    Opened(Cause),
    /// It is still open, and the last log line is an hour old.
    StillOpen(Cause),
    /// It closed, after having been open since this time.
    Closed(Timestamp),
}

/// The circuit breaker of one lane.
#[derive(Clone, Debug, Default)]
pub struct CircuitBreaker {
    open: Option<Open>,
    /// Incremented by every change, so that attempts started before a change do not count after it.
    epoch: u64,
}

impl CircuitBreaker {
    /// Open with the fault stored by the previous run; the next attempt, which is a probe, shows whether it still
    /// exists. A pause that the destination asked for ends at the same time as without the restart, and never later
    /// than its remaining duration from now.
    #[must_use]
    pub fn restored(fault: Fault, now: Timestamp) -> Self {
        let end = |pause: Pause| {
            let latest = now.after(pause.left);
            pause.until.map_or(latest, |until| until.min(latest))
        };
        let mut breaker = Self {
            open: Some(Open {
                cause: fault.cause,
                reason: fault.reason,
                since: fault.since.min(now),
                until: now,
                asked_until: fault.pause.map(end),
                failures: 0,
                outage: None,
                logged_at: Timestamp(i64::MIN),
                is_probe_requested: false,
            }),
            epoch: 0,
        };
        breaker.probe(now);
        breaker
    }

    /// The fault to store for the next run, with the end of a pause that the destination asked for.
    #[must_use]
    pub fn fault(&self, now: Timestamp) -> Option<Fault> {
        let open = self.open.as_ref()?;
        let pause = open.pause_until(now).map(|until| Pause {
            left: until.since(now),
            until: Some(until),
        });
        Some(Fault {
            cause: open.cause,
            reason: open.reason.clone(),
            since: open.since,
            pause,
        })
    }

    /// The open state; `None` while closed.
    #[must_use]
    pub fn open(&self) -> Option<&Open> {
        self.open.as_ref()
    }

    /// Deliveries that passed `give_up_after` at this time or later may be given up without an attempt of their own,
    /// because the destination has been failing; `None` without an outage.
    ///
    /// A delivery that was overdue before the outage, because the lane was paused or parked or the daemon was
    /// stopped, needs two failures in a row: otherwise a single 429 would give up an entire backlog. While the
    /// destination is parked, nothing is given up.
    #[must_use]
    pub fn give_up_from(&self) -> Option<Timestamp> {
        let outage = self.outage()?;
        Some(if outage.failures >= 2 {
            Timestamp(i64::MIN)
        } else {
            outage.since
        })
    }

    /// The current epoch, to be passed to [`CircuitBreaker::failed`] after an attempt.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many more deliveries may start while `in_flight` are in progress: up to `concurrency` while closed, a
    /// single probe while half-open, none while open.
    #[must_use]
    pub fn permits(&self, in_flight: usize, concurrency: usize, now: Timestamp) -> usize {
        match &self.open {
            None => concurrency.saturating_sub(in_flight),
            Some(open) if now < open.until => 0,
            Some(_) => 1usize.saturating_sub(in_flight),
        }
    }

    /// An attempt showed that the destination works: it accepted the message, or rejected only this message.
    pub fn works(&mut self) -> Option<Change> {
        let open = self.open.take()?;
        self.epoch += 1;
        Some(Change::Closed(open.since))
    }

    /// Closes after a rate limit whose pause and backoff are over: with nothing to deliver, no attempt would show that
    /// the destination accepts messages again. Returns true if it closed.
    pub fn end_pause(&mut self, now: Timestamp) -> bool {
        let is_over = |open: &Open| open.cause == Cause::Limited && open.until <= now;
        let ends = self.open.as_ref().is_some_and(is_over);
        if ends {
            self.open = None;
            self.epoch += 1;
        }
        ends
    }

    /// An attempt that started in `epoch` failed. Returns a change that is worth a log line.
    pub fn failed(
        &mut self,
        failure: &Failure,
        epoch: u64,
        policy: &Policy,
        now: Timestamp,
        jitter: f64,
    ) -> Option<Change> {
        let (cause, asked) = match failure {
            Failure::Transient {
                scope: Scope::Message,
                retry_after: None,
                ..
            }
            | Failure::Permanent { .. } => {
                return self.works();
            }
            // If no recipient was attempted, nothing was sent.
            Failure::Divided { accepted, others, .. } => {
                let asked = *accepted || others.iter().any(|other| other.fate != Fate::Behind);
                return if asked { self.works() } else { None };
            }
            Failure::Transient {
                retry_after: Some(asked),
                ..
            } => (Cause::Limited, Some(*asked)),
            Failure::Transient { .. } => (Cause::Down, None),
            Failure::Parked { .. } => (Cause::Parked, None),
        };
        if epoch != self.epoch {
            self.extend_pause(asked, now);
            return None;
        }
        let before = self.open.take();
        let (since, failures) = before
            .as_ref()
            .map_or((now, 1), |open| (open.since, open.failures + 1));
        let backoff = policy.wait(failures, jitter);
        let wait = match cause {
            Cause::Limited | Cause::Down => backoff,
            Cause::Parked => backoff.min(PROBE_MAX),
        };
        let earlier = before.as_ref().and_then(|open| open.pause_until(now));
        let asked_until = earlier.max(asked.map(|asked| now.after(asked)));
        // A pause shorter than the backoff does not shorten the backoff.
        let until = now.after(wait).max(asked_until.unwrap_or(now));
        let change = match &before {
            Some(open) if open.cause != cause => Some(Change::Opened(cause)),
            Some(open) if now.since(open.logged_at) >= LOG_INTERVAL => Some(Change::StillOpen(cause)),
            Some(_) => None,
            None => Some(Change::Opened(cause)),
        };
        let outage = before.as_ref().and_then(|open| open.outage);
        let outage = (cause != Cause::Parked).then(|| Outage {
            since: outage.map_or(now, |outage| outage.since),
            failures: outage.map_or(1, |outage| outage.failures.saturating_add(1)),
        });
        let logged_at = before
            .filter(|_| change.is_none())
            .map_or(now, |open| open.logged_at);
        let reason = failure.reason().clone();
        self.open = Some(Open {
            cause,
            reason,
            since,
            until,
            asked_until,
            failures,
            outage,
            logged_at,
            is_probe_requested: false,
        });
        self.epoch += 1;
        change
    }

    /// Makes a probe possible now, because the configuration was reloaded or an operator requests an attempt. The
    /// cause stays until an attempt shows that the destination works. The backoff and the outage start anew, and the
    /// outcome of the probe is logged. During a pause that the destination asked for, the probe starts at its end,
    /// and the outage continues.
    pub fn probe(&mut self, now: Timestamp) {
        let Some(open) = &mut self.open else { return };
        open.is_probe_requested = true;
        if let Some(end) = open.pause_until(now) {
            open.until = end;
            return;
        }
        open.until = now;
        open.failures = 0;
        open.outage = None;
        open.logged_at = Timestamp(i64::MIN);
        self.epoch += 1;
    }

    /// Returns true if the next attempt may take a delivery that is not due yet.
    #[must_use]
    pub fn is_probe_requested(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.is_probe_requested)
    }

    /// The operator resumes a paused destination: failures before that do not give up deliveries now. A pause that
    /// the destination asked for continues.
    pub fn resume(&mut self, now: Timestamp) {
        self.probe(now);
        if let Some(open) = &mut self.open {
            open.outage = None;
        }
    }

    /// An attempt that started before the breaker opened does not count as another failure in a row, but a pause that
    /// it was asked for is applied.
    fn extend_pause(&mut self, asked: Option<Duration>, now: Timestamp) {
        if let (Some(open), Some(asked)) = (&mut self.open, asked)
            && open.cause != Cause::Parked
        {
            let end = now.after(asked);
            open.asked_until = open.asked_until.max(Some(end));
            open.until = open.until.max(end);
        }
    }

    fn outage(&self) -> Option<&Outage> {
        self.open.as_ref()?.outage.as_ref()
    }
}

#[cfg(test)]
mod tests;
