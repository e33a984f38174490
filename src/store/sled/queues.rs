//! The queues, in memory: what waits for each destination, in what order, and when it is due.
//!
//! A destination's deliveries of one conversation are a queue, and only its first one, the head, is in the
//! schedule, and only while nobody is at work on it: a claim never meets a delivery that must wait for another
//! one, and a queue of a hundred thousand costs a claim no more than a queue of one. Nothing of this is written:
//! the records tell it at start.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use super::keys::{Place, Queue};
use crate::message::{Conversation, Name, Timestamp};
use crate::store::Turn;

/// What is owed to every destination.
#[derive(Default)]
pub(super) struct Queues(BTreeMap<Name, Line>);

/// What is owed to one destination. Places are packed.
#[derive(Default)]
struct Line {
    /// By conversation and place, when each is due.
    waiting: BTreeMap<(u64, u64), i64>,
    /// The heads that are not claimed, by due time, place and conversation.
    schedule: BTreeSet<(i64, u64, u64)>,
    dead: BTreeSet<u64>,
}

/// The conversation and place of the last delivery of a step.
pub(super) type Cursor = (u64, u64);

/// One step of a list, and where it ended if there may be more.
pub(super) type Listed = (Vec<Place>, Option<Cursor>);

/// A head in the schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) due: Timestamp,
    pub(super) place: Place,
    pub(super) queue: Queue,
}

impl Queues {
    /// Puts a delivery into its queue, in front if it was accepted before those that wait.
    pub(super) fn enqueue(&mut self, queue: &Queue, place: Place, due: Timestamp) {
        let line = self.line(&queue.destination);
        let (conversation, place) = (number(queue.conversation), place.packed());
        let head = line.head(conversation);
        line.waiting.insert((conversation, place), due.0);
        match head {
            Some((first, _)) if first < place => return,
            Some((first, was_due)) => line.schedule.remove(&(was_due, first, conversation)),
            None => false,
        };
        line.schedule.insert((due.0, place, conversation));
    }

    /// Takes a delivery out of its queue; when it was the head, the next one becomes the head.
    pub(super) fn dequeue(&mut self, queue: &Queue, place: Place) {
        let line = self.line(&queue.destination);
        let (conversation, place) = (number(queue.conversation), place.packed());
        let Some(due) = line.waiting.remove(&(conversation, place)) else {
            return;
        };
        if line.schedule.remove(&(due, place, conversation))
            && let Some((next, due)) = line.head(conversation)
        {
            line.schedule.insert((due, next, conversation));
        }
    }

    /// Changes when a waiting delivery is due. Behind the head that counts only once it is the head.
    pub(super) fn reschedule(&mut self, queue: &Queue, place: Place, due: Timestamp) {
        let line = self.line(&queue.destination);
        let (conversation, place) = (number(queue.conversation), place.packed());
        let Some(was_due) = line.waiting.insert((conversation, place), due.0) else {
            line.waiting.remove(&(conversation, place));
            return;
        };
        if line.schedule.remove(&(was_due, place, conversation)) {
            line.schedule.insert((due.0, place, conversation));
        }
    }

    /// Takes heads that are due out of the schedule, as far as `hold` grants them.
    pub(super) fn take_due(
        &mut self,
        destination: &Name,
        now: Timestamp,
        limit: usize,
        hold: impl FnMut(&Slot) -> bool,
    ) -> Vec<Slot> {
        let due = self.schedule(destination).take_while(|slot| slot.due <= now);
        let taken: Vec<Slot> = due.filter(hold).take(limit).collect();
        let schedule = &mut self.line(destination).schedule;
        for Slot { due, place, queue } in &taken {
            schedule.remove(&(due.0, place.packed(), number(queue.conversation)));
        }
        taken
    }

