//! Describes the result of an operator's action for the log: how many deliveries, of which destination, with which ids.

use crate::control::view::{DestinationView, Touched};
use crate::model::delivery::DeliveryId;
use crate::store::Selector;

/// How many ids a line of the log names.
const IDS_MAX: usize = 20;

/// The result of an action.
#[derive(Clone)]
pub(super) struct Done(pub(super) String);

impl Done {
    /// Deliveries that were selected, and how many of them were changed.
    pub(super) fn deliveries(which: &Selector, done: &str, touched: u64) -> Self {
        Self(match which {
            Selector::Ids(named) => {
                format!(
                    "{touched} of {} {done}: {}",
                    plural(named.len() as u64),
                    ids(named)
                )
            }
            Selector::Dead(name) => format!("{} to {name} {done} (dead)", plural(touched)),
            Selector::Pending(name) => format!("{} to {name} {done} (pending)", plural(touched)),
        })
    }

    /// A message that is delivered again.
    pub(super) fn resent(touched: &Touched) -> Self {
        Self(format!(
            "{} created: {}",
            plural(touched.deliveries),
            ids(&touched.ids)
        ))
    }

    /// A destination that was paused or resumed.
    pub(super) fn switched(view: &DestinationView, paused: bool) -> Self {
        let what = if paused { "paused" } else { "resumed" };
        Self(format!(
            "destination {} {what}, {} pending",
            view.name,
            plural(view.pending)
        ))
    }
}

fn plural(count: u64) -> String {
    match count {
        1 => "1 delivery".to_owned(),
        many => format!("{many} deliveries"),
    }
}

fn ids(ids: &[DeliveryId]) -> String {
    let named: Vec<String> = ids.iter().take(IDS_MAX).map(DeliveryId::to_string).collect();
    match ids.len().saturating_sub(IDS_MAX) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::message::MessageId;

    #[test]
    fn an_action_names_its_destination_or_up_to_twenty_ids() {
        let crm = Selector::Dead("crm".parse().unwrap());
        let Done(said) = Done::deliveries(&crm, "acknowledged", 1);
        assert_eq!(said, "1 delivery to crm acknowledged (dead)");
        let id = |ordinal| DeliveryId {
            message: MessageId(uuid::Uuid::from_u128(7)),
            ordinal,
        };
        let Done(said) = Done::deliveries(&Selector::Ids(vec![id(1), id(2)]), "due now", 1);
        assert_eq!(said, format!("1 of 2 deliveries due now: {}, {}", id(1), id(2)));
        let Done(said) = Done::deliveries(&Selector::Ids((1..=25).map(id).collect()), "discarded", 25);
        assert!(said.ends_with(&format!("{} and 5 more", id(20))), "{said}");
    }
}
