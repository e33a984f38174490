//! The order of the pending deliveries of a destination.

use std::collections::{BTreeMap, HashMap};

use super::{Inner, Place, position};
use crate::model::delivery::{Delivery, DeliveryId, State};
use crate::model::message::{Conversation, MessageId, Name, Timestamp};
use crate::store::{Found, Queued, Turn};

impl Inner {
    /// The pending deliveries of a destination in the order of their turns.
    pub(super) fn turns(&self, destination: &Name) -> BTreeMap<Turn, Queued> {
        let mut heads: HashMap<Conversation, (DeliveryId, Timestamp)> = HashMap::new();
        let mut turns = BTreeMap::new();
        let own = |(.., delivery): &(Place, &Found, &Delivery)| delivery.destination == *destination;
        for (place, found, delivery) in self.deliveries().filter(own) {
            let State::Waiting { due } = delivery.state else {
                continue;
            };
            let queue = delivery.queue(found.message.conversation());
            let (head, latest) = heads.entry(queue).or_insert((delivery.id, due));
            *latest = due.max(*latest);
            let turn = Turn {
                due: *latest,
                place: position(place),
            };
            let claim = self.leases.iter().find(|(_, leased)| **leased == place);
            let queued = Queued {
                id: delivery.id,
                claim: claim.map(|(token, _)| *token),
                behind: (*head != delivery.id).then_some(*head),
                turn,
            };
            turns.insert(turn, queued);
        }
        turns
    }

    /// The positions of the pending deliveries of a message.
    pub(super) fn queued(&self, id: MessageId) -> Vec<Queued> {
        let found = self.seq(id).and_then(|seq| self.messages.get(&seq));
        let deliveries = found.into_iter().flat_map(|found| &found.deliveries);
        let waiting = deliveries.filter(|delivery| delivery.is_waiting());
        let queued = waiting.filter_map(|delivery| {
            let turns = self.turns(&delivery.destination);
            turns.into_values().find(|queued| queued.id == delivery.id)
        });
        queued.collect()
    }
}
