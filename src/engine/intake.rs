//! Intake: gives a verified message its id, its routes and its deliveries, and stores it.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use futures_util::future::join_all;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::engine::clock::Clock;
use crate::engine::events::Event;
use crate::engine::joining::parts::{self, IDS_KEPT};
use crate::engine::lanes::Lanes;
use crate::metrics::{BySource, Metrics};
use crate::model::delivery::{Delivery, DeliveryId};
use crate::model::message::{Message, MessageId, Name, Timestamp};
use crate::model::number::Number;
use crate::plan::Plan;
use crate::routing::{Decision, Subject};
use crate::source::{Incoming, Receipt};
use crate::store::{Acceptance, Arrival, Error, Store};

/// Where messages come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A request of the carrier.
    Carrier,
    /// Stored parts, whose message may have been stored already.
    Joined,
    /// The carrier's list, which also has messages that are stored already.
    CatchUp,
}

/// Accepts messages. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    inner: Arc<Inner>,
    tracker: TaskTracker,
}

struct Inner {
    store: Arc<dyn Store>,
    lanes: Arc<Lanes>,
    clock: Clock,
    metrics: Arc<Metrics>,
    contents: RandomState,
}

/// The parts of a message that may be logged.
struct Seen {
    id: MessageId,
    /// A hash of the content, to distinguish a repeated message from another one with the same provider id.
    content: u64,
    source: Name,
    from: String,
    to: String,
    odd: Vec<String>,
    origin: Origin,
    /// Whether it is a part of a long message. Such a message is counted once, when it is complete.
    is_part: bool,
}

impl Intake {
    /// The date and time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.inner.clock.date()
    }

    /// Creates the intake. `tracker` waits at shutdown for messages that are being stored.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        lanes: Arc<Lanes>,
        clock: Clock,
        metrics: Arc<Metrics>,
        tracker: TaskTracker,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                lanes,
                clock,
                metrics,
                contents: RandomState::new(),
            }),
            tracker,
        }
    }

    /// Waits at shutdown for what is being stored.
    #[must_use]
    pub fn tracker(&self) -> &TaskTracker {
        &self.tracker
    }

    /// Stores the messages of one request with their deliveries, and wakes the lanes that deliver them. Messages of
    /// the same conversation keep their order.
    ///
    /// A carrier that disconnects does not interrupt this: messages are stored and delivered completely.
    ///
    /// # Errors
    /// The first error of the store. The request must then not be acknowledged; messages already stored are
    /// duplicates when the carrier repeats it.
    pub async fn receive(
        &self,
        plan: &Plan,
        source: &Name,
        incoming: Vec<Incoming>,
        origin: Origin,
    ) -> Result<Vec<Receipt>, Error> {
        let arrivals = incoming
            .into_iter()
            .map(|one| self.decide(plan, source, one, origin));
        let arrivals: Vec<_> = arrivals.collect();
        let inner = self.inner.clone();
        let storing = self.tracker.spawn(async move {
            let stored = arrivals
                .into_iter()
                .map(|(arrival, decision, seen)| inner.store(arrival, decision, seen));
            join_all(stored).await.into_iter().collect()
        });
        storing
            .await
            .unwrap_or_else(|error| Err(Error::Failed(error.to_string())))
    }

    /// Routes one message.
    fn decide(
        &self,
        plan: &Plan,
        source: &Name,
        incoming: Incoming,
        origin: Origin,
    ) -> (Arrival, Decision, Seen) {
        let subject = Subject {
            source,
            from: &incoming.from,
            to: &incoming.to,
            text: &incoming.text,
            keyword: incoming.keyword,
            at: self.inner.clock.date(),
        };
        let decision = match &incoming.part {
            None => plan.routes.decide(&subject),
            Some(_) => Decision {
                routes: parts::routes(),
                deliveries: Vec::new(),
            },
        };
        let is_part = incoming.part.is_some();
        let odd = incoming.odd.clone();
        let arrival = self.arrival(plan, source, incoming, &decision, origin);
        let shown = |number: &Number| {
            if plan.log.numbers_full {
                number.to_string()
            } else {
                number.masked()
            }
        };
        let seen = Seen {
            id: arrival.message.id,
            content: self.inner.content(&arrival.message),
            source: source.clone(),
            from: shown(&arrival.message.from),
            to: shown(&arrival.message.to),
            odd,
            origin,
            is_part,
        };
        (arrival, decision, seen)
    }

    fn arrival(
        &self,
        plan: &Plan,
        source: &Name,
        incoming: Incoming,
        decision: &Decision,
        origin: Origin,
    ) -> Arrival {
        let clock = &self.inner.clock;
        let (id, now, received_at) = (MessageId(Uuid::now_v7()), clock.now(), clock.date());
        let deliveries = decision
            .deliveries
            .iter()
            .zip(1..)
            .map(|((destination, route), ordinal)| {
                let id = DeliveryId { message: id, ordinal };
                let by = route.as_ref().and_then(|route| plan.routes.get(route));
                let delivery = Delivery {
                    is_urgent: by.is_some_and(|route| route.urgent),
                    ..Delivery::new(id, destination.clone(), route.clone(), now)
                };
                let planned = plan.destinations.get(destination);
                let hold = planned.and_then(|planned| clock.hold_end(&planned.hold_during));
                match hold {
                    Some(until) if !delivery.is_urgent => delivery.held(until),
                    _ => delivery,
                }
            })
            .collect();
        let Incoming {
            provider_id,
            from,
            to,
            text,
            media,
            mut extra,
            keyword,
            segments,
            sent_at,
            part,
            odd: _,
        } = incoming;
        let details = [
            (
                Message::KEYWORD,
                keyword.map(|keyword| format!("\"{}\"", keyword.as_str())),
            ),
            (Message::SEGMENTS, segments.map(|segments| segments.to_string())),
            (Message::SENT_AT, sent_at.map(|sent_at| format!("\"{sent_at}\""))),
        ];
        for (name, json) in details {
            if let Some(json) = json {
                extra.entry(name.to_owned()).or_insert(json);
            }
        }
        if let Some(part) = &part {
            parts::note(part, &mut extra);
        }
        let message = Message {
            id,
            source: source.clone(),
            provider_id,
            from,
            to,
            text,
            media,
            extra,
            received_at,
            routes: decision.routes.clone(),
            redacted_at: None,
        };
        let own_window = plan
            .sources
            .get(source)
            .and_then(|source| source.source.dedup_window());
        let window = match part.is_some() || origin == Origin::Joined {
            true => own_window.unwrap_or(plan.store.dedup_window).max(IDS_KEPT),
            false => own_window.unwrap_or(plan.store.dedup_window),
        };
        Arrival {
            message,
            deliveries,
            dedup_since: clock.retention().before(window),
        }
    }
}

