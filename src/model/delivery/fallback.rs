//! Fallbacks: the delivery that replaces a dead one, or one that has been pending for too long, and whether it delivered
//! the message. Pure.

use std::borrow::Cow;

use super::{AcknowledgedBy, Delivery, State, cut};
use crate::model::message::{Name, Timestamp};

/// Why a pending delivery has no attempt that could say so.
const UNTRIED: &str = "no attempt has ended yet";

impl Delivery {
    /// The delivery of the same message to the fallback destination. The store assigns its ordinal.
    #[must_use]
    pub fn fallback(&self, destination: Name, now: Timestamp) -> Self {
        Self {
            origin: Some(self.key().ordinal),
            is_urgent: self.is_urgent,
            ..Self::new(self.id, destination, self.route.clone(), now)
        }
    }

    /// The delivery of the same message to the fallback destination while this one is still pending. `late` says that it
    /// is, and `outage` why the destination takes no message at the moment, if it takes none. The store assigns the
    /// ordinal.
    #[must_use]
    pub fn hand_over(&self, destination: Name, now: Timestamp, late: &str, outage: Option<&str>) -> Self {
        let last = self.attempts.last().map(|attempt| attempt.detail.as_str());
        let why = outage.or(last).unwrap_or(UNTRIED);
        Self {
            handed_over: Some(cut(&format!("{late}: {why}"))),
            ..self.fallback(destination, now)
        }
    }

    /// Returns true if a fallback of this delivery was created since it became pending, among the deliveries of its
    /// message.
    #[must_use]
    pub fn has_fallback(&self, all: &[Self]) -> bool {
        let since = self.pending_since();
        let mut others = all.iter();
        others.any(|other| other.is_fallback_of(self) && other.created_at >= since)
    }