    /// Nobody is at work on a queue any more: its head goes back into the schedule.
    pub(super) fn free(&mut self, queue: &Queue) {
        let line = self.line(&queue.destination);
        let conversation = number(queue.conversation);
        if let Some((place, due)) = line.head(conversation) {
            line.schedule.insert((due, place, conversation));
        }
    }

    /// The first of a queue, and when the turn of `place` in it comes.
    pub(super) fn turn(&self, queue: &Queue, place: Place) -> Option<(Place, Turn)> {
        let line = self.0.get(&queue.destination)?;
        let conversation = number(queue.conversation);
        let upto = line
            .waiting
            .range((conversation, 0)..=(conversation, place.packed()));
        let due = upto.clone().map(|(_, &due)| due).max()?;
        let (&(_, first), _) = upto.clone().next()?;
        let (&(_, last), _) = upto.last()?;
        let turn = Turn {
            due: Timestamp(due),
            place: last,
        };
        (last == place.packed()).then_some((Place::unpacked(first), turn))
    }

    /// How many waiting deliveries of a destination come before this turn.
    pub(super) fn ahead(&self, destination: &Name, turn: Turn) -> u64 {
        let waiting = self.0.get(destination).into_iter().flat_map(|line| &line.waiting);
        let (mut conversation, mut due, mut ahead) = (None, i64::MIN, 0);
        for (&(of, place), &own) in waiting {
            due = if conversation == Some(of) {
                due.max(own)
            } else {
                own
            };
            conversation = Some(of);
            let due = Timestamp(due);
            ahead += u64::from(Turn { due, place } < turn);
        }
        ahead
    }

    /// Whether anything waits in a queue, claimed or not.
    pub(super) fn waits(&self, queue: &Queue) -> bool {
        let line = self.0.get(&queue.destination);
        line.is_some_and(|line| line.head(number(queue.conversation)).is_some())
    }

    pub(super) fn bury(&mut self, destination: &Name, place: Place) {
        self.line(destination).dead.insert(place.packed());
    }

    pub(super) fn unbury(&mut self, destination: &Name, place: Place) {
        self.line(destination).dead.remove(&place.packed());
    }

    /// The schedule of a destination, by due time.
    pub(super) fn schedule(&self, destination: &Name) -> impl Iterator<Item = Slot> {
        let schedule = self
            .0
            .get(destination)
            .into_iter()
            .flat_map(|line| &line.schedule);
        schedule.map(|&(due, place, conversation)| Slot {
            due: Timestamp(due),
            place: Place::unpacked(place),
            queue: Queue {
                destination: destination.clone(),
                conversation: Conversation(conversation.to_be_bytes()),
            },
        })
    }

    /// Up to `limit` waiting deliveries of a destination, from behind the step before.
    pub(super) fn waiting_after(&self, destination: &Name, after: Option<Cursor>, limit: usize) -> Listed {
        let from = after.map_or((0, 0), |(conversation, place)| (conversation, place + 1));
        let waiting = self
            .0
            .get(destination)
            .into_iter()
            .flat_map(|line| line.waiting.range(from..));
        let keys: Vec<(u64, u64)> = waiting.map(|(&key, _)| key).take(limit).collect();
        let last = keys.last().copied().filter(|_| keys.len() == limit);
        (
            keys.into_iter()
                .map(|(_, place)| Place::unpacked(place))
                .collect(),
            last,
        )
    }

    /// The same for those that are due after `beyond`.
    pub(super) fn due_after(
        &self,
        destination: &Name,
        beyond: Timestamp,
        after: Option<Cursor>,
        limit: usize,
    ) -> Listed {
        let from = after.map_or((0, 0), |(conversation, place)| (conversation, place + 1));
        let waiting = self
            .0
            .get(destination)
            .into_iter()
            .flat_map(|line| line.waiting.range(from..));
        let late = waiting.filter(|(_, due)| **due > beyond.0);
        let keys: Vec<(u64, u64)> = late.map(|(&key, _)| key).take(limit).collect();
        let last = keys.last().copied().filter(|_| keys.len() == limit);
        let places = keys.into_iter().map(|(_, place)| Place::unpacked(place));
        (places.collect(), last)
    }