impl Inner {
    async fn store(&self, arrival: Arrival, decision: Decision, seen: Seen) -> Result<Receipt, Error> {
        let accepted = self.store.accept(arrival).await;
        // Also after a timeout or for a duplicate: the message may have been stored although no lane was woken.
        decision
            .deliveries
            .iter()
            .for_each(|(destination, _)| self.lanes.wake(destination));
        let Seen {
            id,
            content,
            source,
            from,
            to,
            odd,
            origin,
            is_part,
        } = seen;
        match accepted? {
            Acceptance::New if is_part => {
                tracing::info!(message.id = %id, source = %source, from, to, "accepted a part of a long message from {source}");
                Ok(Receipt { id, duplicate: false })
            }
            Acceptance::New => {
                self.count(&source, &decision);
                if origin == Origin::CatchUp {
                    let source = source.to_string();
                    self.metrics.caught_up.get_or_create(&BySource { source }).inc();
                }
                self.lanes.events().publish(|| Event::Message { id });
                tracing::info!(message.id = %id, source = %source, from, to, destinations = decision.deliveries.len(), "accepted a message from {source}");
                if !odd.is_empty() {
                    tracing::warn!(message.id = %id, source = %source, "accepted an incomplete message from {source}: {}", odd.join("; "));
                }
                Ok(Receipt { id, duplicate: false })
            }
            Acceptance::Duplicate(id) if origin != Origin::Carrier => Ok(Receipt { id, duplicate: true }),
            Acceptance::Duplicate(id) => {
                let differs = self.differs(id, content).await;
                self.count_duplicate(&source, differs);
                if differs {
                    tracing::warn!(message.id = %id, source = %source, "dropped a message from {source}: message {id} has the same provider id and different content");
                } else {
                    tracing::info!(message.id = %id, source = %source, "{source} sent message {id} again; it is stored already");
                }
                Ok(Receipt { id, duplicate: true })
            }
        }
    }

    /// A hash of the fields that a carrier does not change when it repeats a message.
    fn content(&self, message: &Message) -> u64 {
        let numbers = (message.from.normal(), message.to.normal());
        self.contents.hash_one((numbers, &message.text, &message.media))
    }

    /// Returns true if the message stored under this id has different content. A message that cannot be read or was
    /// redacted is not compared.
    async fn differs(&self, id: MessageId, content: u64) -> bool {
        let found = self.store.find(id).await.ok().flatten();
        found.is_some_and(|found| {
            found.message.redacted_at.is_none() && self.content(&found.message) != content
        })
    }

    fn count_duplicate(&self, source: &Name, differs: bool) {
        let by = BySource {
            source: source.to_string(),
        };
        self.metrics.duplicate.get_or_create(&by).inc();
        self.metrics
            .duplicate_differing
            .get_or_create(&by)
            .inc_by(u64::from(differs));
    }

    fn count(&self, source: &Name, decision: &Decision) {
        let by = BySource {
            source: source.to_string(),
        };
        self.metrics.accepted.get_or_create(&by).inc();
        self.metrics.rates.accepted.count(self.clock.now());
        if decision.routes.is_empty() {
            self.metrics.unrouted.inc();
        } else if decision.deliveries.is_empty() {
            self.metrics.kept.inc();
        }
    }
}
