//! The notices that daemons send each other with `NOTIFY`. They are hints: polling finds the work of a lost notice.

use uuid::Uuid;

use crate::model::message::Name;

/// The channel of the database.
pub(super) const CHANNEL: &str = "smsbridge";

/// A notice for other daemons.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Notice {
    /// A destination has deliveries to look at.
    Work(Name),
    /// Deliveries of a destination were changed by an operator.
    Changed(Name),
    /// A daemon released the lane of a destination.
    Free(Name),
    /// An operator paused or resumed a destination.
    Paused,
}

impl Notice {
    /// The payload, with the daemon that sends it: a daemon also receives its own notices.
    pub(super) fn payload(&self, sender: Uuid) -> String {
        let sender = sender.simple();
        match self {
            Self::Work(name) => format!("{sender} work {name}"),
            Self::Changed(name) => format!("{sender} changed {name}"),
            Self::Free(name) => format!("{sender} free {name}"),
            Self::Paused => format!("{sender} paused"),
        }
    }

    /// The notice of another daemon. One of a later version may be unknown.
    pub(super) fn parse(payload: &str, own: Uuid) -> Option<Self> {
        let (sender, rest) = payload.split_once(' ')?;
        if sender == own.simple().to_string() {
            return None;
        }
        match rest.split_once(' ') {
            None => (rest == "paused").then_some(Self::Paused),
            Some(("work", name)) => name.parse().ok().map(Self::Work),
            Some(("changed", name)) => name.parse().ok().map(Self::Changed),
            Some(("free", name)) => name.parse().ok().map(Self::Free),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_read_by_others_only() {
        let (own, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let desk: Name = "desk".parse().unwrap();
        for notice in [
            Notice::Work(desk.clone()),
            Notice::Changed(desk.clone()),
            Notice::Free(desk),
            Notice::Paused,
        ] {
            let payload = notice.payload(own);
            assert_eq!(Notice::parse(&payload, own), None);
            assert_eq!(Notice::parse(&payload, other), Some(notice));
        }
        for payload in ["", "x", "x y z", "x work no/name"] {
            assert_eq!(Notice::parse(payload, own), None, "{payload:?}");
        }
    }
}
