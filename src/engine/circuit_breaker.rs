//! A lane's gate: whether a destination is to be left alone for a while, and why. Pure; time comes in.
//!
//! A failure that concerns the whole destination closes the gate. When its time is up, one delivery at a
//! time goes through as a probe; the first success opens it again.

use std::time::Duration;

use crate::destination::{Failure, Fate, Scope};
use crate::mask::Reason;
use crate::message::Timestamp;
use crate::retry::Policy;
pub use crate::store::Cause;
use crate::store::{Fault, Pause};

/// The longest a parked destination waits for its next probe, so that a mended one is noticed soon.
const PROBE_MAX: Duration = Duration::from_secs(300);

/// How often a gate that stays closed is worth a line.
const REMIND: Duration = Duration::from_secs(3600);

/// A closed gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Why.
    pub cause: Cause,
    /// What happened, and what the other side said of it.
    pub reason: Reason,
    /// Since when deliveries have failed.
    pub since: Timestamp,
    /// When the next probe may go: after the backoff, and not before the end of a pause that the destination asked for.
    pub until: Timestamp,
    /// The end of the last pause that the destination asked for.
    asked_until: Option<Timestamp>,
    /// Failures in a row.
    pub failures: u32,
    /// What wears its texts' patience out: nothing while it is parked.
    outage: Option<Outage>,
    /// When it was last news.
    told_at: Timestamp,
    /// An immediate probe was requested: it may take a delivery before that is due.
    is_probe_requested: bool,
}

/// Failures in a row of a destination that is down or limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outage {
    since: Timestamp,
    failures: u32,
}

impl Closed {
    /// The end of the pause that the destination asked for; `None` if it is over, or there was none.
    #[must_use]
    pub fn pause_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.asked_until.filter(|end| *end > now)
    }
}

/// What an attempt's end meant for the gate: worth a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It closed, or for another cause than before.
    Closed(Cause),
    /// It is still closed, and nobody has said so for an hour.
    Still(Cause),
    /// It opened after having been closed since then.
    Opened(Timestamp),
}

/// The gate of one lane.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    closed: Option<Closed>,
    /// Grows with every change, so that attempts begun before one do not count as news after it.
    epoch: u64,
}

impl Gate {
    /// Closed by the fault that an earlier run left: the next attempt, a probe, shows whether it is over. A pause that the
    /// destination asked for ends when it would have ended without the restart, and by no clock later than after the
    /// time that was left of it.
    #[must_use]
    pub fn restored(fault: Fault, now: Timestamp) -> Self {
        let end = |pause: Pause| {
            let latest = now.after(pause.left);
            pause.until.map_or(latest, |until| until.min(latest))
        };
        let mut gate = Self {
            closed: Some(Closed {
                cause: fault.cause,
                reason: fault.reason,
                since: fault.since.min(now),
                until: now,
                asked_until: fault.pause.map(end),
                failures: 0,
                outage: None,
                told_at: Timestamp(i64::MIN),
                is_probe_requested: false,
            }),
            epoch: 0,
        };
        gate.probe(now);
        gate
    }

    /// What the next run is to know, and until when a pause that was asked for still lasts.
    #[must_use]
    pub fn fault(&self, now: Timestamp) -> Option<Fault> {
        let closed = self.closed.as_ref()?;
        let pause = closed.pause_until(now).map(|until| Pause {
            left: until.since(now),
            until: Some(until),
        });
        Some(Fault {
            cause: closed.cause,
            reason: closed.reason.clone(),
            since: closed.since,
            pause,
        })
    }

    /// Why it is closed, if it is.
    #[must_use]
    pub fn closed(&self) -> Option<&Closed> {
        self.closed.as_ref()
    }

    /// Whether a delivery whose patience ended at `end` is to be given up without a try of its own: the
    /// destination's failures are its failures.
    ///
    /// What was overdue before (the lane was paused or parked, or the daemon stopped) is not given up for a
    /// single failure: a whole backlog would die of one 429. Nothing dies while the destination is parked.
    #[must_use]
    pub fn gives_up(&self, end: Timestamp) -> bool {
        self.outage()
            .is_some_and(|outage| outage.failures >= 2 || end >= outage.since)
    }

    /// Whether there is anything that [`Gate::gives_up`].
    #[must_use]
    pub fn is_out(&self) -> bool {
        self.outage().is_some()
    }

