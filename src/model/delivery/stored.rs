//! The stored form of a delivery, used by every store and by backups.
//!
//! The first format had only the fields that all deliveries have. A delivery without others is still written in that
//! format, and records of earlier versions can be read.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Acknowledged, Attempt, Delivery, DeliveryId, State};
use crate::model::message::{Name, Timestamp};

#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    id: DeliveryId,
    destination: Cow<'a, Name>,
    route: Cow<'a, Option<Name>>,
    created_at: Timestamp,
    standing: Standing<'a>,
    attempts_made: u32,
    attempts: Cow<'a, [Attempt]>,
    progress: Cow<'a, [String]>,
}

/// The first three have the order of [`State`].
#[derive(Serialize, Deserialize)]
enum Standing<'a> {
    Waiting {
        due: Timestamp,
    },
    Delivered {
        at: Timestamp,
    },
    Dead {
        at: Timestamp,
        reason: Cow<'a, str>,
    },
    Related {
        origin: Option<u16>,
        recipient: Cow<'a, Option<String>>,
        state: Cow<'a, State>,
    },
    Acknowledged {
        origin: Option<u16>,
        recipient: Cow<'a, Option<String>>,
        state: Cow<'a, State>,
        acknowledged: Acknowledged,
    },
    Retried {
        origin: Option<u16>,
        recipient: Cow<'a, Option<String>>,
        state: Cow<'a, State>,
        acknowledged: Option<Acknowledged>,
        retried_at: Timestamp,
    },
    Resent {
        origin: Option<u16>,
        recipient: Cow<'a, Option<String>>,
        state: Cow<'a, State>,
        acknowledged: Option<Acknowledged>,
        retried_at: Option<Timestamp>,
    },
    Timed {
        origin: Option<u16>,
        recipient: Cow<'a, Option<String>>,
        state: Cow<'a, State>,
        acknowledged: Option<Acknowledged>,
        retried_at: Option<Timestamp>,
        is_resent: bool,
        is_urgent: bool,
        held_until: Option<Timestamp>,
        handed_over: Cow<'a, Option<String>>,
    },
}

/// The optional fields of a delivery.
#[derive(Default)]
struct More {
    origin: Option<u16>,
    recipient: Option<String>,
    acknowledged: Option<Acknowledged>,
    retried_at: Option<Timestamp>,
    is_resent: bool,
    is_urgent: bool,
    held_until: Option<Timestamp>,
    handed_over: Option<String>,
}

impl<'a> Standing<'a> {
    fn of(delivery: &'a Delivery) -> Self {
        let (state, origin) = (Cow::Borrowed(&delivery.state), delivery.origin);
        let recipient = Cow::Borrowed(&delivery.recipient);
        if delivery.is_urgent || delivery.held_until.is_some() || delivery.handed_over.is_some() {
            return Self::Timed {
                origin,
                recipient,
                state,
                acknowledged: delivery.acknowledged,
                retried_at: delivery.retried_at,
                is_resent: delivery.is_resent,
                is_urgent: delivery.is_urgent,
                held_until: delivery.held_until,
                handed_over: Cow::Borrowed(&delivery.handed_over),
            };
        }
        if delivery.is_resent {
            return Self::Resent {
                origin,
                recipient,
                state,
                acknowledged: delivery.acknowledged,
                retried_at: delivery.retried_at,
            };
        }
        if let Some(retried_at) = delivery.retried_at {
            return Self::Retried {
                origin,
                recipient,
                state,
                acknowledged: delivery.acknowledged,
                retried_at,
            };
        }
        if let Some(acknowledged) = delivery.acknowledged {
            return Self::Acknowledged {
                origin,
                recipient,
                state,
                acknowledged,
            };
        }
        match (&delivery.state, origin, &delivery.recipient) {
            (State::Waiting { due }, None, None) => Self::Waiting { due: *due },
            (State::Delivered { at }, None, None) => Self::Delivered { at: *at },
            (State::Dead { at, reason }, None, None) => Self::Dead {
                at: *at,
                reason: reason.into(),
            },
            _ => Self::Related {
                origin,
                recipient,
                state,
            },
        }
    }
}

impl Standing<'_> {
    fn read(self) -> (State, More) {
        match self {
            Self::Waiting { due } => (State::Waiting { due }, More::default()),
            Self::Delivered { at } => (State::Delivered { at }, More::default()),
            Self::Dead { at, reason } => {
                let reason = reason.into_owned();
                (State::Dead { at, reason }, More::default())
            }
            Self::Related {
                origin,
                recipient,
                state,
            } => {
                let more = More {
                    origin,
                    recipient: recipient.into_owned(),
                    ..More::default()
                };
                (state.into_owned(), more)
            }
            Self::Acknowledged {
                origin,
                recipient,
                state,
                acknowledged,
            } => {
                let more = More {
                    origin,
                    recipient: recipient.into_owned(),
                    acknowledged: Some(acknowledged),
                    ..More::default()
                };
                (state.into_owned(), more)
            }
            Self::Retried {
                origin,
                recipient,
                state,
                acknowledged,
                retried_at,
            } => {
                let more = More {
                    origin,
                    recipient: recipient.into_owned(),
                    acknowledged,
                    retried_at: Some(retried_at),
                    ..More::default()
                };
                (state.into_owned(), more)
            }
            Self::Resent {
                origin,
                recipient,
                state,
                acknowledged,
                retried_at,
            } => {
                let more = More {
                    origin,
                    recipient: recipient.into_owned(),
                    acknowledged,
                    retried_at,
                    is_resent: true,
                    ..More::default()
                };
                (state.into_owned(), more)
            }
            Self::Timed {
                origin,
                recipient,
                state,
                acknowledged,
                retried_at,
                is_resent,
                is_urgent,
                held_until,
                handed_over,
            } => {
                let more = More {
                    origin,
                    recipient: recipient.into_owned(),
                    acknowledged,
                    retried_at,
                    is_resent,
                    is_urgent,
                    held_until,
                    handed_over: handed_over.into_owned(),
                };
                (state.into_owned(), more)
            }
        }
    }
}

