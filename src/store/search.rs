//! Searches for messages and deliveries, and their results.

use crate::model::delivery::{Delivery, State};
use crate::model::message::{Message, Name, Timestamp};
use crate::model::number::Pattern;

/// The state of a message, derived from its deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageState {
    /// It has a pending delivery.
    Pending,
    /// No delivery is pending, and one is dead that no other delivery made up for.
    Dead,
    /// All deliveries were delivered, by themselves or by others instead.
    Delivered,
    /// Its routes have no destination (`deliver = []`).
    Kept,
    /// No route matched it, and `unmatched` has no destination.
    Unrouted,
}

/// A search for stored messages, newest first. All given conditions must hold.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// The sender.
    pub from: Option<Pattern>,
    /// The receiver.
    pub to: Option<Pattern>,
    /// A part of the body, ignoring case.
    pub text: Option<String>,
    /// The source.
    pub source: Option<Name>,
    /// The state. `Unrouted` finds all messages that matched no route, whatever their deliveries.
    pub state: Option<MessageState>,
    /// Received at or after this time.
    pub since: Option<Timestamp>,
    /// Received before this time.
    pub until: Option<Timestamp>,
    /// The maximum number of results.
    pub limit: usize,
    /// The cursor that the previous page returned.
    pub cursor: Option<u64>,
}

impl Query {
    /// Returns true if all conditions hold that depend on the message alone, which are all but the state.
    #[must_use]
    pub fn matches(&self, message: &Message) -> bool {
        let text = self.text.as_ref().map(|text| text.to_lowercase());
        self.from.as_ref().is_none_or(|from| from.matches(&message.from))
            && self.to.as_ref().is_none_or(|to| to.matches(&message.to))
            && self
                .source
                .as_ref()
                .is_none_or(|source| *source == message.source)
            && self.since.is_none_or(|since| message.received_at >= since)
            && self.until.is_none_or(|until| message.received_at < until)
            && text.is_none_or(|text| message.text.to_lowercase().contains(&text))
    }
}

/// A message with its deliveries.
#[derive(Clone, Debug)]
pub struct Found {
    /// The message.
    pub message: Message,
    /// All its deliveries, by ordinal.
    pub deliveries: Vec<Delivery>,
}

impl Found {
    /// The size of the message and its deliveries, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.message.size() + self.deliveries.iter().map(Delivery::size).sum::<usize>()
    }

    /// The state of the message.
    #[must_use]
    pub fn state(&self) -> MessageState {
        state_of(self.deliveries.iter()).unwrap_or(match self.message.routes.is_empty() {
            true => MessageState::Unrouted,
            false => MessageState::Kept,
        })
    }

    /// Returns true if a search for this state finds the message.
    #[must_use]
    pub fn is(&self, state: MessageState) -> bool {
        match state {
            MessageState::Unrouted => self.message.routes.is_empty(),
            state => self.state() == state,
        }
    }
}

/// A search for deliveries, newest first.
#[derive(Clone, Debug, Default)]
pub struct DeliveryQuery {
    /// The destination.
    pub destination: Option<Name>,
    /// `Pending`, `Dead` or `Delivered`.
    pub state: Option<MessageState>,
    /// The maximum number of results.
    pub limit: usize,
    /// The cursor that the previous page returned.
    pub cursor: Option<u64>,
}

impl DeliveryQuery {
    /// Returns true if all conditions hold. No delivery is `Kept` or `Unrouted`.
    #[must_use]
    pub fn matches(&self, delivery: &Delivery) -> bool {
        let state = match delivery.state {
            State::Waiting { .. } => MessageState::Pending,
            State::Delivered { .. } => MessageState::Delivered,
            State::Dead { .. } => MessageState::Dead,
        };
        self.destination
            .as_ref()
            .is_none_or(|destination| *destination == delivery.destination)
            && self.state.is_none_or(|wanted| wanted == state)
    }
}

/// Part of a long list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// The cursor of the next page; `None` on the last one.
    pub next: Option<u64>,
}

/// The state that a message has by its deliveries; `None` without any.
pub(super) fn state_of<'a>(deliveries: impl Iterator<Item = &'a Delivery> + Clone) -> Option<MessageState> {
    let mut all = deliveries.clone();
    let is_lost = |delivery: &Delivery| delivery.is_dead() && !delivery.is_delivered_otherwise();
    if all.clone().any(Delivery::is_waiting) {
        Some(MessageState::Pending)
    } else if deliveries.clone().any(is_lost) {
        Some(MessageState::Dead)
    } else {
        all.next().map(|_| MessageState::Delivered)
    }
}
