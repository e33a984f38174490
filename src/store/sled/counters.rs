//! The counters, in memory: how many deliveries each destination has in which state, and since when they are pending.
//!
//! A group counts in [`Uncommitted`] counters of its own, which are added once it is on disk: nobody sees a count before
//! its commit.

use std::collections::BTreeMap;

use super::record::Ledger;
use crate::model::delivery::{Delivery, State};
use crate::model::message::{Name, Timestamp};
use crate::store::{Backlog, Counts};

/// The counters of the whole store and of every destination.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    pub(super) ledger: Ledger,
    destinations: BTreeMap<Name, Destination>,
}

#[derive(Clone, Debug, Default)]
struct Destination {
    pending: u64,
    /// All dead ones, including those that need no attention.
    dead: u64,
    acknowledged: u64,
    delivered: u64,
    ages: Ages,
}

/// What a group changes: the ledger as it will be, and the changes of single destinations.
pub(super) struct Uncommitted {
    pub(super) ledger: Ledger,
    moves: Vec<Move>,
}

/// A delivery that is counted in a state from now on, or no more.
struct Move {
    destination: Name,
    state: Counted,
    is_entering: bool,
}

/// What the counters need to know of a delivery's state.
#[derive(Clone, Copy)]
enum Counted {
    Pending { since: Timestamp },
    Delivered,
    Dead { is_acknowledged: bool },
}

impl Counters {
    /// Counts a delivery in its state.
    pub(super) fn enter(&mut self, delivery: &Delivery) {
        let state = Counted::of(delivery);
        state.enter(&mut self.ledger.counts);
        self.destination(&delivery.destination).enter(state);
    }

    /// What the next group begins with.
    pub(super) fn begin(&self) -> Uncommitted {
        Uncommitted {
            ledger: self.ledger,
            moves: Vec::new(),
        }
    }

    /// Adds what a group has changed that is on disk now.
    pub(super) fn commit(&mut self, changes: Uncommitted) {
        for change in changes.moves {
            let destination = self.destination(&change.destination);
            match change.is_entering {
                true => destination.enter(change.state),
                false => destination.leave(change.state),
            }
        }
        self.ledger = changes.ledger;
    }

    /// How much is pending or dead at a destination.
    pub(super) fn backlog(&self, destination: &Name) -> Backlog {
        let Some(counted) = self.destinations.get(destination) else {
            return Backlog::default();
        };
        Backlog {
            pending: counted.pending,
            dead: counted.dead.saturating_sub(counted.acknowledged),
            acknowledged: counted.acknowledged,
            oldest: counted.ages.oldest(),
        }
    }

    /// The destinations of which the store has deliveries.
    pub(super) fn destinations(&self) -> impl Iterator<Item = &Name> {
        let all = self.destinations.iter();
        let known = all.filter(|(_, counted)| counted.pending + counted.dead + counted.delivered > 0);
        known.map(|(name, _)| name)
    }

    fn destination(&mut self, name: &Name) -> &mut Destination {
        self.destinations.entry(name.clone()).or_default()
    }
}

impl Uncommitted {
    /// Counts a delivery in its state.
    pub(super) fn enter(&mut self, delivery: &Delivery) {
        let state = Counted::of(delivery);
        state.enter(&mut self.ledger.counts);
        self.note(&delivery.destination, state, true);
    }

    /// A delivery is not in this state any more.
    pub(super) fn leave(&mut self, delivery: &Delivery) {
        self.leave_state(&delivery.destination, Counted::of(delivery));
    }

    /// A delivery of this destination, pending since then, is not pending any more.
    pub(super) fn leave_pending(&mut self, destination: &Name, since: Timestamp) {
        self.leave_state(destination, Counted::Pending { since });
    }

    fn leave_state(&mut self, destination: &Name, state: Counted) {
        state.leave(&mut self.ledger.counts);
        self.note(destination, state, false);
    }

    fn note(&mut self, destination: &Name, state: Counted, is_entering: bool) {
        self.moves.push(Move {
            destination: destination.clone(),
            state,
            is_entering,
        });
    }
}

impl Counted {
    fn of(delivery: &Delivery) -> Self {
        match delivery.state {
            State::Waiting { .. } => Self::Pending {
                since: delivery.pending_since(),
            },
            State::Delivered { .. } => Self::Delivered,
            State::Dead { .. } => Self::Dead {
                is_acknowledged: delivery.acknowledged.is_some(),
            },
        }
    }

    fn count(self, counts: &mut Counts) -> &mut u64 {
        match self {
            Self::Pending { .. } => &mut counts.pending,
            Self::Delivered => &mut counts.delivered,
            Self::Dead { .. } => &mut counts.dead,
        }
    }

    fn enter(self, counts: &mut Counts) {
        *self.count(counts) += 1;
    }

    fn leave(self, counts: &mut Counts) {
        let count = self.count(counts);
        *count = count.saturating_sub(1);
    }
}

impl Destination {
    fn enter(&mut self, state: Counted) {
        match state {
            Counted::Pending { since } => {
                self.pending += 1;
                self.ages.add(since);
            }
            Counted::Delivered => self.delivered += 1,
            Counted::Dead { is_acknowledged } => {
                self.dead += 1;
                self.acknowledged += u64::from(is_acknowledged);
            }
        }
    }

    fn leave(&mut self, state: Counted) {
        match state {
            Counted::Pending { since } => {
                self.pending = self.pending.saturating_sub(1);
                self.ages.remove(since);
            }
            Counted::Delivered => self.delivered = self.delivered.saturating_sub(1),
            Counted::Dead { is_acknowledged } => {
                self.dead = self.dead.saturating_sub(1);
                self.acknowledged = self.acknowledged.saturating_sub(u64::from(is_acknowledged));
            }
        }
    }
}

/// How many moments are counted apart before neighbours are put together.
const MOMENTS_MAX: usize = 8_192;

/// Since when deliveries are pending, in bounded memory.
///
/// Counts by moment, exact to the millisecond while there are few moments. With more than [`MOMENTS_MAX`], the moments
/// become twice as wide, as often as needed: a backlog of three days is exact to half a minute. Keeping every moment would
/// take unbounded memory, and an index on disk a write for every message.
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
                "{index}: {oldest} instead of {at}"
            );
            ages.remove(Timestamp(at));
        }
        assert_eq!(ages.oldest(), None);
    }
}