impl Serialize for Delivery {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let standing = Standing::of(self);
        Stored {
            id: self.id,
            destination: Cow::Borrowed(&self.destination),
            route: Cow::Borrowed(&self.route),
            created_at: self.created_at,
            standing,
            attempts_made: self.attempts_made,
            attempts: Cow::Borrowed(&self.attempts),
            progress: Cow::Borrowed(&self.progress),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Delivery {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let stored = Stored::deserialize(deserializer)?;
        let (state, more) = stored.standing.read();
        Ok(Self {
            id: stored.id,
            destination: stored.destination.into_owned(),
            route: stored.route.into_owned(),
            created_at: stored.created_at,
            retried_at: more.retried_at,
            state,
            attempts_made: stored.attempts_made,
            attempts: stored.attempts.into_owned(),
            progress: stored.progress.into_owned(),
            recipient: more.recipient,
            origin: more.origin,
            acknowledged: more.acknowledged,
            is_resent: more.is_resent,
            is_urgent: more.is_urgent,
            held_until: more.held_until,
            handed_over: more.handed_over,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::delivery::{AcknowledgedBy, Verdict};
    use crate::model::message::MessageId;

    /// The fields of the first format.
    #[derive(Serialize)]
    struct Former {
        id: DeliveryId,
        destination: Name,
        route: Option<Name>,
        created_at: Timestamp,
        state: State,
        attempts_made: u32,
        attempts: Vec<Attempt>,
        progress: Vec<String>,
    }

    fn states() -> [State; 3] {
        let at = Timestamp(9);
        let reason = "no".to_owned();
        [
            State::Waiting { due: at },
            State::Delivered { at },
            State::Dead { at, reason },
        ]
    }

    fn delivery(state: State) -> Delivery {
        let id = DeliveryId {
            message: MessageId(uuid::Uuid::from_u128(7)),
            ordinal: 300,
        };
        Delivery {
            state,
            attempts: vec![Attempt::new(
                Timestamp(3),
                Duration::ZERO,
                Verdict::Transient,
                "450",
            )],
            attempts_made: 1,
            progress: vec!["a@example.com".to_owned()],
            ..Delivery::new(
                id,
                "desk".parse().unwrap(),
                Some("all".parse().unwrap()),
                Timestamp(1),
            )
        }
    }

    #[test]
    fn the_first_format_is_read_and_still_written() {
        for state in states() {
            let delivery = delivery(state);
            let former = Former {
                id: delivery.id,
                destination: delivery.destination.clone(),
                route: delivery.route.clone(),
                created_at: delivery.created_at,
                state: delivery.state.clone(),
                attempts_made: delivery.attempts_made,
                attempts: delivery.attempts.clone(),
                progress: delivery.progress.clone(),
            };
            let bytes = postcard::to_stdvec(&former).unwrap();
            assert_eq!(postcard::from_bytes::<Delivery>(&bytes).unwrap(), delivery);
            assert_eq!(postcard::to_stdvec(&delivery).unwrap(), bytes);
        }
    }

    #[test]
    fn deliveries_with_fields_beyond_the_first_format_survive_a_round_trip() {
        for state in states() {
            let whole = delivery(state);
            let resent = Delivery {
                is_resent: true,
                ..whole.clone()
            };
            for related in [
                resent.clone(),
                resent
                    .split("b@example.com")
                    .requeued(Timestamp(7))
                    .acknowledged(Timestamp(8), AcknowledgedBy::Delivery),
                whole.split("b@example.com"),
                whole.clone().held(Timestamp(20)),
                Delivery {
                    is_urgent: true,
                    handed_over: Some("not delivered within 5m: HTTP 503".to_owned()),
                    ..resent.split("b@example.com").requeued(Timestamp(7))
                },
                whole.fallback("room".parse().unwrap(), Timestamp(4)),
                whole.clone().acknowledged(Timestamp(5), AcknowledgedBy::Operator),
                whole
                    .split("b@example.com")
                    .acknowledged(Timestamp(6), AcknowledgedBy::Fallback),
                whole.clone().requeued(Timestamp(7)),
                whole
                    .split("b@example.com")
                    .requeued(Timestamp(7))
                    .dead(None, Timestamp(8), "no")
                    .acknowledged(Timestamp(9), AcknowledgedBy::Operator),
            ] {
                let bytes = postcard::to_stdvec(&vec![&related, &whole]).unwrap();
                let read: Vec<Delivery> = postcard::from_bytes(&bytes).unwrap();
                assert_eq!(read, [related, whole.clone()]);
            }
        }
    }
}
