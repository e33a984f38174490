//! Decides which dead deliveries need no attention. Pure.

use crate::model::delivery::{AcknowledgedBy, Delivery, State};
use crate::model::message::Timestamp;

/// Acknowledges at `at` the dead deliveries of one message that another delivery made up for, whether or not an
/// operator acknowledged them before: the fallback, or the fallback of that, delivered the message, or the destination
/// got it by another delivery since.
pub(super) fn covered(deliveries: &[Delivery], at: Timestamp) -> Vec<Delivery> {
    let mut all = deliveries.to_vec();
    let mut covered = Vec::new();
    while let Some((index, by)) = all
        .iter()
        .enumerate()
        .find_map(|(index, dead)| Some((index, covered_by(dead, &all)?)))
    {
        let delivery = all.swap_remove(index).acknowledged(at, by);
        all.push(delivery.clone());
        covered.push(delivery);
    }
    covered
}

/// The delivery that replaced a dead one; `None` if there is none, or if it is recorded already.
fn covered_by(dead: &Delivery, all: &[Delivery]) -> Option<AcknowledgedBy> {
    if !dead.is_dead() || dead.is_delivered_otherwise() {
        return None;
    }
    if all.iter().any(|other| other.has_taken_over(dead)) {
        return Some(AcknowledgedBy::Fallback);
    }
    let since = dead.pending_since();
    let is_later = |other: &Delivery| ended_well_at(other).is_some_and(|at| at >= since);
    all.iter()
        .any(|other| is_later(other) && is_for_all_of(other, dead, all))
        .then_some(AcknowledgedBy::Delivery)
}

/// Who acknowledges a dead delivery that an operator discards or acknowledges: if the destination got the message by
/// another delivery, at any time, the message is not lost.
pub(super) fn acknowledged_by(dead: &Delivery, all: &[Delivery]) -> AcknowledgedBy {
    let mut others = all.iter();
    match others.any(|other| ended_well_at(other).is_some() && is_for_all_of(other, dead, all)) {
        true => AcknowledgedBy::Delivery,
        false => AcknowledgedBy::Operator,
    }
}

/// When a delivery, or its fallback, delivered the message.
fn ended_well_at(delivery: &Delivery) -> Option<Timestamp> {
    match (&delivery.state, delivery.acknowledged) {
        (State::Delivered { at }, _) => Some(*at),
        (State::Dead { .. }, Some(acknowledged)) if acknowledged.by == AcknowledgedBy::Fallback => {
            Some(acknowledged.at)
        }
        _ => None,
    }
}

/// Returns true if `other` is another delivery to the destination of `dead` and all recipients of `dead`. A recipient
/// that it was split for has its own delivery instead, which needs attention itself if it is dead.
fn is_for_all_of(other: &Delivery, dead: &Delivery, all: &[Delivery]) -> bool {
    let mut parts = all.iter().filter(|part| part.key() == other.key());
    other.id != dead.id
        && other.destination == dead.destination
        && match (&other.recipient, &dead.recipient) {
            (Some(recipient), Some(wanted)) => recipient == wanted,
            (None, Some(_)) => parts.all(|part| part.recipient != dead.recipient),
            (_, None) => other.key() != dead.key() && parts.all(|part| !part.is_waiting()),
        }
}

