//! Decides which dead deliveries need no attention. Pure.

use crate::model::delivery::{AcknowledgedBy, Delivery, State};
use crate::model::message::Timestamp;

/// Acknowledges at `at` the dead deliveries of one message whose fallback, or the fallback of that, delivered the
/// message, whether or not an operator acknowledged them before.
pub(super) fn covered(deliveries: &[Delivery], at: Timestamp) -> Vec<Delivery> {
    let mut all = deliveries.to_vec();
    let mut covered = Vec::new();
    let is_covered = |all: &[Delivery], dead: &Delivery| {
        dead.is_dead()
            && !dead.is_delivered_by_fallback()
            && all.iter().any(|other| other.has_taken_over(dead))
    };
    while let Some(index) = all.iter().position(|dead| is_covered(&all, dead)) {
        let delivery = all.swap_remove(index).acknowledged(at, AcknowledgedBy::Fallback);
        all.push(delivery.clone());
        covered.push(delivery);
    }
    covered
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
            delivery(2, None, dead()),
            delivery(3, Some(1), dead()),
            delivery(4, Some(3), delivered.clone()),
        ];
        assert_eq!(ordinals(&chain), [1, 3]);
        assert_eq!(ordinals(&chain[..3]), [0u16; 0]);
        let waiting = State::Waiting { due: Timestamp(5) };
        assert_eq!(
            ordinals(&[chain[0].clone(), delivery(3, Some(1), waiting)]),
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
            ordinals(&[own(5), own(6), delivery(7, Some(1), delivered)]),
            [5, 6]
        );
    }
}
