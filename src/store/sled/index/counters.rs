//! The counters in memory: the deliveries of each destination by state, and since when they are pending.
//!
//! A batch changes [`Uncommitted`] counters, which are added once it is on disk, so that a count is never visible
//! before its commit.

use std::collections::BTreeMap;

use super::super::record::Ledger;
use crate::model::delivery::{Delivery, State};
use crate::model::message::{Name, Timestamp};
use crate::store::{Backlog, Counts};

/// The counters of the whole store and of every destination.
#[derive(Clone, Debug, Default)]
pub(in crate::store::sled) struct Counters {
    pub(in crate::store::sled) ledger: Ledger,
    destinations: BTreeMap<Name, DestinationCounters>,
}

#[derive(Clone, Debug, Default)]
struct DestinationCounters {
    pending: u64,
    /// All dead deliveries, including those that need no attention.
    dead: u64,
    acknowledged: u64,
    delivered: u64,
    ages: Ages,
}

/// The changes of a batch: the new ledger, and the changes per destination.
pub(in crate::store::sled) struct Uncommitted {
    pub(in crate::store::sled) ledger: Ledger,
    moves: Vec<Move>,
}

/// A delivery that enters or leaves a state.
struct Move {
    destination: Name,
    state: Counted,
    is_entering: bool,
}

/// The state of a delivery, as far as it is counted.
#[derive(Clone, Copy)]
enum Counted {
    Pending { since: Timestamp },
    Delivered,
    Dead { is_acknowledged: bool },
}

impl Counters {
    /// Counts a delivery in its state.
    pub(in crate::store::sled) fn enter(&mut self, delivery: &Delivery) {
        let state = Counted::of(delivery);
        state.enter(&mut self.ledger.counts);
        self.destination(&delivery.destination).enter(state);
    }

    /// The counters for the next batch.
    pub(in crate::store::sled) fn begin(&self) -> Uncommitted {
        Uncommitted {
            ledger: self.ledger,
            moves: Vec::new(),
        }
    }

    /// Adds the changes of a batch that is on disk.
    pub(in crate::store::sled) fn commit(&mut self, changes: Uncommitted) {
        for change in changes.moves {
            let destination = self.destination(&change.destination);
            match change.is_entering {
                true => destination.enter(change.state),
                false => destination.leave(change.state),
            }
        }
        self.ledger = changes.ledger;
    }

    /// The numbers of deliveries of a destination.
    pub(in crate::store::sled) fn backlog(&self, destination: &Name) -> Backlog {
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

    /// The destinations that have deliveries.
    pub(in crate::store::sled) fn destinations(&self) -> impl Iterator<Item = &Name> {
        let all = self.destinations.iter();
        let known = all.filter(|(_, counted)| counted.pending + counted.dead + counted.delivered > 0);
        known.map(|(name, _)| name)
    }

    fn destination(&mut self, name: &Name) -> &mut DestinationCounters {
        self.destinations.entry(name.clone()).or_default()
    }
}

impl Uncommitted {
    /// Counts a delivery in its state.
    pub(in crate::store::sled) fn enter(&mut self, delivery: &Delivery) {
        let state = Counted::of(delivery);
        state.enter(&mut self.ledger.counts);
        self.note(&delivery.destination, state, true);
    }

    /// Uncounts a delivery in its previous state.
    pub(in crate::store::sled) fn leave(&mut self, delivery: &Delivery) {
        self.leave_state(&delivery.destination, Counted::of(delivery));
    }

    /// Uncounts a pending delivery.
    pub(in crate::store::sled) fn leave_pending(&mut self, destination: &Name, since: Timestamp) {
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

impl DestinationCounters {
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

/// The number of distinct times above which neighbouring ones are merged.
const TIMES_MAX: usize = 8_192;

/// The times since which deliveries are pending, in bounded memory.
///
/// The number of deliveries per time, exact to the millisecond while there are few times. Above [`TIMES_MAX`], the
/// intervals are doubled as often as needed: a backlog of three days is accurate to half a minute. Storing every time
/// would need unbounded memory, and an index on disk would need a write for every message.
#[derive(Clone, Debug, Default)]
struct Ages {
    counts: BTreeMap<i64, u64>,
    /// Each count is for the times that differ only in this many low bits.
    bits: u32,
}

impl Ages {
    fn add(&mut self, at: Timestamp) {
        *self.counts.entry(at.0 >> self.bits).or_default() += 1;
        while self.counts.len() > TIMES_MAX {
            self.widen();
        }
    }

    fn remove(&mut self, at: Timestamp) {
        let time = at.0 >> self.bits;
        if let Some(count) = self.counts.get_mut(&time) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&time);
            }
        }
        if self.counts.is_empty() {
            self.bits = 0;
        }
    }

    fn oldest(&self) -> Option<Timestamp> {
        self.counts
            .first_key_value()
            .map(|(time, _)| Timestamp(time << self.bits))
    }

    fn widen(&mut self) {
        self.bits += 1;
        for (time, count) in std::mem::take(&mut self.counts) {
            *self.counts.entry(time >> 1).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_time_is_exact_for_few_times_and_approximate_for_many() {
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
        let times: Vec<i64> = (0..three_days)
            .step_by(1_000)
            .map(|at| 1_790_000_000_000 + at)
            .collect();
        times.iter().for_each(|&at| ages.add(Timestamp(at)));
        assert!(ages.counts.len() <= TIMES_MAX);
        for (index, &at) in times.iter().enumerate() {
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
