//! The indexes in memory: the queues and the table for searches.
//!
//! The records on disk are authoritative; at start, the audit reads them all and fills the indexes. Each change
//! collects its updates of the indexes, and the writer applies them only after the batch is on disk: so a change that
//! a power cut could undo is never claimed or found.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

use self::line::Times;
use self::queues::Queues;
use self::table::{Draft, Table};
use super::keys::{Place, Queue};
use super::lock;
use crate::model::delivery::{Delivery, State};
use crate::model::message::{Message, Name};
use crate::store::{Ended, MessageState};

pub(super) mod counters;
pub(super) mod dedup_index;
pub(super) mod line;
pub(super) mod queues;
pub(super) mod row;
pub(super) mod seq_index;
pub(super) mod table;

/// The indexes. No thread waits for one of the two locks while it holds the other.
#[derive(Default)]
pub(super) struct Index {
    queues: Mutex<Queues>,
    table: Mutex<Table>,
    ended: Mutex<Ended>,
}

/// An update of the indexes.
pub(super) enum IndexUpdate {
    /// A message was added or changed.
    Message { seq: u64, draft: Box<Draft> },
    /// A message was removed.
    Removed { seq: u64 },
    /// A delivery became pending.
    Pending {
        queue: Queue,
        place: Place,
        times: Times,
    },
    /// The due time of a pending delivery changed.
    Due {
        queue: Queue,
        place: Place,
        times: Times,
    },
    /// A delivery is not pending any more.
    Ended { queue: Queue, place: Place },
    /// A delivery became dead. `is_covered`: another one delivered the message instead.
    Dead {
        destination: Name,
        place: Place,
        is_covered: bool,
    },
    /// A delivered delivery was added.
    Delivered { place: Place },
    /// Another delivery delivered the message instead of a dead one.
    Covered { place: Place },
    /// A dead delivery became pending or was removed. `is_covered`: another one had delivered the
    /// message instead.
    Revived {
        destination: Name,
        place: Place,
        is_covered: bool,
    },
}

impl IndexUpdate {
    pub(super) fn message(seq: u64, message: &Message) -> Self {
        Self::Message {
            seq,
            draft: Box::new(Draft::of(message)),
        }
    }

    /// The update for a delivery in any state.
    pub(super) fn delivery(queue: Queue, place: Place, delivery: &Delivery) -> Self {
        match delivery.state {
            State::Waiting { due } => Self::Pending {
                queue,
                place,
                times: Times::new(due, delivery),
            },
            State::Dead { .. } => Self::Dead {
                destination: queue.destination,
                place,
                is_covered: delivery.is_delivered_otherwise(),
            },
            State::Delivered { .. } => Self::Delivered { place },
        }
    }

    fn queues(&self, queues: &mut Queues) {
        match self {
            Self::Pending { queue, place, times } => queues.enqueue(queue, *place, *times),
            Self::Due { queue, place, times } => queues.reschedule(queue, *place, *times),
            Self::Ended { queue, place } => queues.dequeue(queue, *place),
            Self::Dead {
                destination, place, ..
            } => queues.add_dead(destination, *place),
            Self::Revived {
                destination, place, ..
            } => queues.remove_dead(destination, *place),
            Self::Message { .. } | Self::Delivered { .. } | Self::Covered { .. } | Self::Removed { .. } => {}
        }
    }

    fn table(self, table: &mut Table) {
        let mut count = |place: Place, count: fn(&mut self::row::Row)| {
            table.change(place.seq, count);
        };
        match self {
            Self::Pending { place, .. } => count(place, |row| row.count_waiting(true)),
            Self::Ended { place, .. } => count(place, |row| row.count_waiting(false)),
            Self::Dead {
                place, is_covered, ..
            } => {
                count(place, |row| row.count_dead(true));
                if is_covered {
                    count(place, |row| row.count_covered(true));
                }
            }
            Self::Covered { place } => count(place, |row| row.count_covered(true)),
            Self::Delivered { place } => count(place, self::row::Row::add_delivery),
            Self::Revived {
                place, is_covered, ..
            } => {
                count(place, |row| row.count_dead(false));
                if is_covered {
                    count(place, |row| row.count_covered(false));
                }
            }
            Self::Message { seq, draft } => table.set(seq, *draft),
            Self::Removed { seq } => table.remove(seq),
            Self::Due { .. } => {}
        }
    }
}

impl Index {
    pub(super) fn queues(&self) -> MutexGuard<'_, Queues> {
        lock(&self.queues)
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    /// Makes these queues available for claims again.
    pub(super) fn free(&self, settled: &[Queue]) {
        let mut queues = self.queues();
        settled.iter().for_each(|queue| queues.free(queue));
    }

    /// Applies updates in their order.
    pub(super) fn apply(&self, updates: Vec<IndexUpdate>) {
        let mut queues = self.queues();
        updates.iter().for_each(|update| update.queues(&mut queues));
        drop(queues);
        let ended: BTreeSet<u64> = updates
            .iter()
            .filter_map(|update| match update {
                IndexUpdate::Ended { place, .. } => Some(place.seq),
                _ => None,
            })
            .collect();
        let mut table = self.table();
        updates.into_iter().for_each(|update| update.table(&mut table));
        let mut counted = Ended::default();
        for seq in ended {
            table.change(seq, |row| {
                if !row.may_wait() {
                    row.count_ended(&mut counted);
                }
            });
        }
        drop(table);
        let mut ended = lock(&self.ended);
        ended.delivered += counted.delivered;
        ended.dead += counted.dead;
    }

    /// Notes at start that a message had ended with this result before, so that it is not counted again.
    pub(super) fn has_ended(&self, seq: u64, result: MessageState) {
        self.table().change(seq, |row| row.note_ended(result));
    }

    /// The number of messages whose deliveries have all ended since the store was opened.
    pub(super) fn ended(&self) -> Ended {
        *lock(&self.ended)
    }
}
