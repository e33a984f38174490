//! What the outcome of an attempt means for the delivery: whether it is tried again, and what each recipient is still
//! owed. Pure; the caller passes the time.

use std::time::Duration;

use crate::delivery::{Attempt, Delivery, State, Verdict};
use crate::destination::{Fate, Other};
use crate::mask::Reason;
use crate::message::Timestamp;
use crate::retry::{Next, Policy};

/// When an attempt was made, and what the decision about the next one depends on.
pub(super) struct Trial<'a> {
    pub(super) policy: &'a Policy,
    pub(super) started: Timestamp,
    pub(super) took: Duration,
    pub(super) now: Timestamp,
    /// From when on `give_up_after` counts.
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

    /// Gives each recipient that did not take the message a delivery of its own, so that no other waits for it, and
    /// says what there is to log about each. The delivery itself comes first. It ends as delivered; if no recipient
    /// took the message, it becomes that of the first recipient.
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

    /// What one recipient is still owed of a delivery, or that it will never take it. There is nothing to log if it
    /// was not asked.
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

/// A duration for people: whole seconds, or milliseconds below one.
pub(super) fn age(duration: Duration) -> String {
    let rounded = if duration.as_secs() > 0 {
        Duration::from_secs(duration.as_secs())
    } else {
        Duration::from_millis(u64::from(duration.subsec_millis()))
    };
    humantime::format_duration(rounded).to_string()
}
