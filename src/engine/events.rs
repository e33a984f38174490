//! Events: news for whoever watches, told as they happen. A page is shown them; nothing in the engine waits for
//! them, and nothing is lost with them: what they say can be asked for.

use serde::Serialize;
use tokio::sync::broadcast;

use crate::delivery::{Delivery, DeliveryId, State};
use crate::message::{MessageId, Name};
use crate::store::MessageState;

/// How far a slow watcher may fall behind before it is told to ask for everything again.
const BEHIND_MAX: usize = 256;

/// One piece of news. Small, and without text or numbers: details are asked for by whoever may see them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Event {
    /// A text was accepted.
    Message {
        /// Its id.
        id: MessageId,
    },
    /// A delivery changed.
    Delivery {
        /// Its id.
        id: DeliveryId,
        /// Whom it is owed to.
        destination: Name,
        /// `pending`, `delivered` or `dead`.
        state: MessageState,
    },
    /// A destination fares otherwise than before.
    Destination {
        /// Its name.
        name: Name,
        /// `up`, `limited`, `down`, `parked` or `paused`.
        state: &'static str,
    },
    /// A new configuration runs.
    Reload {},
}

impl Event {
    /// What became of a delivery.
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

    /// The kind of news, as the stream calls it.
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

/// Where news is told and heard. Clones tell the same watchers.
#[derive(Clone, Debug)]
pub struct Events(broadcast::Sender<Event>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(BEHIND_MAX))
    }
}

impl Events {
    /// Tells everybody who watches. When nobody does, the event is not even made.
    pub fn tell(&self, event: impl FnOnce() -> Event) {
        if self.0.receiver_count() > 0 {
            // Between the two lines the last watcher may have left.
            let _ = self.0.send(event());
        }
    }

    /// Hears everything from now on.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event::Destination {
            name: "desk".parse().unwrap(),
            state: "up",
        }
    }

    #[test]
    fn nobody_watching_costs_nothing() {
        Events::default().tell(|| panic!("made for nobody"));
    }

    #[test]
    fn a_watcher_hears_what_is_told_and_learns_that_it_fell_behind() {
        let events = Events::default();
        let mut watcher = events.watch();
        events.clone().tell(event);
        assert_eq!(watcher.try_recv(), Ok(event()));
        (0..=BEHIND_MAX).for_each(|_| events.tell(event));
        let error = watcher.try_recv().unwrap_err();
        assert_eq!(error, broadcast::error::TryRecvError::Lagged(1));
    }

    #[test]
    fn the_page_is_told_little() {
        let json = serde_json::to_value(event()).unwrap();
        assert_eq!(json, serde_json::json!({ "name": "desk", "state": "up" }));
        assert_eq!(
            serde_json::to_value(Event::Reload {}).unwrap(),
            serde_json::json!({})
        );
    }
}