    /// The same for the dead ones.
    pub(super) fn dead_after(&self, destination: &Name, after: Option<Cursor>, limit: usize) -> Listed {
        let from = after.map_or(0, |(_, place)| place + 1);
        let dead = self
            .0
            .get(destination)
            .into_iter()
            .flat_map(|line| line.dead.range(from..));
        let places: Vec<u64> = dead.copied().take(limit).collect();
        let last = places.last().filter(|_| places.len() == limit);
        let last = last.map(|&place| (0, place));
        (places.into_iter().map(Place::unpacked).collect(), last)
    }

    /// The waiting delivery of a destination whose message was accepted first.
    pub(super) fn first_waiting(&self, destination: &Name) -> Option<Place> {
        let places = self.0.get(destination)?.waiting.keys().map(|(_, place)| *place);
        places.min().map(Place::unpacked)
    }

    /// The newest `limit` waiting deliveries of a destination before a place, newest first.
    pub(super) fn waiting_before(&self, destination: &Name, before: u64, limit: usize) -> Vec<Place> {
        let waiting = self.0.get(destination).into_iter().flat_map(|line| &line.waiting);
        let places = waiting
            .map(|(&(_, place), _)| place)
            .filter(|place| *place < before);
        newest(places, limit)
    }

    /// The same for the dead ones.
    pub(super) fn dead_before(&self, destination: &Name, before: u64, limit: usize) -> Vec<Place> {
        let dead = self
            .0
            .get(destination)
            .into_iter()
            .flat_map(|line| line.dead.range(..before).rev());
        dead.take(limit).map(|&place| Place::unpacked(place)).collect()
    }

    fn line(&mut self, destination: &Name) -> &mut Line {
        self.0.entry(destination.clone()).or_default()
    }
}

impl Line {
    /// The first of a conversation, and when it is due.
    fn head(&self, conversation: u64) -> Option<(u64, i64)> {
        let mut queue = self.waiting.range((conversation, 0)..=(conversation, u64::MAX));
        queue.next().map(|(&(_, place), &due)| (place, due))
    }
}

/// The greatest of many, in little memory.
fn newest(places: impl Iterator<Item = u64>, limit: usize) -> Vec<Place> {
    let mut kept = BinaryHeap::new();
    for place in places {
        kept.push(std::cmp::Reverse(place));
        if kept.len() > limit {
            kept.pop();
        }
    }
    let sorted = kept.into_sorted_vec();
    sorted.into_iter().map(|place| Place::unpacked(place.0)).collect()
}

