//! A delivery: one message for one destination, and its state transitions.
//!
//! ```text
//! Waiting{due} ──claim──▶ (leased in memory) ──▶ Delivered
//!      ▲                        │  └───────────▶ Dead{reason}
//!      └────── Waiting{later} ◀─┘                   │
//!      └───────────────── requeue ◀─────────────────┘
//! ```

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::message::{Conversation, MessageId, Name, Timestamp};

mod fallback;
mod stored;

/// Upper bound of the attempts that a delivery records: the first and the latest.
pub const ATTEMPTS_KEPT: usize = 12;

/// Upper bound of the recorded response of an attempt, in bytes.
pub const DETAIL_MAX: usize = 200;

/// Distinguishes the queue of urgent deliveries from those of recipients.
const URGENT: &str = "\0urgent";

/// The id of a delivery, written `MESSAGEID-ORDINAL`. It is the idempotency key towards the destination and never
/// changes between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId {
    /// The message to deliver.
    pub message: MessageId,
    /// Numbers the deliveries of one message, from 1.
    pub ordinal: u16,
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.message, self.ordinal)
    }
}

/// The string is not `MESSAGEID-ORDINAL`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a delivery id (32 hexadecimal digits, `-`, a number)")]
pub struct DeliveryIdError;

impl FromStr for DeliveryId {
    type Err = DeliveryIdError;

    fn from_str(text: &str) -> Result<Self, DeliveryIdError> {
        let (message, ordinal) = text.rsplit_once('-').ok_or(DeliveryIdError)?;
        Ok(Self {
            message: message.parse().map_err(|_| DeliveryIdError)?,
            ordinal: ordinal.parse().map_err(|_| DeliveryIdError)?,
        })
    }
}

impl Serialize for DeliveryId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            (self.message, self.ordinal).serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for DeliveryId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?
                .parse()
                .map_err(serde::de::Error::custom)
        } else {
            let (message, ordinal) = <(MessageId, u16)>::deserialize(deserializer)?;
            Ok(Self { message, ordinal })
        }
    }
}

/// The state of a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// To be attempted at `due`, or later if an earlier message of its conversation is still pending.
    Waiting {
        /// The earliest time of the next attempt.
        due: Timestamp,
    },
    /// The destination accepted the message.
    Delivered {
        /// When it accepted the message.
        at: Timestamp,
    },
    /// No further attempt is made unless an operator retries it.
    Dead {
        /// When it was given up.
        at: Timestamp,
        /// The reason for the operator.
        reason: String,
    },
}

/// The result of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Accepted.
    Delivered,
    /// Failed; another attempt follows.
    Transient,
    /// The destination rejected the message permanently.
    Permanent,
    /// The destination is misconfigured; the message is kept.
    Parked,
}

/// The record of one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it started.
    pub at: Timestamp,
    /// Its duration in milliseconds.
    pub took_ms: u32,
    /// Its result.
    pub verdict: Verdict,
    /// The response or the error; at most [`DETAIL_MAX`] bytes.
    pub detail: String,
}

impl Attempt {
    /// Creates the record of one attempt. A longer response is cut at a character boundary.
    #[must_use]
    pub fn new(at: Timestamp, took: std::time::Duration, verdict: Verdict, detail: &str) -> Self {
        let took_ms = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
        Self {
            at,
            took_ms,
            verdict,
            detail: cut(detail),
        }
    }
}

fn cut(detail: &str) -> String {
    if detail.len() <= DETAIL_MAX {
        return detail.to_owned();
    }
    let end = (0..=DETAIL_MAX - 3)
        .rev()
        .find(|&at| detail.is_char_boundary(at))
        .unwrap_or(0);
    format!("{}…", &detail[..end])
}

/// One message for one destination, or for one of the destination's recipients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The id.
    pub id: DeliveryId,
    /// The destination.
    pub destination: Name,
    /// The route that matched; `None` if no route matched.
    pub route: Option<Name>,
    /// When the delivery was created.
    pub created_at: Timestamp,
    /// When an operator last made it pending again after it was dead.
    pub retried_at: Option<Timestamp>,
    /// Its state.
    pub state: State,
    /// The number of attempts.
    pub attempts_made: u32,
    /// The first and the latest attempts, oldest first, at most [`ATTEMPTS_KEPT`].
    pub attempts: Vec<Attempt>,
    /// The recipients that had received the message before a retry, as recorded by an earlier version of the program.
    /// Now recipients that have to wait get their own deliveries.
    pub progress: Vec<String>,
    /// The only recipient of the destination that it is for; `None` for all of them.
    pub recipient: Option<String>,
    /// The ordinal of the delivery that it was split from, or whose fallback it is.
    pub origin: Option<u16>,
    /// Why it needs no attention although it is dead.
    pub acknowledged: Option<Acknowledged>,
    /// Whether an operator created it by resending the message.
    pub is_resent: bool,
    /// Whether its route is urgent: it passes holds, and other deliveries of its conversation.
    pub is_urgent: bool,
    /// The end of the time interval that last held it.
    pub held_until: Option<Timestamp>,
    /// If it is a fallback that was created while the original delivery was still pending: why.
    pub handed_over: Option<String>,
}

