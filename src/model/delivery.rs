//! One delivery: a message owed to one destination, and the ways its state may change.
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

use crate::message::{Conversation, MessageId, Name, Timestamp};

mod fallback;
mod stored;

/// How many attempts a delivery remembers one by one: the first and the latest.
pub const ATTEMPTS_KEPT: usize = 12;

/// How much of an attempt's answer is kept, in bytes.
pub const DETAIL_MAX: usize = 200;

/// The id of a delivery, written `MESSAGEID-ORDINAL`. It is the idempotency key towards the destination and
/// never changes, however often the delivery is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId {
    /// The message that is owed.
    pub message: MessageId,
    /// Counts the deliveries of one message, from 1.
    pub ordinal: u16,
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.message, self.ordinal)
    }
}

/// A text that is not `MESSAGEID-ORDINAL`.
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

/// Where a delivery stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// To be tried at `due`, or later if an earlier text of its conversation is still waiting.
    Waiting {
        /// Not before this moment.
        due: Timestamp,
    },
    /// The other side has taken it.
    Delivered {
        /// When it said so.
        at: Timestamp,
    },
    /// Nobody will try it again by itself.
    Dead {
        /// When it was given up.
        at: Timestamp,
        /// Why, for the operator.
        reason: String,
    },
}

/// How one attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Taken.
    Delivered,
    /// To be tried again.
    Transient,
    /// The message itself was refused.
    Permanent,
    /// The destination is misconfigured; the message is kept.
    Parked,
}

/// One attempt, for the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it began.
    pub at: Timestamp,
    /// How long it took, in milliseconds.
    pub took_ms: u32,
    /// How it ended.
    pub verdict: Verdict,
    /// The other side's answer, or what went wrong; at most [`DETAIL_MAX`] bytes.
    pub detail: String,
}

impl Attempt {
    /// Describes one attempt, cutting an overlong answer at a character's boundary.
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

/// A message owed to one destination, or to one of the destination's recipients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its id.
    pub id: DeliveryId,
    /// Whom it is owed to.
    pub destination: Name,
    /// The route that asked for it; none when no route matched.
    pub route: Option<Name>,
    /// When it came to be owed.
    pub created_at: Timestamp,
    /// Where it stands.
    pub state: State,
    /// How often it was tried.
    pub attempts_made: u32,
    /// The first and the latest attempts, oldest first, at most [`ATTEMPTS_KEPT`].
    pub attempts: Vec<Attempt>,
    /// The recipients that an earlier version of the program had brought it to before it had to be retried. Now
    /// recipients that have to wait get deliveries of their own.
    pub progress: Vec<String>,
    /// The one of the destination's recipients it is for; all of them if none is named.
    pub recipient: Option<String>,
    /// The ordinal of the delivery it came of: for a recipient that could not take that one, or as its fallback.
    pub origin: Option<u16>,
    /// Why it needs no attention although it is dead.
    pub acknowledged: Option<Acknowledged>,
}

/// The acknowledgement of a dead delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub by: AcknowledgedBy,
}

/// Who acknowledged a dead delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AcknowledgedBy {
    /// An operator, who knows of it or gave it up.
    Operator,
    /// The fallback, which delivered the message.
    Fallback,
}

impl Delivery {
    /// A new delivery, due at once.
    #[must_use]
    pub fn new(id: DeliveryId, destination: Name, route: Option<Name>, now: Timestamp) -> Self {
        let state = State::Waiting { due: now };
        Self {
            id,
            destination,
            route,
            created_at: now,
            state,
            attempts_made: 0,
            attempts: Vec::new(),
            progress: Vec::new(),
            recipient: None,
            origin: None,
            acknowledged: None,
        }
    }

    /// What one recipient is still owed of it, as a delivery of its own with the same history. Its ordinal is given
    /// by the store.
    #[must_use]
    pub fn split(&self, recipient: &str) -> Self {
        Self {
            recipient: Some(recipient.to_owned()),
            origin: Some(self.key().ordinal),
            ..self.clone()
        }
    }

