//! The queues in memory: the pending deliveries of each destination, their order, and their due times.
//!
//! The deliveries of one conversation to a destination form a queue. Only its first delivery, the head, can be
//! claimed, so only heads are scheduled, and only while they are not claimed: the cost of a claim does not depend on
//! the length of the queue. Due deliveries are claimed in the order in which the messages were accepted, so that a
//! delivery that failed once does not go behind all newer ones. Nothing here is written to disk; it is rebuilt from
//! the records at start.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::ops::RangeInclusive;

use super::super::keys::{Place, Queue};
use super::line::{Line, Slot, Times, number, queue};
use crate::model::message::{Name, Timestamp};
use crate::store::{ANY_TIME, HandOver, LatePosition, Turn};

/// The queues of all destinations.
#[derive(Default)]
pub(in crate::store::sled) struct Queues(BTreeMap<Name, Line>);

/// The conversation and place of the last delivery of a step.
pub(in crate::store::sled) type Cursor = (u64, u64);

/// One step of a list, and its end if there may be more.
pub(in crate::store::sled) type Listed = (Vec<Place>, Option<Cursor>);

impl Queues {
    /// Adds a delivery to its queue, before those whose messages were accepted later.
    pub(in crate::store::sled) fn enqueue(&mut self, queue: &Queue, place: Place, times: Times) {
        let line = self.line(&queue.destination);
        let (conversation, place) = (number(queue.conversation), place.packed());
        let head = line.head(conversation);
        line.waiting.insert((conversation, place), times);
        line.age(times, place, true);
        match head {
            Some((first, _)) if first < place => return,
            Some((first, its)) => line.unschedule(its.due, first, conversation),
            None => false,
        };
        line.schedule(times, place, conversation);
    }

    /// Removes a delivery from its queue. If it was the head, the next one becomes the head.
    pub(in crate::store::sled) fn dequeue(&mut self, queue: &Queue, place: Place) {
        let line = self.line(&queue.destination);
        let (conversation, place) = (number(queue.conversation), place.packed());
        line.answered.remove(&(conversation, place));
        let Some(times) = line.waiting.remove(&(conversation, place)) else {
            return;
        };
        line.age(times, place, false);
        if line.unschedule(times.due, place, conversation)
            && let Some((next, times)) = line.head(conversation)
        {
            line.schedule(times, next, conversation);
        }
    }

    /// Changes the times of a pending delivery. If it is not the head, this takes effect once it is.
    pub(in crate::store::sled) fn reschedule(&mut self, queue: &Queue, place: Place, times: Times) {
        let line = self.line(&queue.destination);
        let (conversation, place) = (number(queue.conversation), place.packed());
        let Some(before) = line.waiting.get_mut(&(conversation, place)) else {
            return;
        };
        let before = std::mem::replace(before, times);
        line.age(before, place, false);
        line.age(times, place, true);
        if line.unschedule(before.due, place, conversation) {
            line.schedule(times, place, conversation);
        }
    }

    /// Takes due heads for which `hold` returns true out of the schedule, in the order of acceptance.
    pub(in crate::store::sled) fn take_due(
        &mut self,
        destination: &Name,
        now: Timestamp,
        limit: usize,
        mut hold: impl FnMut(&Slot) -> bool,
    ) -> Vec<Slot> {
        let line = self.line(destination);
        line.make_ready(now);
        let later = match now == ANY_TIME {
            true => line.later_by_place(|_| true),
            false => Vec::new(),
        };
        let heads = merged(line.ready.keys().copied(), later.into_iter());
        let due = heads.filter_map(|head| line.slot(destination, head));
        let taken = due.filter(|slot| slot.due <= now && hold(slot)).take(limit);
        let taken: Vec<Slot> = taken.collect();
        line.take(&taken);
        taken
    }

    /// Like `take_due`, for heads that have been pending since a time in this range, due or not. The cost is
    /// proportional to the number of heads.
    pub(in crate::store::sled) fn take_overdue(
        &mut self,
        destination: &Name,
        pending_since: &RangeInclusive<Timestamp>,
        limit: usize,
        mut hold: impl FnMut(&Slot) -> bool,
    ) -> Vec<Slot> {
        let line = self.line(destination);
        let is_overdue = |since: &Timestamp| pending_since.contains(since);
        let ready = line.ready.iter().filter(|(_, since)| is_overdue(since));
        let later = line.later_by_place(is_overdue);
        let heads = merged(ready.map(|(&head, _)| head), later.into_iter());
        let overdue = heads.filter_map(|head| line.slot(destination, head));
        let taken: Vec<Slot> = overdue.filter(&mut hold).take(limit).collect();
        line.take(&taken);
        taken
    }