/// The acknowledgement of a dead delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// When it was acknowledged.
    pub at: Timestamp,
    /// Who acknowledged it.
    pub by: AcknowledgedBy,
}

/// Who acknowledged a dead delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AcknowledgedBy {
    /// An operator.
    Operator,
    /// The fallback, which delivered the message.
    Fallback,
    /// Another delivery to the same destination, which delivered the message, or whose fallback did.
    Delivery,
}

impl Delivery {
    /// A new delivery, due immediately.
    #[must_use]
    pub fn new(id: DeliveryId, destination: Name, route: Option<Name>, now: Timestamp) -> Self {
        let state = State::Waiting { due: now };
        Self {
            id,
            destination,
            route,
            created_at: now,
            retried_at: None,
            state,
            attempts_made: 0,
            attempts: Vec::new(),
            progress: Vec::new(),
            recipient: None,
            origin: None,
            acknowledged: None,
            is_resent: false,
            is_urgent: false,
            held_until: None,
            handed_over: None,
        }
    }

    /// A new delivery that an operator requests for a message that has others, due immediately. The store assigns its
    /// ordinal.
    #[must_use]
    pub fn resent(message: MessageId, destination: Name, route: Option<Name>, now: Timestamp) -> Self {
        let none_yet = DeliveryId { message, ordinal: 0 };
        Self {
            is_resent: true,
            ..Self::new(none_yet, destination, route, now)
        }
    }

    /// A delivery for one recipient that still has to receive the message, with the same history. The store assigns
    /// its ordinal.
    #[must_use]
    pub fn split(&self, recipient: &str) -> Self {
        Self {
            recipient: Some(recipient.to_owned()),
            origin: Some(self.key().ordinal),
            ..self.clone()
        }
    }

    /// The idempotency key towards the destination, the same for all recipients.
    #[must_use]
    pub fn key(&self) -> DeliveryId {
        let shared = self.recipient.as_ref().and(self.origin);
        DeliveryId {
            ordinal: shared.unwrap_or(self.id.ordinal),
            ..self.id
        }
    }

    /// The queue in which its order is kept: the conversation, or the conversation and the recipient if it is for one
    /// recipient. Urgent deliveries have queues of their own.
    #[must_use]
    pub fn queue(&self, conversation: Conversation) -> Conversation {
        let shared = self.shared_queue(conversation);
        match &self.recipient {
            Some(recipient) => shared.with(recipient),
            None => shared,
        }
    }

    /// The queue of the deliveries to all recipients.
    #[must_use]
    pub fn shared_queue(&self, conversation: Conversation) -> Conversation {
        match self.is_urgent {
            true => conversation.with(URGENT),
            false => conversation,
        }
    }

    /// Returns true if it has not ended.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }

    /// Since when it has been pending, or was until it ended: `give_up_after` counts from here. While a time interval
    /// holds it, this is the end of the hold.
    #[must_use]
    pub fn pending_since(&self) -> Timestamp {
        let since = self.retried_at.unwrap_or(self.created_at);
        self.held_until.map_or(since, |until| until.max(since))
    }

    /// Returns true if time intervals do not hold it: its route is urgent, or an operator asked for it.
    #[must_use]
    pub fn passes_holds(&self) -> bool {
        self.is_urgent || self.is_resent || self.retried_at.is_some()
    }

    /// The state of a delivery that must wait until a time interval ends.
    #[must_use]
    pub fn held(self, until: Timestamp) -> Self {
        Self {
            state: State::Waiting { due: until },
            held_until: Some(until),
            ..self
        }
    }

    /// The end of the hold, if a time interval holds it.
    #[must_use]
    pub fn hold(&self) -> Option<Timestamp> {
        match self.state {
            State::Waiting { due } => self.held_until.filter(|until| *until == due),
            State::Delivered { .. } | State::Dead { .. } => None,
        }
    }

