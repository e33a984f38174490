//! The queues of one destination.

use std::collections::{BTreeMap, BTreeSet};

use super::super::keys::{Place, Queue};
use crate::model::delivery::Delivery;
use crate::model::message::{Conversation, Name, Timestamp};
use crate::store::ANY_TIME;

/// When a pending delivery is due, and since when it is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store::sled) struct Times {
    pub(in crate::store::sled) due: Timestamp,
    pub(in crate::store::sled) pending_since: Timestamp,
}

impl Times {
    /// The times of a pending delivery that is due at `due`.
    pub(in crate::store::sled) fn new(due: Timestamp, delivery: &Delivery) -> Self {
        Self {
            due,
            pending_since: delivery.pending_since(),
        }
    }
}

/// A scheduled head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store::sled) struct Slot {
    pub(in crate::store::sled) due: Timestamp,
    pub(in crate::store::sled) place: Place,
    pub(in crate::store::sled) queue: Queue,
}

/// The queues of one destination. Places are packed.
#[derive(Default)]
pub(in crate::store::sled) struct Line {
    /// The pending deliveries, by conversation and place.
    pub(in crate::store::sled) waiting: BTreeMap<(u64, u64), Times>,
    /// The same by since when they are pending, and place: only once it was asked for, because most destinations need none,
    /// and it takes about thirty bytes for each delivery.
    by_age: Option<BTreeSet<(i64, u64)>>,
    /// The entries of `waiting` whose destination has answered, so that the next one of the conversation is the head.
    pub(in crate::store::sled) answered: BTreeSet<(u64, u64)>,
    /// The unclaimed heads due at `ready_until`, by place and conversation, and since when they are pending.
    pub(in crate::store::sled) ready: BTreeMap<(u64, u64), Timestamp>,
    /// All other unclaimed heads, by due time, place and conversation, and since when they are pending.
    pub(in crate::store::sled) later: BTreeMap<(i64, u64, u64), Timestamp>,
    pub(in crate::store::sled) ready_until: Option<i64>,
    pub(in crate::store::sled) dead: BTreeSet<u64>,
}

impl Line {
    /// The pending deliveries by since when they are pending, and place.
    pub(in crate::store::sled) fn by_age(&mut self) -> &BTreeSet<(i64, u64)> {
        let waiting = &self.waiting;
        self.by_age.get_or_insert_with(|| {
            let all = waiting.iter();
            all.map(|(&(_, place), times)| (times.pending_since.0, place))
                .collect()
        })
    }

    /// Called when a delivery became pending, or is not pending any more since then.
    pub(in crate::store::sled) fn age(&mut self, times: Times, place: u64, is_pending: bool) {
        let Some(by_age) = &mut self.by_age else { return };
        let entry = (times.pending_since.0, place);
        match is_pending {
            true => by_age.insert(entry),
            false => by_age.remove(&entry),
        };
    }

    /// The first delivery of a conversation whose destination has not answered.
    pub(in crate::store::sled) fn head(&self, conversation: u64) -> Option<(u64, Times)> {
        let queue = self.waiting.range((conversation, 0)..=(conversation, u64::MAX));
        let mut left = queue.filter(|(key, _)| self.answered.is_empty() || !self.answered.contains(key));
        left.next().map(|(&(_, place), &times)| (place, times))
    }

    pub(in crate::store::sled) fn schedule(&mut self, times: Times, place: u64, conversation: u64) {
        let Times { due, pending_since } = times;
        if self.ready_until.is_some_and(|until| due.0 <= until) {
            self.ready.insert((place, conversation), pending_since);
        } else {
            self.later.insert((due.0, place, conversation), pending_since);
        }
    }

    /// Returns false if it was not scheduled.
    pub(in crate::store::sled) fn unschedule(
        &mut self,
        due: Timestamp,
        place: u64,
        conversation: u64,
    ) -> bool {
        let ready = self.ready.remove(&(place, conversation));
        ready
            .or_else(|| self.later.remove(&(due.0, place, conversation)))
            .is_some()
    }

    pub(in crate::store::sled) fn slot(
        &self,
        destination: &Name,
        (place, conversation): (u64, u64),
    ) -> Option<Slot> {
        Some(Slot {
            due: self.waiting.get(&(conversation, place))?.due,
            place: Place::unpacked(place),
            queue: queue(destination, conversation),
        })
    }

    /// Takes heads out of the schedule.
    pub(in crate::store::sled) fn take(&mut self, taken: &[Slot]) {
        for Slot { due, place, queue } in taken {
            self.unschedule(*due, place.packed(), number(queue.conversation));
        }
    }

    /// Moves the heads that have become due to `ready`.
    pub(in crate::store::sled) fn make_ready(&mut self, now: Timestamp) {
        if now == ANY_TIME || self.ready_until.is_some_and(|until| now.0 <= until) {
            return;
        }
        self.ready_until = Some(now.0);
        while let Some(first) = self.later.first_entry().filter(|first| first.key().0 <= now.0) {
            let ((_, place, conversation), since) = first.remove_entry();
            self.ready.insert((place, conversation), since);
        }
    }

    /// The heads that are not due yet and have been pending since a wanted time, in the order of acceptance. The cost
    /// is proportional to the number of heads.
    pub(in crate::store::sled) fn later_by_place(
        &self,
        is_wanted: impl Fn(&Timestamp) -> bool,
    ) -> Vec<(u64, u64)> {
        let wanted = self.later.iter().filter(|(_, since)| is_wanted(since));
        let mut heads: Vec<(u64, u64)> = wanted
            .map(|(&(_, place, conversation), _)| (place, conversation))
            .collect();
        heads.sort_unstable();
        heads
    }
}

pub(in crate::store::sled) fn queue(destination: &Name, conversation: u64) -> Queue {
    Queue {
        destination: destination.clone(),
        conversation: Conversation(conversation.to_be_bytes()),
    }
}

pub(in crate::store::sled) fn number(conversation: Conversation) -> u64 {
    u64::from_be_bytes(conversation.0)
}