    /// The due time of the next unclaimed head whose queue is free according to `is_free`; `now` if one is due.
    pub(in crate::store::sled) fn next_due(
        &self,
        destination: &Name,
        now: Timestamp,
        is_free: impl Fn(&Queue) -> bool,
    ) -> Option<Timestamp> {
        let line = self.0.get(destination)?;
        let is_free = |conversation: u64| is_free(&queue(destination, conversation));
        let ready = line
            .ready
            .keys()
            .filter(|(_, conversation)| is_free(*conversation));
        let ready = ready.filter_map(|&(place, conversation)| line.waiting.get(&(conversation, place)));
        // A ready head is due later than now only if the clock went back.
        let mut next: Option<Timestamp> = None;
        for &Times { due, .. } in ready {
            if due <= now {
                return Some(now);
            }
            next = Some(next.map_or(due, |next| next.min(due)));
        }
        let mut later = line
            .later
            .keys()
            .filter(|(.., conversation)| is_free(*conversation));
        let later = later.next().map(|(due, ..)| Timestamp(*due));
        let next = next.into_iter().chain(later).min()?;
        Some(next.max(now))
    }

    /// Called when the destination has answered a claimed delivery whose outcome is not written yet: the next one in
    /// its queue becomes the head. Returns false, and changes nothing, if there is none.
    pub(in crate::store::sled) fn answer(&mut self, queue: &Queue, place: Place) -> bool {
        let line = self.line(&queue.destination);
        let (conversation, place) = (number(queue.conversation), place.packed());
        let mut next = line
            .waiting
            .range((conversation, place + 1)..=(conversation, u64::MAX));
        let is_followed = next.next().is_some();
        if is_followed && line.waiting.contains_key(&(conversation, place)) {
            line.answered.insert((conversation, place));
        }
        is_followed
    }

    /// Up to `limit` deliveries after a claimed one of the queue, as long as they are due.
    pub(in crate::store::sled) fn following(
        &self,
        queue: &Queue,
        place: Place,
        now: Timestamp,
        limit: usize,
    ) -> Vec<Slot> {
        let (conversation, place) = (number(queue.conversation), place.packed());
        let line = self.0.get(&queue.destination).into_iter();
        let after = line.flat_map(|line| {
            let after = (conversation, place + 1)..=(conversation, u64::MAX);
            line.waiting.range(after)
        });
        let due = after.take_while(|(_, times)| times.due <= now).take(limit);
        due.map(|(&(_, place), times)| Slot {
            due: times.due,
            place: Place::unpacked(place),
            queue: queue.clone(),
        })
        .collect()
    }

    /// Schedules the head of a queue that is not claimed any more.
    pub(in crate::store::sled) fn free(&mut self, queue: &Queue) {
        let line = self.line(&queue.destination);
        let conversation = number(queue.conversation);
        if let Some((place, times)) = line.head(conversation) {
            line.schedule(times, place, conversation);
        }
    }

    /// The first delivery of the queue, and the turn of the one at `place`.
    pub(in crate::store::sled) fn turn(&self, queue: &Queue, place: Place) -> Option<(Place, Turn)> {
        let line = self.0.get(&queue.destination)?;
        let conversation = number(queue.conversation);
        let upto = line
            .waiting
            .range((conversation, 0)..=(conversation, place.packed()));
        let due = upto.clone().map(|(_, times)| times.due).max()?;
        let (&(_, first), _) = upto.clone().next()?;
        let (&(_, last), _) = upto.last()?;
        let turn = Turn { due, place: last };
        (last == place.packed()).then_some((Place::unpacked(first), turn))
    }

    /// The number of pending deliveries of a destination before this turn. Those due at `now` are in the order of
    /// acceptance.
    pub(in crate::store::sled) fn ahead(&self, destination: &Name, turn: Turn, now: Timestamp) -> u64 {
        let turn = turn.seen_at(now);
        let waiting = self.0.get(destination).into_iter().flat_map(|line| &line.waiting);
        let (mut conversation, mut due, mut ahead) = (None, Timestamp(i64::MIN), 0);
        for (&(of, place), own) in waiting {
            due = if conversation == Some(of) {
                due.max(own.due)
            } else {
                own.due
            };
            conversation = Some(of);
            ahead += u64::from(Turn { due, place }.seen_at(now) < turn);
        }
        ahead
    }

    /// Returns true if a queue has a pending delivery, claimed or not.
    pub(in crate::store::sled) fn waits(&self, queue: &Queue) -> bool {
        let line = self.0.get(&queue.destination);
        line.is_some_and(|line| line.head(number(queue.conversation)).is_some())
    }

    /// The positions of pending deliveries to hand over, and since when the next one after them is pending.
    pub(in crate::store::sled) fn late(
        &mut self,
        request: &HandOver,
    ) -> (Vec<LatePosition>, Option<Timestamp>) {
        let from = request.after.map_or((i64::MIN, 0), |after| {
            let LatePosition { since, seq, ordinal } = after;
            (since.0, Place { seq, ordinal }.packed() + 1)
        });
        let mut ahead = self.line(&request.destination).by_age().range(from..).peekable();
        let mut late = Vec::new();
        while late.len() < request.limit
            && let Some((since, place)) = ahead.next_if(|(since, _)| *since <= request.until.0)
        {
            let Place { seq, ordinal } = Place::unpacked(*place);
            let since = Timestamp(*since);
            late.push(LatePosition { since, seq, ordinal });
        }
        (late, ahead.peek().map(|(since, _)| Timestamp(*since)))
    }