fn number(conversation: Conversation) -> u64 {
    u64::from_be_bytes(conversation.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(conversation: u8) -> Queue {
        Queue {
            destination: "desk".parse().unwrap(),
            conversation: Conversation([conversation; 8]),
        }
    }

    fn place(seq: u64) -> Place {
        Place { seq, ordinal: 1 }
    }

    fn scheduled(queues: &Queues) -> Vec<(i64, u64)> {
        let desk = queue(0).destination;
        let slots = queues.schedule(&desk);
        slots.map(|slot| (slot.due.0, slot.place.seq)).collect()
    }

    #[test]
    fn only_heads_are_scheduled_and_the_next_follows_the_one_that_goes() {
        let mut queues = Queues::default();
        queues.enqueue(&queue(1), place(2), Timestamp(20));
        queues.enqueue(&queue(1), place(3), Timestamp(-3));
        queues.enqueue(&queue(2), place(4), Timestamp(i64::MIN));
        assert_eq!(scheduled(&queues), [(i64::MIN, 4), (20, 2)]);
        queues.enqueue(&queue(1), place(1), Timestamp(30));
        assert_eq!(
            scheduled(&queues),
            [(i64::MIN, 4), (30, 1)],
            "it was accepted first"
        );
        queues.reschedule(&queue(1), place(3), Timestamp(7));
        queues.reschedule(&queue(1), place(1), Timestamp(31));
        queues.reschedule(&queue(9), place(9), Timestamp(0));
        assert_eq!(scheduled(&queues), [(i64::MIN, 4), (31, 1)]);
        queues.dequeue(&queue(1), place(2));
        queues.dequeue(&queue(1), place(1));
        queues.dequeue(&queue(1), place(1));
        assert_eq!(scheduled(&queues), [(i64::MIN, 4), (7, 3)]);
        queues.dequeue(&queue(1), place(3));
        queues.dequeue(&queue(2), place(4));
        assert!(scheduled(&queues).is_empty());
    }

    #[test]
    fn what_is_claimed_is_out_of_the_schedule_until_nobody_is_at_work_on_its_queue() {
        let mut queues = Queues::default();
        let desk = queue(0).destination;
        for (conversation, seq) in [(1, 1), (1, 2), (2, 3), (3, 4)] {
            queues.enqueue(&queue(conversation), place(seq), Timestamp(0));
        }
        let seqs = |slots: Vec<Slot>| slots.into_iter().map(|slot| slot.place.seq).collect::<Vec<_>>();
        let not_third = |slot: &Slot| slot.place.seq != 3;
        assert!(queues.take_due(&desk, Timestamp(-1), 9, |_| true).is_empty());
        assert_eq!(seqs(queues.take_due(&desk, Timestamp(0), 9, not_third)), [1, 4]);
        assert_eq!(scheduled(&queues), [(0, 3)]);
        queues.reschedule(&queue(3), place(4), Timestamp(5));
        queues.dequeue(&queue(1), place(1));
        assert_eq!(scheduled(&queues), [(0, 3)], "still claimed");
        for conversation in [1, 3] {
            queues.free(&queue(conversation));
        }
        assert_eq!(scheduled(&queues), [(0, 2), (0, 3), (5, 4)]);
        assert_eq!(seqs(queues.take_due(&desk, Timestamp(0), 1, |_| true)), [2]);
        queues.dequeue(&queue(1), place(2));
        queues.free(&queue(1));
        assert_eq!(scheduled(&queues), [(0, 3), (5, 4)], "nothing of it waits");
    }

    #[test]
    fn what_waits_and_what_died_is_listed_in_steps() {
        let mut queues = Queues::default();
        let desk = queue(0).destination;
        for seq in 1..=7 {
            queues.enqueue(&queue((seq % 3) as u8), place(seq), Timestamp(0));
            queues.bury(&desk, place(10 + seq));
        }
        queues.unbury(&desk, place(12));
        let all = |step: &dyn Fn(Option<Cursor>) -> Listed| {
            let (mut seqs, mut after) = (Vec::new(), None);
            loop {
                let (places, next) = step(after);
                seqs.extend(places.into_iter().map(|place| place.seq));
                after = next;
                if after.is_none() {
                    seqs.sort_unstable();
                    return seqs;
                }
            }
        };
        assert_eq!(
            all(&|after| queues.waiting_after(&desk, after, 2)),
            [1, 2, 3, 4, 5, 6, 7]
        );
        assert_eq!(
            all(&|after| queues.dead_after(&desk, after, 2)),
            [11, 13, 14, 15, 16, 17]
        );
        let seqs = |places: Vec<Place>| places.into_iter().map(|place| place.seq).collect::<Vec<_>>();
        assert_eq!(seqs(queues.waiting_before(&desk, place(6).packed(), 2)), [5, 4]);
        assert_eq!(seqs(queues.dead_before(&desk, place(14).packed(), 2)), [13, 11]);
        assert!(
            queues
                .dead_before(&"room".parse().unwrap(), u64::MAX, 2)
                .is_empty()
        );
    }
}