    /// Returns true if it was given up.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        matches!(self.state, State::Dead { .. })
    }

    /// Returns true if it is dead and neither an operator acknowledged it nor another delivery delivered the message
    /// instead.
    #[must_use]
    pub fn needs_attention(&self) -> bool {
        self.is_dead() && self.acknowledged.is_none()
    }

    /// The size of its strings in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        let reason = match &self.state {
            State::Dead { reason, .. } => reason.len(),
            State::Waiting { .. } | State::Delivered { .. } => 0,
        };
        let attempts = self.attempts.iter().map(|attempt| attempt.detail.len());
        let progress = self.progress.iter().map(String::len);
        let handed_over = self.handed_over.as_ref().map_or(0, String::len);
        reason + handed_over + attempts.sum::<usize>() + progress.sum::<usize>()
    }

    /// The state after a successful attempt.
    #[must_use]
    pub fn delivered(self, attempt: Attempt) -> Self {
        let at = attempt
            .at
            .after(std::time::Duration::from_millis(attempt.took_ms.into()));
        Self {
            state: State::Delivered { at },
            ..self.tried(attempt)
        }
    }

    /// The state after a failed attempt; the next attempt is due later.
    #[must_use]
    pub fn retry(self, attempt: Attempt, due: Timestamp) -> Self {
        Self {
            state: State::Waiting { due },
            ..self.tried(attempt)
        }
    }

    /// The state after giving up, with the attempt that caused it if there was one.
    #[must_use]
    pub fn dead(self, attempt: Option<Attempt>, at: Timestamp, reason: &str) -> Self {
        let state = State::Dead {
            at,
            reason: cut(reason),
        };
        let delivery = match attempt {
            Some(attempt) => self.tried(attempt),
            None => self,
        };
        Self { state, ..delivery }
    }

    /// The state of a dead delivery after its acknowledgement.
    #[must_use]
    pub fn acknowledged(self, at: Timestamp, by: AcknowledgedBy) -> Self {
        Self {
            acknowledged: Some(Acknowledged { at, by }),
            ..self
        }
    }

    /// The state after an operator retried it: due now, and `give_up_after` starts again.
    #[must_use]
    pub fn requeued(self, now: Timestamp) -> Self {
        Self {
            state: State::Waiting { due: now },
            retried_at: Some(now),
            held_until: None,
            acknowledged: None,
            ..self
        }
    }

    /// The state of a pending delivery after an operator asked for it now, which also ends a hold.
    #[must_use]
    pub fn brought_forward(self, now: Timestamp) -> Self {
        match self.hold() {
            Some(_) => self.requeued(now),
            None => self.due_at(now),
        }
    }

    /// The state of a pending delivery with another due time.
    #[must_use]
    pub fn due_at(self, due: Timestamp) -> Self {
        Self {
            state: State::Waiting { due },
            held_until: self.held_until.map(|until| until.min(due)),
            ..self
        }
    }

    /// The state with a due time, a creation time and a retry time that are not later than now.
    #[must_use]
    pub fn advanced(self, now: Timestamp) -> Self {
        Self {
            state: State::Waiting { due: now },
            created_at: self.created_at.min(now),
            retried_at: self.retried_at.map(|at| at.min(now)),
            held_until: self.held_until.map(|until| until.min(now)),
            ..self
        }
    }

    fn tried(mut self, attempt: Attempt) -> Self {
        // Otherwise the probes of a parked destination would push the meaningful attempts out of the list. The first
        // attempt is always kept.
        let later = self.attempts.get(1..).unwrap_or_default();
        let repeated = attempt.verdict == Verdict::Parked
            && later.last().is_some_and(|last| last.verdict == Verdict::Parked);
        if repeated {
            self.attempts.pop();
        }
        if self.attempts.len() >= ATTEMPTS_KEPT {
            self.attempts.remove(1);
        }
        self.attempts.push(attempt);
        self.attempts_made = self.attempts_made.saturating_add(1);
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn delivery() -> Delivery {
        let id = DeliveryId {
            message: MessageId(uuid::Uuid::from_u128(7)),
            ordinal: 1,
        };
        Delivery::new(id, "desk".parse().unwrap(), None, Timestamp(1000))
    }

    fn attempt(at: i64, verdict: Verdict) -> Attempt {
        Attempt::new(Timestamp(at), Duration::from_millis(5), verdict, "why")
    }

    #[test]
    fn an_id_is_parsed_as_it_is_written() {
        let id = delivery().id;
        assert_eq!(id.to_string(), "00000000000000000000000000000007-1");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("x-1".parse::<DeliveryId>(), Err(DeliveryIdError));
    }

    #[test]
    fn the_first_and_the_latest_attempts_are_kept() {
        let last = (0..30).fold(delivery(), |delivery, n| {
            delivery.retry(attempt(n, Verdict::Transient), Timestamp(n + 1))
        });
        assert_eq!(last.attempts_made, 30);
        assert_eq!(last.attempts.len(), ATTEMPTS_KEPT);
        assert_eq!(last.attempts[0].at, Timestamp(0));
        assert_eq!(last.attempts[ATTEMPTS_KEPT - 1].at, Timestamp(29));
    }

    #[test]
    fn probes_of_a_parked_destination_do_not_fill_the_list() {
        let last = (0..5).fold(delivery(), |delivery, n| {
            delivery.retry(attempt(n, Verdict::Parked), Timestamp(n))
        });
        let times: Vec<i64> = last.attempts.iter().map(|attempt| attempt.at.0).collect();
        assert_eq!(
            (times, last.attempts_made),
            (vec![0, 4], 5),
            "the first and the last"
        );
    }

    #[test]
    fn an_overlong_answer_is_cut_between_characters() {
        let attempt = Attempt::new(Timestamp(0), Duration::ZERO, Verdict::Permanent, &"é".repeat(300));
        assert!(attempt.detail.len() <= DETAIL_MAX && attempt.detail.ends_with('…'));
    }

    #[test]
    fn recipients_share_the_key_and_each_has_its_own_queue() {
        let whole = delivery();
        let conversation = Conversation([7; 8]);
        let [a, b] = ["a@example.com", "b@example.com"].map(|recipient| whole.split(recipient));
        let again = Delivery {
            id: DeliveryId { ordinal: 4, ..b.id },
            ..b.clone()
        };
        assert_eq!([a.key(), again.key(), whole.key()], [whole.id; 3]);
        let queues = [&whole, &a, &b, &again].map(|delivery| delivery.queue(conversation));
        assert_eq!((queues[0], queues[3]), (conversation, queues[2]));
        assert!(queues[1] != queues[0] && queues[1] != queues[2]);
        let fallback = Delivery {
            id: DeliveryId { ordinal: 5, ..b.id },
            ..again.fallback("room".parse().unwrap(), Timestamp(0))
        };
        assert_eq!((fallback.key(), fallback.origin), (fallback.id, Some(1)));
        assert_eq!(fallback.queue(conversation), conversation);
    }

    #[test]
    fn a_hold_does_not_count_as_pending() {
        let held = delivery().held(Timestamp(5000));
        assert_eq!(held.state, State::Waiting { due: Timestamp(5000) });
        assert_eq!(
            (held.hold(), held.pending_since()),
            (Some(Timestamp(5000)), Timestamp(5000))
        );
        let tried = held
            .clone()
            .retry(attempt(5001, Verdict::Transient), Timestamp(6000));
        assert_eq!((tried.hold(), tried.pending_since()), (None, Timestamp(5000)));
        let asked = held.clone().brought_forward(Timestamp(2000));
        assert_eq!((asked.hold(), asked.retried_at), (None, Some(Timestamp(2000))));
        let due = tried.brought_forward(Timestamp(5500));
        assert_eq!(
            (&due.state, due.retried_at),
            (&State::Waiting { due: Timestamp(5500) }, None)
        );
        assert_eq!(
            held.clone().due_at(Timestamp(3000)).pending_since(),
            Timestamp(3000)
        );
        assert_eq!(held.advanced(Timestamp(3000)).pending_since(), Timestamp(3000));
    }

    #[test]
    fn urgent_deliveries_have_their_own_queues() {
        let conversation = Conversation([7; 8]);
        let urgent = Delivery {
            is_urgent: true,
            ..delivery()
        };
        let all = [
            delivery(),
            delivery().split("a"),
            urgent.clone(),
            urgent.split("a"),
        ];
        let queues: std::collections::BTreeSet<[u8; 8]> = all
            .iter()
            .map(|delivery| delivery.queue(conversation).0)
            .collect();
        assert_eq!(queues.len(), 4);
    }

    #[test]
    fn a_requeued_delivery_keeps_its_history_and_when_it_was_created() {
        let dead = delivery().dead(Some(attempt(1, Verdict::Permanent)), Timestamp(2), "no");
        let again = dead.requeued(Timestamp(9));
        assert_eq!(again.state, State::Waiting { due: Timestamp(9) });
        assert_eq!((again.attempts_made, again.created_at), (1, Timestamp(1000)));
        assert_eq!(again.pending_since(), Timestamp(9), "`give_up_after` starts anew");
        assert_eq!(again.advanced(Timestamp(5)).pending_since(), Timestamp(5));
    }
}