    pub(in crate::store::sled) fn add_dead(&mut self, destination: &Name, place: Place) {
        self.line(destination).dead.insert(place.packed());
    }

    pub(in crate::store::sled) fn remove_dead(&mut self, destination: &Name, place: Place) {
        self.line(destination).dead.remove(&place.packed());
    }

    /// Up to `limit` pending deliveries of a destination, after those of the previous step.
    pub(in crate::store::sled) fn waiting_after(
        &self,
        destination: &Name,
        after: Option<Cursor>,
        limit: usize,
    ) -> Listed {
        step(self.waiting_from(destination, after).map(|(key, _)| key), limit)
    }

    /// Like `waiting_after`, for those that are due after `beyond`.
    pub(in crate::store::sled) fn due_after(
        &self,
        destination: &Name,
        beyond: Timestamp,
        after: Option<Cursor>,
        limit: usize,
    ) -> Listed {
        let late = self
            .waiting_from(destination, after)
            .filter(|(_, due)| *due > beyond);
        step(late.map(|(key, _)| key), limit)
    }

    /// Like `waiting_after`, for the unclaimed heads that are due after `beyond`.
    pub(in crate::store::sled) fn later_after(
        &self,
        destination: &Name,
        beyond: Timestamp,
        after: Option<Cursor>,
        limit: usize,
    ) -> Listed {
        let later = self.0.get(destination).into_iter().flat_map(|line| {
            let due_later = line.later.range((beyond.0.saturating_add(1), 0, 0)..);
            due_later.map(|(&(_, place, conversation), _)| (conversation, place))
        });
        let later = later.filter(|key| after.is_none_or(|after| *key > after));
        step(later.collect::<BTreeSet<Cursor>>().into_iter(), limit)
    }

    /// The pending deliveries of a destination after those of the previous step, and when each is due.
    fn waiting_from(
        &self,
        destination: &Name,
        after: Option<Cursor>,
    ) -> impl Iterator<Item = (Cursor, Timestamp)> {
        let from = after.map_or((0, 0), |(conversation, place)| (conversation, place + 1));
        let line = self.0.get(destination).into_iter();
        line.flat_map(move |line| line.waiting.range(from..).map(|(&key, times)| (key, times.due)))
    }

    /// Like `waiting_after`, for dead deliveries.
    pub(in crate::store::sled) fn dead_after(
        &self,
        destination: &Name,
        after: Option<Cursor>,
        limit: usize,
    ) -> Listed {
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

    /// The pending delivery of a destination whose message was accepted first.
    pub(in crate::store::sled) fn first_waiting(&self, destination: &Name) -> Option<Place> {
        let places = self.0.get(destination)?.waiting.keys().map(|(_, place)| *place);
        places.min().map(Place::unpacked)
    }

    /// The newest `limit` pending deliveries of a destination before a place, newest first.
    pub(in crate::store::sled) fn waiting_before(
        &self,
        destination: &Name,
        before: u64,
        limit: usize,
    ) -> Vec<Place> {
        let waiting = self.0.get(destination).into_iter().flat_map(|line| &line.waiting);
        let places = waiting
            .map(|(&(_, place), _)| place)
            .filter(|place| *place < before);
        newest(places, limit)
    }

    /// Like `waiting_before`, for dead deliveries.
    pub(in crate::store::sled) fn dead_before(
        &self,
        destination: &Name,
        before: u64,
        limit: usize,
    ) -> Vec<Place> {
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

/// Merges two ascending sequences.
fn merged<T: Ord>(left: impl Iterator<Item = T>, right: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
    let (mut left, mut right) = (left.peekable(), right.peekable());
    std::iter::from_fn(move || match (left.peek(), right.peek()) {
        (Some(first), Some(second)) if first > second => right.next(),
        (Some(_), _) => left.next(),
        (None, _) => right.next(),
    })
}

/// The first `limit` of these, and the last of them if there may be more.
fn step(keys: impl Iterator<Item = Cursor>, limit: usize) -> Listed {
    let keys: Vec<Cursor> = keys.take(limit).collect();
    let last = keys.last().copied().filter(|_| keys.len() == limit);
    let places = keys.into_iter().map(|(_, place)| Place::unpacked(place));
    let mut places: Vec<Place> = places.collect();
    // The outcome of a delivery may depend on the others of its message.
    places.sort_unstable();
    (places, last)
}

/// The greatest `limit` places, in memory proportional to `limit`.
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

#[cfg(test)]
mod tests;
