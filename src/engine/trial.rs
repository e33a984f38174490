//! The consequences of an attempt for the delivery: whether it is retried, and which recipients still need it. Pure;
//! the caller passes the time.

use std::time::Duration;

use crate::destination::{Fate, Other};
use crate::mask::Reason;
use crate::model::delivery::{Attempt, Delivery, State, Verdict};
use crate::model::message::Timestamp;
use crate::retry::{Next, Policy};

/// An attempt, with everything that the decision about the next one depends on.
pub(super) struct Trial<'a> {
    pub(super) policy: &'a Policy,
    pub(super) started: Timestamp,
    pub(super) took: Duration,
    pub(super) now: Timestamp,
    /// The start of the time that counts towards `give_up_after`.
    pub(super) since: Timestamp,
}

impl Trial<'_> {
    pub(super) fn attempt(&self, verdict: Verdict, reason: &Reason) -> Attempt {
        Attempt::new(self.started, self.took, verdict, reason.shown())
    }

    pub(super) fn next(&self, delivery: &Delivery, asked: Option<Duration>, jitter: f64) -> Next {
        let failures = delivery.attempts_made.saturating_add(1);
        self.policy.next(failures, self.since, self.now, asked, jitter)
    }

    pub(super) fn give_up(&self, delivery: Delivery, reason: &Reason) -> (Delivery, Reason) {
        let attempt = self.attempt(Verdict::Transient, reason);
        let waited = age(self.now.since(self.since));
        let reason = Reason::from(format!("given up after {waited}: ")).and(reason);
        let dead = delivery.dead(Some(attempt), self.now, reason.shown());
        (dead, reason)
    }

    /// Gives each recipient that did not accept the message its own delivery, so that no other recipient waits for
    /// it, and returns the reason to log for each. The delivery itself comes first. It ends as delivered; if no
    /// recipient accepted the message, it becomes that of the first recipient.
    pub(super) fn divide(
        &self,
        delivery: Delivery,
        reason: &Reason,
        accepted: bool,
        others: &[Other],
    ) -> Vec<(Delivery, Option<Reason>)> {
        let mut all: Vec<_> = others.iter().map(|other| self.share(&delivery, other)).collect();
        match all.first_mut() {
            Some((first, _)) if !accepted => {
                first.id = delivery.id;
                first.origin = delivery.origin;
            }
            _ => {
                let delivered = delivery.delivered(self.attempt(Verdict::Delivered, reason));
                all.insert(0, (delivered, Some(Reason::default())));
            }
        }
        all
    }

    /// The delivery for a single recipient: pending, or dead if it rejects the message for good. The reason is `None`
    /// if this recipient was not attempted.
    fn share(&self, delivery: &Delivery, other: &Other) -> (Delivery, Option<Reason>) {
        let own = delivery.split(&other.recipient);
        let (own, reason) = match &other.fate {
            Fate::Behind => {
                let state = State::Waiting { due: self.now };
                return (Delivery { state, ..own }, None);
            }
            Fate::Later { reason, retry_after } => match self.next(&own, *retry_after, rand::random()) {
                Next::At(due) => (
                    own.retry(self.attempt(Verdict::Transient, reason), due),
                    reason.clone(),
                ),
                Next::GiveUp => self.give_up(own, reason),
            },
            Fate::Never { reason } => {
                let attempt = self.attempt(Verdict::Permanent, reason);
                (own.dead(Some(attempt), self.now, reason.shown()), reason.clone())
            }
        };
        (own, Some(reason))
    }
}

/// A duration for display: whole seconds, or milliseconds below one second.
pub(super) fn age(duration: Duration) -> String {
    let rounded = if duration.as_secs() > 0 {
        Duration::from_secs(duration.as_secs())
    } else {
        Duration::from_millis(u64::from(duration.subsec_millis()))
    };
    humantime::format_duration(rounded).to_string()
}
