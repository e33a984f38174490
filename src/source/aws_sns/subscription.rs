//! Records whether the subscription to the topic has ended, as SNS reports it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::message::Timestamp;

/// The reports of SNS. The signed times are compared, so that a repeated or late report does not replace a newer one.
#[derive(Default)]
pub(super) struct Subscription(Mutex<Reports>);

#[derive(Default)]
struct Reports {
    /// The last confirmation of the end.
    ended: Option<Timestamp>,
    /// The last publication or confirmed subscription.
    active: Option<Timestamp>,
    /// The last request to confirm the subscription.
    requested: Option<Timestamp>,
}

impl Reports {
    fn ended(&self) -> Option<Timestamp> {
        self.ended.filter(|ended| self.active < Some(*ended))
    }

    /// Returns true if this ends a problem.
    fn note_active(&mut self, at: Option<Timestamp>) -> bool {
        let had_ended = self.ended().is_some();
        self.active = self.active.max(at);
        had_ended && self.ended().is_none()
    }
}

impl Subscription {
    /// When the subscription ended, if it is not active again.
    pub(super) fn ended(&self) -> Option<Timestamp> {
        self.reports().ended()
    }

    /// SNS confirmed at this time that the subscription ended. Returns true if this was not known.
    pub(super) fn note_ended(&self, at: Timestamp) -> bool {
        let mut reports = self.reports();
        let was_active = reports.ended().is_none();
        reports.ended = reports.ended.max(Some(at));
        was_active && reports.ended().is_some()
    }

    /// A message was published at this time, so there was a subscription. Returns true if it had ended before.
    pub(super) fn note_published(&self, at: Timestamp) -> bool {
        self.reports().note_active(Some(at))
    }

    /// SNS asked at this time to confirm the subscription.
    pub(super) fn note_requested(&self, at: Timestamp) {
        let mut reports = self.reports();
        reports.requested = reports.requested.max(Some(at));
    }

    /// The subscription that SNS asked to confirm is confirmed.
    pub(super) fn note_confirmed(&self) {
        let mut reports = self.reports();
        let requested = reports.requested;
        reports.note_active(requested);
    }

    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_publication_or_confirmation_ends_the_problem() {
        let subscription = Subscription::default();
        assert!(!subscription.note_published(Timestamp(10)));
        assert!(subscription.note_ended(Timestamp(20)));
        assert!(!subscription.note_ended(Timestamp(20)), "repeated");
        assert!(!subscription.note_published(Timestamp(15)), "repeated late");
        assert_eq!(subscription.ended(), Some(Timestamp(20)));
        assert!(subscription.note_published(Timestamp(25)));
        assert_eq!(subscription.ended(), None);
        assert!(!subscription.note_ended(Timestamp(20)), "repeated late");
        assert!(subscription.note_ended(Timestamp(30)));
        subscription.note_requested(Timestamp(40));
        assert_eq!(subscription.ended(), Some(Timestamp(30)), "not confirmed yet");
        subscription.note_confirmed();
        assert_eq!(subscription.ended(), None);
    }
}
