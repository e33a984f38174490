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
use crate::store::Fault;

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
    /// When the next probe may go.
    pub until: Timestamp,
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
    /// Closed by the fault that an earlier run left: the next attempt, a probe, shows whether it is over.
    #[must_use]
    pub fn restored(fault: Fault, now: Timestamp) -> Self {
        let mut gate = Self {
            closed: Some(Closed {
                cause: fault.cause,
                reason: fault.reason,
                since: fault.since.min(now),
                until: now.after(fault.pause),
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

    /// What the next run is to know, and how long a pause that was asked for still lasts.
    #[must_use]
    pub fn fault(&self, now: Timestamp) -> Option<Fault> {
        let closed = self.closed.as_ref()?;
        let pause = match closed.cause {
            Cause::Limited => closed.until.since(now),
            Cause::Down | Cause::Parked => Duration::ZERO,
        };
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
            // Asking for less than the backoff does not shorten it.
            Cause::Limited | Cause::Down => backoff.max(asked.unwrap_or_default()),
            Cause::Parked => backoff.min(PROBE_MAX),
        };
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
            until: now.after(wait),
            failures,
            outage,
            told_at,
            is_probe_requested: false,
        });
        self.epoch += 1;
        change
    }

    /// Lets a probe of a destination that is parked or down go at once: its configuration was read again. The cause
    /// stays until an attempt shows that the destination works; the backoff and the outage begin anew, and the
    /// outcome of the probe is logged. A pause that the destination asked for stays.
    pub fn probe(&mut self, now: Timestamp) {
        let Some(closed) = &mut self.closed else { return };
        if closed.cause == Cause::Limited {
            return;
        }
        closed.until = now;
        closed.failures = 0;
        closed.outage = None;
        closed.told_at = Timestamp(i64::MIN);
        closed.is_probe_requested = true;
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
        match &mut self.closed {
            Some(closed) if closed.cause == Cause::Limited => closed.outage = None,
            _ => self.probe(now),
        }
    }

    /// An attempt that began before the gate closed is no further failure in a row, but the pause it was asked for counts.
    fn lengthen(&mut self, asked: Option<Duration>, now: Timestamp) {
        if let (Some(closed), Some(asked)) = (&mut self.closed, asked)
            && closed.cause != Cause::Parked
        {
            closed.until = closed.until.max(now.after(asked));
        }
    }

    fn outage(&self) -> Option<&Outage> {
        self.closed.as_ref()?.outage.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        initial: Duration::from_secs(5),
        max: Duration::from_secs(3600),
        give_up_after: Duration::from_secs(86400),
    };

    fn limited(seconds: u64) -> Failure {
        Failure::Transient {
            reason: "429".into(),
            retry_after: Some(Duration::from_secs(seconds)),
            scope: Scope::Destination,
        }
    }

    #[test]
    fn a_rate_limit_closes_the_whole_lane_for_as_long_as_asked() {
        let mut gate = Gate::default();
        let change = gate.failed(&limited(30), 0, &POLICY, Timestamp(0), 1.0);
        assert_eq!(change, Some(Change::Closed(Cause::Limited)));
        assert_eq!(gate.allows(0, 8, Timestamp(29_999)), 0);
        assert_eq!(gate.allows(0, 8, Timestamp(30_000)), 1, "a single probe");
        assert_eq!(gate.allows(1, 8, Timestamp(30_000)), 0);
        assert_eq!(gate.works(), Some(Change::Opened(Timestamp(0))));
        assert_eq!(gate.allows(1, 8, Timestamp(30_000)), 7);
    }

    #[test]
    fn a_pause_shorter_than_the_backoff_does_not_shorten_it() {
        for asked in [0, 1] {
            let mut gate = Gate::default();
            for seconds in [5, 10, 20, 40] {
                let epoch = gate.epoch();
                gate.failed(&limited(asked), epoch, &POLICY, Timestamp(0), 1.0);
                let until = gate.closed().map(|closed| closed.until);
                assert_eq!(until, Some(Timestamp(seconds * 1000)), "asked for {asked} s");
            }
        }
    }

    #[test]
    fn of_attempts_that_were_under_way_the_longest_pause_counts() {
        let mut gate = Gate::default();
        for seconds in [30, 300, 60] {
            gate.failed(&limited(seconds), 0, &POLICY, Timestamp(0), 1.0);
        }
        assert_eq!(gate.closed().map(|closed| closed.until), Some(Timestamp(300_000)));
        assert_eq!(gate.closed().map(|closed| closed.failures), Some(1));
    }

    #[test]
    fn a_divided_outcome_opens_the_gate_only_if_a_recipient_was_asked() {
        use crate::destination::Other;
        let later = Fate::Later {
            reason: "452".into(),
            retry_after: None,
        };
        for (accepted, fate, opens) in [
            (false, Fate::Behind, false),
            (true, Fate::Behind, true),
            (false, later, true),
        ] {
            let mut gate = Gate::default();
            gate.failed(&Failure::unreachable("refused"), 0, &POLICY, Timestamp(0), 1.0);
            let divided = Failure::Divided {
                reason: Reason::default(),
                accepted,
                others: vec![Other {
                    recipient: "night@example.com".into(),
                    fate,
                }],
            };
            let change = gate.failed(&divided, gate.epoch(), &POLICY, Timestamp(1), 1.0);
            assert_eq!(change.is_some(), opens, "{divided:?}");
            assert_eq!(gate.closed().is_none(), opens, "{divided:?}");
        }
    }

    #[test]
    fn failures_in_a_row_back_off_and_are_news_once() {
        let mut gate = Gate::default();
        let down = Failure::unreachable("refused");
        assert!(gate.failed(&down, 0, &POLICY, Timestamp(0), 1.0).is_some());
        for n in 1..4 {
            let epoch = gate.epoch();
            assert_eq!(
                gate.failed(&down, epoch, &POLICY, Timestamp(0), 1.0),
                None,
                "failure {n}"
            );
        }
        assert_eq!(gate.closed().map(|closed| closed.until), Some(Timestamp(40_000)));
    }

    #[test]
    fn attempts_begun_before_the_gate_closed_do_not_lengthen_the_wait() {
        let mut gate = Gate::default();
        let down = Failure::unreachable("refused");
        for _ in 0..8 {
            gate.failed(&down, 0, &POLICY, Timestamp(0), 1.0);
        }
        assert_eq!(gate.closed().map(|closed| closed.failures), Some(1));
    }

    #[test]
    fn a_refused_message_shows_that_the_destination_works() {
        let mut gate = Gate::default();
        gate.failed(&Failure::unreachable("refused"), 0, &POLICY, Timestamp(0), 1.0);
        let epoch = gate.epoch();
        let change = gate.failed(&Failure::permanent("550"), epoch, &POLICY, Timestamp(9), 1.0);
        assert_eq!(change, Some(Change::Opened(Timestamp(0))));
    }

    #[test]
    fn a_gate_that_stays_closed_is_news_again_after_an_hour() {
        let mut gate = Gate::default();
        let down = Failure::unreachable("refused");
        let mut news = Vec::new();
        for minute in 0..130 {
            let epoch = gate.epoch();
            news.extend(
                gate.failed(&down, epoch, &POLICY, Timestamp(minute * 60_000), 1.0)
                    .map(|change| (minute, change)),
            );
        }
        let still = Change::Still(Cause::Down);
        assert_eq!(
            news,
            [
                (0, Change::Closed(Cause::Down)),
                (60, still.clone()),
                (120, still)
            ]
        );
    }

    #[test]
    fn what_becomes_overdue_in_an_outage_is_given_up_and_what_was_before_at_the_second_failure() {
        for failure in [limited(3600), Failure::unreachable("refused")] {
            let mut gate = Gate::default();
            assert!(!gate.gives_up(Timestamp(7)), "it works");
            gate.failed(&failure, 0, &POLICY, Timestamp(7), 1.0);
            assert!(gate.gives_up(Timestamp(7)) && !gate.gives_up(Timestamp(6)));
            let epoch = gate.epoch();
            gate.failed(&failure, epoch, &POLICY, Timestamp(9), 1.0);
            assert!(gate.gives_up(Timestamp(0)));
            gate.works();
            assert!(!gate.gives_up(Timestamp(9)));
        }
    }

    #[test]
    fn a_parked_destination_gives_nothing_up_and_being_parked_counts_for_no_outage() {
        let mut gate = Gate::default();
        for failure in [limited(30), Failure::parked("token"), Failure::parked("token")] {
            let epoch = gate.epoch();
            gate.failed(&failure, epoch, &POLICY, Timestamp(7), 1.0);
        }
        assert!(!gate.gives_up(Timestamp(99)) && !gate.is_out());
        let epoch = gate.epoch();
        gate.failed(&limited(30), epoch, &POLICY, Timestamp(50), 1.0);
        assert!(gate.gives_up(Timestamp(50)) && !gate.gives_up(Timestamp(49)));
        assert_eq!(gate.closed().map(|closed| closed.failures), Some(4));
    }

    #[test]
    fn a_requested_probe_goes_at_once_and_hides_nothing() {
        for failure in [Failure::parked("token"), Failure::unreachable("refused")] {
            let mut gate = Gate::default();
            for _ in 0..4 {
                let epoch = gate.epoch();
                gate.failed(&failure, epoch, &POLICY, Timestamp(7), 1.0);
            }
            let before = gate.closed().cloned().unwrap();
            gate.probe(Timestamp(9));
            let after = gate.closed().cloned().unwrap();
            assert_eq!((after.cause, after.since), (before.cause, before.since));
            assert_eq!(after.reason, before.reason);
            assert!(!gate.gives_up(Timestamp(0)), "the outage begins anew");
            assert_eq!(
                (gate.allows(0, 8, Timestamp(9)), gate.is_probe_requested()),
                (1, true)
            );
            let change = gate.failed(&failure, gate.epoch(), &POLICY, Timestamp(10), 1.0);
            assert_eq!(change, Some(Change::Still(before.cause)));
            let closed = gate.closed().unwrap();
            assert_eq!((closed.since, closed.until), (Timestamp(7), Timestamp(5010)));
            assert!(!gate.is_probe_requested());
        }
    }

    #[test]
    fn a_fault_survives_a_restart_with_what_is_left_of_its_pause() {
        for (failure, until) in [(limited(30), 120_000), (Failure::parked("token"), 100_000)] {
            let mut gate = Gate::default();
            gate.failed(&failure, 0, &POLICY, Timestamp(7), 1.0);
            let fault = gate.fault(Timestamp(10_007)).unwrap();
            let restored = Gate::restored(fault, Timestamp(100_000));
            let (before, after) = (gate.closed().unwrap(), restored.closed().unwrap());
            assert_eq!((after.cause, after.since), (before.cause, before.since));
            assert_eq!(after.reason, before.reason);
            assert_eq!(after.until, Timestamp(until));
            assert_eq!(restored.is_probe_requested(), after.cause == Cause::Parked);
        }
        assert_eq!(Gate::default().fault(Timestamp(0)), None);
    }

    #[test]
    fn a_pause_that_was_asked_for_is_not_ended_by_resuming_and_gives_up_nothing_then() {
        let mut gate = Gate::default();
        for _ in 0..2 {
            let epoch = gate.epoch();
            gate.failed(&limited(30), epoch, &POLICY, Timestamp(0), 1.0);
        }
        assert!(gate.gives_up(Timestamp(0)));
        gate.resume(Timestamp(60));
        assert_eq!(gate.closed().map(|closed| closed.until), Some(Timestamp(30_000)));
        assert!(!gate.gives_up(Timestamp(0)) && !gate.is_out());
        gate.failed(
            &Failure::unreachable("refused"),
            gate.epoch(),
            &POLICY,
            Timestamp(30_000),
            1.0,
        );
        gate.resume(Timestamp(60));
        assert_eq!(gate.closed().map(|closed| closed.cause), Some(Cause::Down));
        assert!(gate.is_probe_requested() && !gate.is_out());
    }

    #[test]
    fn a_pause_that_was_asked_for_is_not_ended_by_a_requested_probe() {
        let mut gate = Gate::default();
        gate.failed(&limited(30), 0, &POLICY, Timestamp(0), 1.0);
        gate.probe(Timestamp(1));
        assert_eq!(gate.closed().map(|closed| closed.until), Some(Timestamp(30_000)));
        assert!(!gate.is_probe_requested());
    }

    #[test]
    fn a_parked_destination_is_probed_at_least_every_five_minutes() {
        let mut gate = Gate::default();
        for _ in 0..20 {
            let epoch = gate.epoch();
            gate.failed(&Failure::parked("bad token"), epoch, &POLICY, Timestamp(0), 1.0);
        }
        assert_eq!(gate.closed().map(|closed| closed.until), Some(Timestamp(300_000)));
    }
}
