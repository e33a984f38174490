//! Which recipients need no second copy of a message that goes to a destination and to its fallback. Pure.

use std::collections::BTreeSet;

use crate::model::delivery::{Delivery, State};
use crate::model::message::Name;
use crate::plan::Plan;

/// The recipients among `own` that got the message by a fallback of this delivery, or by the delivery whose fallback this
/// is. `all` are the deliveries of the message.
pub(super) fn reached(plan: &Plan, delivery: &Delivery, all: &[Delivery], own: &[String]) -> Vec<String> {
    if own.is_empty() || all.is_empty() {
        return Vec::new();
    }
    let recipients = |name: &Name| {
        let planned = plan.destinations.get(name);
        planned
            .map(|planned| planned.destination.recipients())
            .unwrap_or_default()
    };
    among(recipients, delivery, all, own)
}

fn among<'a>(
    recipients: impl Fn(&Name) -> &'a [String],
    delivery: &Delivery,
    all: &[Delivery],
    own: &[String],
) -> Vec<String> {
    let others = all
        .iter()
        .filter(|other| other.destination != delivery.destination);
    let related = others.filter(|other| other.is_related(delivery, all));
    let reached: BTreeSet<String> = related
        .filter(|other| matches!(other.state, State::Delivered { .. }))
        .flat_map(|other| recipients_of(other, all, recipients(&other.destination)))
        .map(|recipient| recipient.to_ascii_lowercase())
        .collect();
    let is_reached = |recipient: &&String| reached.contains(&recipient.to_ascii_lowercase());
    own.iter().filter(is_reached).cloned().collect()
}

/// The recipients of a delivery. Those that have deliveries of their own are recipients of these.
fn recipients_of<'a>(
    delivery: &'a Delivery,
    all: &'a [Delivery],
    configured: &'a [String],
) -> Vec<&'a String> {
    if let Some(recipient) = &delivery.recipient {
        return vec![recipient];
    }
    let parts = all.iter().filter(|part| part.key() == delivery.key());
    let apart: BTreeSet<&String> = parts.filter_map(|part| part.recipient.as_ref()).collect();
    let whole = configured.iter().filter(|recipient| !apart.contains(recipient));
    whole.collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::delivery::{Attempt, DeliveryId, Verdict};
    use crate::model::message::{MessageId, Timestamp};

    fn numbered(ordinal: u16, delivery: Delivery) -> Delivery {
        let id = DeliveryId {
            ordinal,
            ..delivery.id
        };
        Delivery { id, ..delivery }
    }

    fn taken(delivery: Delivery) -> Delivery {
        delivery.delivered(Attempt::new(
            Timestamp(1),
            Duration::ZERO,
            Verdict::Delivered,
            "250",
        ))
    }

    #[test]
    fn a_recipient_of_both_gets_the_message_from_the_first_that_delivers_it() {
        let (desk, night) = (
            ["a@example.com", "B@example.com"],
            ["b@example.com", "c@example.com"],
        );
        let [desk, night] = [desk, night].map(|all| all.map(str::to_owned));
        let id = DeliveryId {
            message: MessageId(uuid::Uuid::from_u128(7)),
            ordinal: 1,
        };
        let name = |name: &str| name.parse::<Name>().unwrap();
        let recipients = |of: &Name| match of.as_str() {
            "desk" => desk.as_slice(),
            _ => night.as_slice(),
        };
        let original = Delivery::new(id, name("desk"), None, Timestamp(1));
        let fallback = numbered(2, original.hand_over(name("night"), Timestamp(2), "late", None));
        let other = taken(numbered(3, Delivery::new(id, name("other"), None, Timestamp(1))));
        let to_fallback = |all: &[Delivery]| among(recipients, &fallback, all, &night);
        let to_original = |all: &[Delivery]| among(recipients, &original, all, &desk);
        let none = Vec::<String>::new();

        let pending = [original.clone(), fallback.clone(), other.clone()];
        assert_eq!(
            (to_fallback(&pending), to_original(&pending)),
            (none.clone(), none.clone())
        );
        let delivered = [original.clone(), taken(fallback.clone()), other.clone()];
        assert_eq!(to_original(&delivered), ["B@example.com"]);
        // One recipient of the original has a delivery of its own, which is still pending, or delivered.
        let part = numbered(4, original.split("B@example.com"));
        let divided = |part: Delivery| [taken(original.clone()), fallback.clone(), part];
        assert_eq!(to_fallback(&divided(part.clone())), none);
        assert_eq!(to_fallback(&divided(taken(part))), ["b@example.com"]);
        assert_eq!(
            to_fallback(&[taken(original.clone()), fallback.clone()]),
            ["b@example.com"]
        );
    }
}
