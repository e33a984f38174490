//! Events for live displays, published as they happen. The engine does not depend on them, and a lost event loses no
//! data: everything in them can also be queried.

use serde::Serialize;
use tokio::sync::broadcast;

use crate::model::delivery::{Delivery, DeliveryId, State};
use crate::model::destination_state::DestinationState;
use crate::model::message::{MessageId, Name};
use crate::store::MessageState;

/// How many events a slow subscriber may lag behind before it must query everything again.
const LAG_MAX: usize = 256;

/// An event. Small, and without bodies or numbers: only authorized clients may query those.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Event {
    /// A message was accepted.
    Message {
        /// Its id.
        id: MessageId,
    },
    /// A delivery changed.
    Delivery {
        /// Its id.
        id: DeliveryId,
        /// Its destination.
        destination: Name,
        /// `pending`, `delivered` or `dead`.
        state: MessageState,
    },
    /// The state of a destination changed.
    Destination {
        /// Its name.
        name: Name,
        /// The new state.
        state: DestinationState,
    },
    /// A new configuration is active.
    Reload {},
}

impl Event {
    /// The event for the current state of a delivery.
    #[must_use]
    pub fn delivery(delivery: &Delivery) -> Self {
        let state = match delivery.state {
            State::Waiting { .. } => MessageState::Pending,
            State::Delivered { .. } => MessageState::Delivered,
            State::Dead { .. } => MessageState::Dead,
        };
        Self::Delivery {
            id: delivery.id,
            destination: delivery.destination.clone(),
            state,
        }
    }

    /// The name of the kind in the event stream.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Message { .. } => "message",
            Self::Delivery { .. } => "delivery",
            Self::Destination { .. } => "destination",
            Self::Reload {} => "reload",
        }
    }
}

/// Publishes events. Clones have the same subscribers.
#[derive(Clone, Debug)]
pub struct Events(broadcast::Sender<Event>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(LAG_MAX))
    }
}

impl Events {
    /// Publishes an event; without subscribers it is not even built.
    pub fn publish(&self, event: impl FnOnce() -> Event) {
        if self.0.receiver_count() > 0 {
            // The last subscriber may have left meanwhile.
            let _ = self.0.send(event());
        }
    }

    /// Subscribes to all events from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event::Destination {
            name: "desk".parse().unwrap(),
            state: DestinationState::Up,
        }
    }

    #[test]
    fn without_subscribers_no_event_is_built() {
        Events::default().publish(|| panic!("built without a subscriber"));
    }

    #[test]
    fn a_subscriber_receives_events_and_notices_lost_ones() {
        let events = Events::default();
        let mut subscriber = events.subscribe();
        events.clone().publish(event);
        assert_eq!(subscriber.try_recv(), Ok(event()));
        (0..=LAG_MAX).for_each(|_| events.publish(event));
        let error = subscriber.try_recv().unwrap_err();
        assert_eq!(error, broadcast::error::TryRecvError::Lagged(1));
    }

    #[test]
    fn events_contain_no_details() {
        let json = serde_json::to_value(event()).unwrap();
        assert_eq!(json, serde_json::json!({ "name": "desk", "state": "up" }));
        assert_eq!(
            serde_json::to_value(Event::Reload {}).unwrap(),
            serde_json::json!({})
        );
    }
}