    /// The destination of the original delivery whose fallback this is, among the deliveries of its message, and why it
    /// has a fallback.
    #[must_use]
    pub fn stands_in_for<'a>(&self, all: &'a [Self]) -> Option<(&'a Name, Cow<'a, str>)> {
        let with = |ordinal: u16| all.iter().find(move |other| other.id.ordinal == ordinal);
        let mut of = with(self.origin?)?;
        // A delivery for one recipient was split from the delivery for all recipients.
        if of.destination == self.destination {
            of = with(of.origin?)?;
        }
        if of.destination == self.destination {
            return None;
        }
        let is_part = |other: &&Self| {
            other.id == of.id || other.recipient.is_some() && other.origin == Some(of.id.ordinal)
        };
        let parts = || all.iter().filter(is_part);
        let reason = parts().find_map(|part| match &part.state {
            State::Dead { reason, .. } if part.destination == of.destination => Some(reason.as_str()),
            _ => None,
        });
        let reason = match (reason, &self.handed_over) {
            (Some(reason), _) => reason.into(),
            (None, Some(late)) if parts().any(Self::is_waiting) => {
                format!("{late}; it may still arrive there").into()
            }
            (None, Some(late)) => format!("{late}; it has arrived there since").into(),
            (None, None) => "it was given up".into(),
        };
        Some((&of.destination, reason))
    }

    /// The destination whose dead delivery this is the fallback of, among the deliveries of its message.
    #[must_use]
    pub fn fallback_of<'a>(&self, all: &'a [Self]) -> Option<&'a Name> {
        self.stands_in_for(all).map(|(destination, _)| destination)
    }

    /// Returns true if it is dead and another delivery delivered the message instead: its fallback, the fallback of
    /// that, or another one to the same destination.
    #[must_use]
    pub fn is_delivered_otherwise(&self) -> bool {
        let by = self.acknowledged.map(|acknowledged| acknowledged.by);
        self.is_dead() && matches!(by, Some(AcknowledgedBy::Fallback | AcknowledgedBy::Delivery))
    }

    /// Returns true if it is the fallback of a dead delivery, and the message was delivered by it or by its own fallback.
    #[must_use]
    pub fn has_taken_over(&self, dead: &Self) -> bool {
        self.is_fallback_of(dead)
            && match self.state {
                State::Delivered { .. } => true,
                State::Dead { .. } => self.is_delivered_otherwise(),
                State::Waiting { .. } => false,
            }
    }

    /// The fallback that delivered the message instead, among the deliveries of its message.
    #[must_use]
    pub fn delivered_by<'a>(&'a self, all: &'a [Self]) -> Option<&'a Name> {
        let by = |dead: &Self| dead.acknowledged.map(|acknowledged| acknowledged.by);
        if !self.is_dead() || by(self) != Some(AcknowledgedBy::Fallback) {
            return None;
        }
        let mut dead = self;
        // Each step goes to another delivery of the message: there are no more steps than deliveries.
        for _ in all {
            let fallback = all.iter().rfind(|other| other.has_taken_over(dead))?;
            if !fallback.is_dead() || by(fallback) == Some(AcknowledgedBy::Delivery) {
                return Some(&fallback.destination);
            }
            dead = fallback;
        }
        None
    }

    /// Returns true if one of the two is the fallback of the other one, among the deliveries of their message.
    #[must_use]
    pub fn is_related(&self, other: &Self, all: &[Self]) -> bool {
        let is_fallback = |this: &Self, of: &Self| {
            let origin = all.iter().find(|one| Some(one.id.ordinal) == this.origin);
            // A delivery for one recipient was split from the delivery for all recipients.
            let origin = match origin {
                Some(whole) if whole.destination == this.destination => whole.origin,
                _ => this.origin,
            };
            origin == Some(of.key().ordinal)
        };
        is_fallback(self, other) || is_fallback(other, self)
    }

    fn is_fallback_of(&self, dead: &Self) -> bool {
        let is_same_message = self.id.message == dead.id.message;
        is_same_message && self.recipient.is_none() && self.origin == Some(dead.key().ordinal)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::delivery::{Attempt, DeliveryId, Verdict};
    use crate::model::message::MessageId;

    fn name(name: &str) -> Name {
        name.parse().unwrap()
    }

    fn delivery(destination: &str) -> Delivery {
        let message = MessageId(uuid::Uuid::from_u128(7));
        let id = DeliveryId { message, ordinal: 1 };
        Delivery::new(id, name(destination), None, Timestamp(1_000))
    }

    fn numbered(ordinal: u16, delivery: Delivery) -> Delivery {
        let id = DeliveryId {
            ordinal,
            ..delivery.id
        };
        Delivery { id, ..delivery }
    }

    fn taken(delivery: Delivery) -> Delivery {
        let attempt = Attempt::new(Timestamp(1), Duration::from_millis(5), Verdict::Delivered, "why");
        delivery.delivered(attempt)
    }

    #[test]
    fn a_fallback_and_its_recipients_name_the_original_destination() {
        let whole = delivery("crm");
        let part = numbered(2, whole.split("a@example.com")).dead(None, Timestamp(2), "no mailbox");
        let fallback = numbered(3, part.fallback(name("room"), Timestamp(3)));
        let late = numbered(4, fallback.split("b@example.com"));
        let all = [taken(whole), part, fallback, late];
        let told = all.each_ref().map(|delivery| delivery.stands_in_for(&all));
        let named = name("crm");
        let crm = Some((&named, Cow::from("no mailbox")));
        assert_eq!(told, [None, None, crm.clone(), crm]);
    }

    #[test]
    fn a_fallback_of_a_pending_delivery_says_what_has_become_of_that() {
        let late = "not delivered within 5m";
        let failed = Attempt::new(Timestamp(1), Duration::ZERO, Verdict::Transient, "HTTP 503");
        let (crm, untried) = (delivery("crm").retry(failed, Timestamp(9)), delivery("crm"));
        let told = |crm: Delivery, outage: Option<&str>, now: &dyn Fn(Delivery) -> Delivery| {
            let room = numbered(2, crm.hand_over(name("room"), Timestamp(2_000), late, outage));
            let all = [now(crm), room.clone()];
            assert!(all[0].has_fallback(&all) && !room.has_fallback(&all));
            assert!(!all[0].clone().requeued(Timestamp(2_001)).has_fallback(&all));
            room.stands_in_for(&all).map(|(_, reason)| reason.into_owned())
        };
        let dead = |crm: Delivery| crm.dead(None, Timestamp(3), "HTTP 400");
        let still = |crm: Delivery| crm;
        let cases: [(_, _, &dyn Fn(Delivery) -> Delivery, _); 5] = [
            (
                &crm,
                None,
                &still,
                "not delivered within 5m: HTTP 503; it may still arrive there",
            ),
            (
                &untried,
                None,
                &still,
                "not delivered within 5m: no attempt has ended yet; it may still arrive there",
            ),
            (
                &crm,
                Some("paused"),
                &still,
                "not delivered within 5m: paused; it may still arrive there",
            ),
            (
                &crm,
                None,
                &taken,
                "not delivered within 5m: HTTP 503; it has arrived there since",
            ),
            (&crm, None, &dead, "HTTP 400"),
        ];
        for (crm, outage, now, expected) in cases {
            assert_eq!(told(crm.clone(), outage, now).as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_dead_delivery_names_the_fallback_that_delivered_the_message() {
        let by = AcknowledgedBy::Fallback;
        let dead = |delivery: Delivery| delivery.dead(None, Timestamp(2), "no");
        let covered = |delivery: Delivery| dead(delivery).acknowledged(Timestamp(3), by);
        let crm = covered(delivery("crm"));
        let room = covered(numbered(2, crm.fallback(name("room"), Timestamp(2))));
        let desk = taken(numbered(3, room.fallback(name("desk"), Timestamp(2))));
        let other = dead(numbered(4, delivery("hook")));
        let given_up = numbered(5, delivery("screen"));
        let given_up = dead(given_up).acknowledged(Timestamp(3), AcknowledgedBy::Operator);
        let all = [crm, room, desk, other, given_up];
        let told = all.each_ref().map(|delivery| delivery.delivered_by(&all));
        let desk = name("desk");
        assert_eq!(told, [Some(&desk), Some(&desk), None, None, None]);
    }
}