    /// The idempotency key towards the destination, the same for all its recipients.
    #[must_use]
    pub fn key(&self) -> DeliveryId {
        let shared = self.recipient.as_ref().and(self.origin);
        DeliveryId {
            ordinal: shared.unwrap_or(self.id.ordinal),
            ..self.id
        }
    }

    /// What keeps its order: the conversation, and within that each recipient that has to wait by itself.
    #[must_use]
    pub fn queue(&self, conversation: Conversation) -> Conversation {
        match &self.recipient {
            Some(recipient) => conversation.with(recipient),
            None => conversation,
        }
    }

    /// Whether somebody still has to do something.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }

    /// Whether it was given up.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        matches!(self.state, State::Dead { .. })
    }

    /// Returns true if it is dead and neither an operator acknowledged it nor its fallback delivered the message.
    #[must_use]
    pub fn needs_attention(&self) -> bool {
        self.is_dead() && self.acknowledged.is_none()
    }

    /// How many bytes the words in it take.
    #[must_use]
    pub fn size(&self) -> usize {
        let reason = match &self.state {
            State::Dead { reason, .. } => reason.len(),
            State::Waiting { .. } | State::Delivered { .. } => 0,
        };
        let attempts = self.attempts.iter().map(|attempt| attempt.detail.len());
        let progress = self.progress.iter().map(String::len);
        reason + attempts.sum::<usize>() + progress.sum::<usize>()
    }

    /// The other side took it with this attempt.
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

    /// This attempt failed; the next is due later.
    #[must_use]
    pub fn retry(self, attempt: Attempt, due: Timestamp) -> Self {
        Self {
            state: State::Waiting { due },
            ..self.tried(attempt)
        }
    }

    /// Given up, with the attempt that decided it if there was one.
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

    /// Dead, and in no need of attention.
    #[must_use]
    pub fn acknowledged(self, at: Timestamp, by: AcknowledgedBy) -> Self {
        Self {
            acknowledged: Some(Acknowledged { at, by }),
            ..self
        }
    }

    /// Due again now, with a fresh patience of `give_up_after`: the operator asked for it.
    #[must_use]
    pub fn requeued(self, now: Timestamp) -> Self {
        Self {
            state: State::Waiting { due: now },
            created_at: now,
            acknowledged: None,
            ..self
        }
    }

    /// Due now instead of later, and created no later than now.
    #[must_use]
    pub fn advanced(self, now: Timestamp) -> Self {
        Self {
            state: State::Waiting { due: now },
            created_at: self.created_at.min(now),
            ..self
        }
    }

    fn tried(mut self, attempt: Attempt) -> Self {
        // A parked destination's probes would otherwise push the attempts that meant something out of the list.
        let repeated = attempt.verdict == Verdict::Parked
            && self
                .attempts
                .last()
                .is_some_and(|last| last.verdict == Verdict::Parked);
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
    fn an_id_is_read_as_it_is_written() {
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
        assert_eq!(last.attempts.len(), 1);
        assert_eq!(last.attempts_made, 5);
    }

    #[test]
    fn an_overlong_answer_is_cut_between_characters() {
        let attempt = Attempt::new(Timestamp(0), Duration::ZERO, Verdict::Permanent, &"é".repeat(300));
        assert!(attempt.detail.len() <= DETAIL_MAX && attempt.detail.ends_with('…'));
    }

    #[test]
    fn recipients_share_the_key_and_each_has_a_queue_of_its_own() {
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
    fn a_requeued_delivery_keeps_its_history() {
        let dead = delivery().dead(Some(attempt(1, Verdict::Permanent)), Timestamp(2), "no");
        let again = dead.requeued(Timestamp(9));
        assert_eq!(again.state, State::Waiting { due: Timestamp(9) });
        assert_eq!((again.attempts_made, again.created_at), (1, Timestamp(9)));
    }
}
