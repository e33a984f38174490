//! Assembles a message and its deliveries from their records.

use std::collections::BTreeMap;

use super::keys::{self, Place, Queue};
use super::record::{self, Kept, Lookup as _, Trouble};
use super::view::View;
use crate::model::delivery::Delivery;
use crate::model::message::{Message, Name};
use crate::store::Found;

impl View<'_> {
    /// A message as accepted.
    pub(super) fn kept(&self, seq: u64) -> Result<Option<Kept>, Trouble> {
        self.load(&keys::message(seq))
    }

    /// One delivery in its current state.
    pub(super) fn delivery(&self, place: Place) -> Result<Option<Delivery>, Trouble> {
        if let Some(delivery) = self.load(&keys::delivery(place))? {
            return Ok(Some(delivery));
        }
        let kept = self.kept(place.seq)?;
        Ok(kept.and_then(|kept| {
            kept.deliveries
                .into_iter()
                .find(|delivery| delivery.id.ordinal == place.ordinal)
        }))
    }

    /// One delivery in its current state, with its message.
    pub(super) fn with_message(&self, place: Place) -> Result<Option<(Delivery, Message)>, Trouble> {
        let Some(kept) = self.kept(place.seq)? else {
            return Ok(None);
        };
        let delivery = match self.load(&keys::delivery(place))? {
            Some(delivery) => Some(delivery),
            None => kept
                .deliveries
                .into_iter()
                .find(|delivery| delivery.id.ordinal == place.ordinal),
        };
        Ok(delivery.map(|delivery| (delivery, kept.message)))
    }

    /// A pending delivery with its message, and the number of further entries of its record. The records of a recent
    /// message are all in memory, because its changes cannot be in the database alone.
    pub(super) fn waiting(&self, place: Place) -> Result<Option<(Delivery, Message, u16)>, Trouble> {
        let message = keys::message(place.seq);
        let Some(kept) = self.load::<Kept>(&message)? else {
            return Ok(None);
        };
        let key = keys::delivery(place);
        let changed = match self.is_recent(&message) && !self.is_recent(&key) {
            true => None,
            false => self.lookup(&key)?,
        };
        if let Some(value) = changed {
            let delivery = record::decode(self, &key, &value)?;
            return Ok(Some((delivery, kept.message, record::more_parts(&value))));
        }
        let delivery = kept
            .deliveries
            .into_iter()
            .find(|delivery| delivery.id.ordinal == place.ordinal);
        Ok(delivery.map(|delivery| (delivery, kept.message, 0)))
    }

    /// A message with all its deliveries in their current state.
    pub(super) fn found(&self, seq: u64) -> Result<Option<Found>, Trouble> {
        match self.kept(seq)? {
            Some(kept) => self.complete(seq, kept).map(Some),
            None => Ok(None),
        }
    }

    /// Replaces a message's deliveries by their current versions.
    pub(super) fn complete(&self, seq: u64, kept: Kept) -> Result<Found, Trouble> {
        let mut deliveries: BTreeMap<u16, Delivery> = kept
            .deliveries
            .into_iter()
            .map(|delivery| (delivery.id.ordinal, delivery))
            .collect();
        for (key, value) in self.page(&keys::deliveries(seq), None, usize::from(u16::MAX))? {
            let delivery: Delivery = record::decode(self, &key, &value)?;
            deliveries.insert(delivery.id.ordinal, delivery);
        }
        Ok(Found {
            message: kept.message,
            deliveries: deliveries.into_values().collect(),
        })
    }

    /// The ordinal for a message's next delivery.
    pub(super) fn next_ordinal(&self, seq: u64, kept: &Kept) -> Result<u16, Trouble> {
        let prefix = keys::deliveries(seq);
        let last = self.last(&prefix, &keys::end(&prefix))?;
        let last = last
            .and_then(|(key, _)| keys::place_of(&key))
            .map_or(0, |place| place.ordinal);
        let first = kept
            .deliveries
            .iter()
            .map(|delivery| delivery.id.ordinal)
            .max()
            .unwrap_or(0);
        last.max(first).checked_add(1).ok_or(Trouble::Damaged)
    }
}

/// The queue of a delivery.
pub(super) fn queue(message: &Message, delivery: &Delivery) -> Queue {
    Queue {
        destination: delivery.destination.clone(),
        conversation: delivery.queue(message.conversation()),
    }
}

/// The key of a conversation's thread at a destination, the same for all recipients.
pub(super) fn thread(message: &Message, destination: &Name) -> Queue {
    Queue {
        destination: destination.clone(),
        conversation: message.conversation(),
    }
}