    /// To be taken before an attempt and given back to [`Gate::failed`].
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many more deliveries may start while `running` are under way: all of `concurrency`, or a single
    /// probe, or none before the time.
    #[must_use]
    pub fn allows(&self, running: usize, concurrency: usize, now: Timestamp) -> usize {
        match &self.closed {
            None => concurrency.saturating_sub(running),
            Some(closed) if now < closed.until => 0,
            Some(_) => 1usize.saturating_sub(running),
        }
    }

    /// An attempt showed that the destination works: it took the message, or refused just that one.
    pub fn works(&mut self) -> Option<Change> {
        let closed = self.closed.take()?;
        self.epoch += 1;
        Some(Change::Opened(closed.since))
    }

    /// An attempt begun in `epoch` failed. Says what changed, and whether this failure counted.
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
            // If no recipient was asked, nothing was sent.
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
            self.lengthen(asked, now);
            return None;
        }
        let before = self.closed.take();
        let (since, failures) = before
            .as_ref()
            .map_or((now, 1), |closed| (closed.since, closed.failures + 1));
        let backoff = policy.wait(failures, jitter);
        let wait = match cause {
            Cause::Limited | Cause::Down => backoff,
            Cause::Parked => backoff.min(PROBE_MAX),
        };
        let earlier = before.as_ref().and_then(|closed| closed.pause_until(now));
        let asked_until = earlier.max(asked.map(|asked| now.after(asked)));
        // Asking for less than the backoff does not shorten it.
        let until = now.after(wait).max(asked_until.unwrap_or(now));
        let change = match &before {
            Some(closed) if closed.cause != cause => Some(Change::Closed(cause)),
            Some(closed) if now.since(closed.told_at) >= REMIND => Some(Change::Still(cause)),
            Some(_) => None,
            None => Some(Change::Closed(cause)),
        };
        let outage = before.as_ref().and_then(|closed| closed.outage);
        let outage = (cause != Cause::Parked).then(|| Outage {
            since: outage.map_or(now, |outage| outage.since),
            failures: outage.map_or(1, |outage| outage.failures.saturating_add(1)),
        });
        let told_at = before
            .filter(|_| change.is_none())
            .map_or(now, |closed| closed.told_at);
        let reason = failure.reason().clone();
        self.closed = Some(Closed {
            cause,
            reason,
            since,
            until,
            asked_until,
            failures,
            outage,
            told_at,
            is_probe_requested: false,
        });
        self.epoch += 1;
        change
    }

    /// Lets a probe go at once: the configuration was read again, or the operator asks for an attempt. The cause stays
    /// until an attempt shows that the destination works; the backoff and the outage begin anew, and the outcome of the
    /// probe is logged. During a pause that the destination asked for, the probe goes at its end, and the outage
    /// continues.
    pub fn probe(&mut self, now: Timestamp) {
        let Some(closed) = &mut self.closed else { return };
        closed.is_probe_requested = true;
        if let Some(end) = closed.pause_until(now) {
            closed.until = end;
            return;
        }
        closed.until = now;
        closed.failures = 0;
        closed.outage = None;
        closed.told_at = Timestamp(i64::MIN);
        self.epoch += 1;
    }

    /// Returns true if the next attempt may take a delivery that is not due yet.
    #[must_use]
    pub fn is_probe_requested(&self) -> bool {
        self.closed
            .as_ref()
            .is_some_and(|closed| closed.is_probe_requested)
    }

    /// The operator resumes a destination that was paused: what failed before that gives up nothing now. A pause that
    /// the destination asked for stays.
    pub fn resume(&mut self, now: Timestamp) {
        self.probe(now);
        if let Some(closed) = &mut self.closed {
            closed.outage = None;
        }
    }

    /// An attempt that began before the gate closed is no further failure in a row, but the pause it was asked for counts.
    fn lengthen(&mut self, asked: Option<Duration>, now: Timestamp) {
        if let (Some(closed), Some(asked)) = (&mut self.closed, asked)
            && closed.cause != Cause::Parked
        {
            let end = now.after(asked);
            closed.asked_until = closed.asked_until.max(Some(end));
            closed.until = closed.until.max(end);
        }
    }

    fn outage(&self) -> Option<&Outage> {
        self.closed.as_ref()?.outage.as_ref()
    }
}

#[cfg(test)]
mod tests;
