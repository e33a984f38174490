//! The sums, in memory: what is owed to whom, and since when. They are the writer's to change.

use std::collections::BTreeMap;

use super::record::Ledger;
use crate::delivery::{Delivery, State};
use crate::message::{Name, Timestamp};
use crate::store::Backlog;

/// The sums of the whole store and of every destination.
#[derive(Clone, Debug, Default)]
pub(super) struct Books {
    pub(super) ledger: Ledger,
    destinations: BTreeMap<Name, Owed>,
}

#[derive(Clone, Debug, Default)]
struct Owed {
    pending: u64,
    /// All dead ones, of which some need no attention.
    dead: u64,
    acknowledged: u64,
    delivered: u64,
    ages: Ages,
}

impl Books {
    /// A delivery is in this state from now on.
    pub(super) fn enter(&mut self, delivery: &Delivery) {
        let owed = self.destinations.entry(delivery.destination.clone()).or_default();
        let counts = &mut self.ledger.counts;
        match delivery.state {
            State::Waiting { .. } => {
                counts.pending += 1;
                owed.pending += 1;
                owed.ages.add(delivery.pending_since());
            }
            State::Delivered { .. } => {
                counts.delivered += 1;
                owed.delivered += 1;
            }
            State::Dead { .. } => {
                counts.dead += 1;
                owed.dead += 1;
                owed.acknowledged += u64::from(delivery.acknowledged.is_some());
            }
        }
    }

    /// A delivery is in this state no more.
    pub(super) fn leave(&mut self, delivery: &Delivery) {
        if delivery.is_waiting() {
            return self.leave_waiting(&delivery.destination, delivery.pending_since());
        }
        let Some(owed) = self.destinations.get_mut(&delivery.destination) else {
            return;
        };
        let acknowledged = u64::from(delivery.acknowledged.is_some());
        owed.acknowledged = owed.acknowledged.saturating_sub(acknowledged);
        let counts = &mut self.ledger.counts;
        let (sum, part) = match delivery.state {
            State::Dead { .. } => (&mut counts.dead, &mut owed.dead),
            _ => (&mut counts.delivered, &mut owed.delivered),
        };
        *sum = sum.saturating_sub(1);
        *part = part.saturating_sub(1);
    }

    /// A delivery of this destination, pending since then, waits no more.
    pub(super) fn leave_waiting(&mut self, destination: &Name, pending_since: Timestamp) {
        let Some(owed) = self.destinations.get_mut(destination) else {
            return;
        };
        self.ledger.counts.pending = self.ledger.counts.pending.saturating_sub(1);
        owed.pending = owed.pending.saturating_sub(1);
        owed.ages.remove(pending_since);
    }

    /// How much is owed to a destination.
    pub(super) fn backlog(&self, destination: &Name) -> Backlog {
        let Some(owed) = self.destinations.get(destination) else {
            return Backlog::default();
        };
        Backlog {
            pending: owed.pending,
            dead: owed.dead.saturating_sub(owed.acknowledged),
            acknowledged: owed.acknowledged,
            oldest: owed.ages.oldest(),
        }
    }

    /// The destinations of which anything is remembered.
    pub(super) fn destinations(&self) -> impl Iterator<Item = &Name> {
        let known = |owed: &Owed| owed.pending + owed.dead + owed.delivered > 0;
        self.destinations
            .iter()
            .filter(move |(_, owed)| known(owed))
            .map(|(name, _)| name)
    }
}

/// How many moments are told apart before neighbours are put together.
const MOMENTS_MAX: usize = 8_192;

/// Since when things are owed, in bounded memory.
///
/// Counts by moment, exact to the millisecond while there are few moments. With more than [`MOMENTS_MAX`]
/// the moments become twice as wide, as often as needed: a backlog of three days is told to half a minute.
/// Keeping every moment would cost memory without bound, and an index on disk a write for every text.
#[derive(Clone, Debug, Default)]
struct Ages {
    counts: BTreeMap<i64, u64>,
    /// Each count is of the moments that differ only in this many last bits.
    bits: u32,
}

impl Ages {
    fn add(&mut self, at: Timestamp) {
        *self.counts.entry(at.0 >> self.bits).or_default() += 1;
        while self.counts.len() > MOMENTS_MAX {
            self.widen();
        }
    }

    fn remove(&mut self, at: Timestamp) {
        let moment = at.0 >> self.bits;
        if let Some(count) = self.counts.get_mut(&moment) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&moment);
            }
        }
        if self.counts.is_empty() {
            self.bits = 0;
        }
    }

    fn oldest(&self) -> Option<Timestamp> {
        self.counts
            .first_key_value()
            .map(|(moment, _)| Timestamp(moment << self.bits))
    }

    fn widen(&mut self) {
        self.bits += 1;
        for (moment, count) in std::mem::take(&mut self.counts) {
            *self.counts.entry(moment >> 1).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_few_is_exact_and_of_many_nearly_so() {
        let mut ages = Ages::default();
        for at in [-3, 7, 7, 5] {
            ages.add(Timestamp(at));
        }
        assert_eq!(ages.oldest(), Some(Timestamp(-3)));
        ages.remove(Timestamp(-3));
        ages.remove(Timestamp(5));
        ages.remove(Timestamp(7));
        assert_eq!(ages.oldest(), Some(Timestamp(7)));
        ages.remove(Timestamp(7));
        assert_eq!(ages.oldest(), None);

        let three_days = 3 * 86_400_000;
        let moments: Vec<i64> = (0..three_days)
            .step_by(1_000)
            .map(|at| 1_790_000_000_000 + at)
            .collect();
        moments.iter().for_each(|&at| ages.add(Timestamp(at)));
        assert!(ages.counts.len() <= MOMENTS_MAX);
        for (index, &at) in moments.iter().enumerate() {
            let oldest = ages.oldest().unwrap().0;
            assert!(
                oldest <= at && at - oldest < 65_536,
                "{index}: {oldest} is told for {at}"
            );
            ages.remove(Timestamp(at));
        }
        assert_eq!(ages.oldest(), None);
    }
}