/// Returns true if an operator's acknowledgement of the deliveries that were given up at or after `since` applies to
/// this one.
pub(super) fn is_meant(delivery: &Delivery, since: Option<Timestamp>) -> bool {
    let State::Dead { at, .. } = delivery.state else {
        return false;
    };
    delivery.needs_attention() && since.is_none_or(|since| at >= since)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::delivery::DeliveryId;
    use crate::model::message::MessageId;

    fn delivery(ordinal: u16, origin: Option<u16>, state: State) -> Delivery {
        let id = DeliveryId {
            message: MessageId(uuid::Uuid::from_u128(7)),
            ordinal,
        };
        Delivery {
            origin,
            state,
            ..Delivery::new(id, "desk".parse().unwrap(), None, Timestamp(1))
        }
    }

    fn to(destination: &str, delivery: Delivery) -> Delivery {
        let destination = destination.parse().unwrap();
        Delivery {
            destination,
            ..delivery
        }
    }

    fn dead() -> State {
        State::Dead {
            at: Timestamp(3),
            reason: "no".to_owned(),
        }
    }

    fn ordinals(deliveries: &[Delivery]) -> Vec<u16> {
        let mut ordinals: Vec<u16> = covered(deliveries, Timestamp(9))
            .iter()
            .map(|delivery| delivery.id.ordinal)
            .collect();
        ordinals.sort_unstable();
        ordinals
    }

    #[test]
    fn a_fallback_that_delivered_covers_the_whole_chain_and_nothing_else() {
        let delivered = State::Delivered { at: Timestamp(5) };
        let chain = [
            delivery(1, None, dead()),
            to("mail", delivery(2, None, dead())),
            to("room", delivery(3, Some(1), dead())),
            to("hook", delivery(4, Some(3), delivered.clone())),
        ];
        assert_eq!(ordinals(&chain), [1, 3]);
        assert_eq!(ordinals(&chain[..3]), [0u16; 0]);
        let waiting = State::Waiting { due: Timestamp(5) };
        assert_eq!(
            ordinals(&[chain[0].clone(), to("room", delivery(3, Some(1), waiting))]),
            [0u16; 0]
        );
        // A fallback that the operator acknowledged did not deliver.
        let given_up = chain[2]
            .clone()
            .acknowledged(Timestamp(6), AcknowledgedBy::Operator);
        assert_eq!(ordinals(&[chain[0].clone(), given_up]), [0u16; 0]);
        // Both recipients of one delivery have the same fallback.
        let own = |ordinal| Delivery {
            recipient: Some("a@example.com".to_owned()),
            ..delivery(ordinal, Some(1), dead())
        };
        assert_eq!(
            ordinals(&[own(5), own(6), to("room", delivery(7, Some(1), delivered))]),
            [5, 6]
        );
    }

    fn told(deliveries: &[Delivery]) -> Vec<(u16, AcknowledgedBy)> {
        let covered = covered(deliveries, Timestamp(9)).into_iter();
        let by = |delivery: Delivery| Some((delivery.id.ordinal, delivery.acknowledged?.by));
        covered.filter_map(by).collect()
    }

    #[test]
    fn a_destination_that_got_the_message_by_another_delivery_since_needs_no_attention() {
        let by = AcknowledgedBy::Delivery;
        let delivered = |ordinal| delivery(ordinal, None, State::Delivered { at: Timestamp(5) });
        let first = delivery(1, None, dead());
        assert_eq!(told(&[first.clone(), delivered(2)]), [(1, by)]);
        assert!(told(&[first.clone(), to("room", delivered(2))]).is_empty());
        // A resend that failed after the first delivery needs attention until an operator has seen it.
        let resent = Delivery {
            created_at: Timestamp(6),
            ..delivery(2, None, dead())
        };
        let both = [delivered(1), resent];
        assert!(told(&both).is_empty());
        assert_eq!(acknowledged_by(&both[1], &both), by);
        assert_eq!(acknowledged_by(&both[1], &both[1..]), AcknowledgedBy::Operator);
        // The fallback of a resend made up for the first delivery too.
        let delivered = State::Delivered { at: Timestamp(5) };
        let fallback = to("room", delivery(3, Some(2), delivered));
        let chain = [first, delivery(2, None, dead()), fallback];
        assert_eq!(told(&chain), [(2, AcknowledgedBy::Fallback), (1, by)]);
    }

    #[test]
    fn a_recipient_is_covered_only_by_a_delivery_that_reached_it() {
        let by = AcknowledgedBy::Delivery;
        let delivered = State::Delivered { at: Timestamp(5) };
        let part = |ordinal, origin, state| Delivery {
            recipient: Some("a@example.com".to_owned()),
            ..delivery(ordinal, Some(origin), state)
        };
        let first = [delivery(1, None, delivered.clone()), part(2, 1, dead())];
        assert!(
            told(&first).is_empty(),
            "the others got it, this recipient did not"
        );
        let whole = delivery(3, None, delivered.clone());
        let again = [&first[..], std::slice::from_ref(&whole)].concat();
        assert_eq!(told(&again), [(2, by)]);
        let without = [&first[..], &[whole, part(4, 3, dead())]].concat();
        assert!(told(&without).is_empty(), "it rejected the message again");
        let alone = [&first[..], &[part(4, 3, delivered.clone())]].concat();
        assert_eq!(told(&alone), [(2, by)]);
        // A delivery to all is covered once no recipient of the other one is pending.
        let waiting = part(3, 2, State::Waiting { due: Timestamp(9) });
        let mut resent = [delivery(1, None, dead()), delivery(2, None, delivered), waiting];
        assert!(told(&resent).is_empty());
        resent[2].state = dead();
        assert_eq!(told(&resent), [(1, by)]);
    }
}
