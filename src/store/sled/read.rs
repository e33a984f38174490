//! Reads for claims and queries, without the writer.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::index::line::Slot;
use super::index::table::Table;
use super::keys::{self, Place, Queue};
use super::leases::Lease;
use super::record::{self, Root, Trouble};
use super::stored;
use super::view::View;
use super::{Shared, lock};
use crate::model::delivery::Delivery;
use crate::model::message::{Conversation, Message, MessageId, Name, Timestamp};
use crate::store::{
    CLAIM_BYTES, Claim, DeliveryQuery, Error, Found, MessageState, Overdue, PAGE_BYTES, Page, Query, Queued,
};

/// The time after which one call stops reading records and returns its results with a cursor.
const SCAN_TIME: Duration = Duration::from_millis(150);

/// The number of records read between two checks of the time, so that even a slow machine makes progress.
const SCAN_STEP: usize = 256;

impl Shared {
    /// Blocks the queues of due deliveries for a claim.
    pub(super) fn hold_due(&self, destination: &Name, now: Timestamp, limit: usize) -> Vec<Slot> {
        let hold = |slot: &Slot| self.leases.hold(&slot.queue, slot.place);
        self.index.queues().take_due(destination, now, limit, hold)
    }

    /// Returns true if a claim of these deliveries needs nothing from the disk, as with messages that were just
    /// accepted.
    pub(super) fn are_recent(&self, slots: &[Slot]) -> bool {
        let threaded = lock(&self.threaded);
        slots.iter().all(|slot| {
            let needs_no_thread = || !threaded.contains(&slot.queue.destination);
            self.overlay.is_recent(&keys::message(slot.place.seq))
                && (needs_no_thread() || self.overlay.is_recent(&keys::thread(&slot.queue)))
        })
    }

    /// Leases deliveries whose queues are blocked.
    pub(super) fn lease(&self, slots: Vec<Slot>) -> Result<Vec<Claim>, Error> {
        let (mut claims, mut size) = (Vec::new(), 0);
        for slot in slots {
            if size >= CLAIM_BYTES {
                self.leases.free(&slot.queue);
                self.index.free(&[slot.queue]);
                continue;
            }
            let claim = self.claim_one(slot)?;
            size += claim.as_ref().map_or(0, |claim| claim.message.size());
            claims.extend(claim);
        }
        Ok(claims)
    }

    pub(super) fn claim_overdue(
        &self,
        destination: &Name,
        pending_since: &RangeInclusive<Timestamp>,
        limit: usize,
    ) -> Result<Vec<Overdue>, Error> {
        let hold = |slot: &Slot| self.leases.hold(&slot.queue, slot.place);
        let mut queues = self.index.queues();
        let slots = queues.take_overdue(destination, pending_since, limit, hold);
        drop(queues);
        let mut overdue = Vec::new();
        for slot in slots {
            let claim = self.claim_one(slot)?;
            overdue.extend(claim.map(|Claim { delivery, token, .. }| Overdue { delivery, token }));
        }
        Ok(overdue)
    }

    /// Leases deliveries behind a claimed one. Their leases block nothing: that of the first does.
    pub(super) fn claim_following(
        &self,
        claim: &Claim,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<Claim>, Error> {
        let Some(first) = self.leases.get(claim.token, claim.delivery.id) else {
            return Ok(Vec::new());
        };
        let following = self
            .index
            .queues()
            .following(&first.queue, first.place, now, limit);
        let (mut claims, mut size) = (Vec::new(), 0);
        for slot in following {
            if size >= CLAIM_BYTES || self.leases.token(slot.place).is_some() {
                break;
            }
            let Some(claim) = self.claim_one_as(slot, true)? else {
                break;
            };
            size += claim.message.size();
            claims.push(claim);
        }
        Ok(claims)
    }

    /// When the next unclaimed delivery is due; `now` if one is due already.
    pub(super) fn next_due(&self, destination: &Name, now: Timestamp) -> Option<Timestamp> {
        let is_free = |queue: &Queue| !self.leases.is_busy(queue);
        self.index.queues().next_due(destination, now, is_free)
    }

    /// Makes the next delivery in the queue of a claimed one available for claims, if there is one.
    pub(super) fn answered(&self, claim: &Claim) -> bool {
        let Some(lease) = self.leases.get(claim.token, claim.delivery.id) else {
            return false;
        };
        // The same lock order as in a claim: queues before leases.
        let mut queues = self.index.queues();
        let is_followed = queues.answer(&lease.queue, lease.place);
        // A second answer changes nothing: the next delivery may be claimed by now.
        if is_followed && !lease.is_answered {
            self.leases.answered(claim.token);
            queues.free(&lease.queue);
        }
        is_followed
    }

    /// The recipients among these that have pending deliveries of their own.
    pub(super) fn held(
        &self,
        destination: &Name,
        conversation: Conversation,
        recipients: &[String],
    ) -> Vec<String> {
        let queues = self.index.queues();
        let waits = |recipient: &&String| {
            queues.waits(&Queue {
                destination: destination.clone(),
                conversation: conversation.with(recipient),
            })
        };
        recipients.iter().filter(waits).cloned().collect()
    }

    /// The positions of the pending deliveries of a message.
    pub(super) fn queued(&self, id: MessageId) -> Result<Vec<Queued>, Error> {
        let Some((seq, found)) = self.find_with_seq(id)? else {
            return Ok(Vec::new());
        };
        let waiting = found.deliveries.iter().filter(|delivery| delivery.is_waiting());
        let queued = waiting.map(|delivery| self.queued_one(seq, &found.message, delivery));
        queued.filter_map(Result::transpose).collect()
    }

    fn queued_one(&self, seq: u64, message: &Message, delivery: &Delivery) -> Result<Option<Queued>, Error> {
        let place = Place {
            seq,
            ordinal: delivery.id.ordinal,
        };
        let queue = stored::queue(message, delivery);
        let Some((first, turn)) = self.index.queues().turn(&queue, place) else {
            return Ok(None);
        };
        let first = match first == place {
            true => None,
            false => self.sound(View::new(&self.overlay).delivery(first))?,
        };
        Ok(Some(Queued {
            id: delivery.id,
            claim: self.leases.token(place),
            behind: first.map(|first| first.id),
            turn,
        }))
    }

    pub(super) fn find(&self, id: MessageId) -> Result<Option<Found>, Error> {
        Ok(self.find_with_seq(id)?.map(|(_, found)| found))
    }

    fn find_with_seq(&self, id: MessageId) -> Result<Option<(u64, Found)>, Error> {
        let view = View::new(&self.overlay);
        let candidates = self.index.table().candidates(id);
        for seq in candidates {
            let found = self.sound(view.found(seq))?;
            if let Some(found) = found.filter(|found| found.message.id == id) {
                return Ok(Some((seq, found)));
            }
        }
        Ok(None)
    }

    pub(super) fn messages(&self, query: &Query) -> Result<Page<Found>, Error> {
        let sieve = self.index.table().sieve(query);
        let (mut items, mut size) = (Vec::new(), 0);
        let next = self.scan(
            query.cursor,
            |table, below| table.sift(below, &sieve),
            |view, seq| {
                if items.len() >= query.limit || size >= PAGE_BYTES {
                    return Ok(Some(seq + 1));
                }
                let kept = self.sound(view.kept(seq))?;
                if let Some(kept) = kept.filter(|kept| query.matches(&kept.message)) {
                    let found = self.sound(view.complete(seq, kept).map(Some))?;
                    let found = found.filter(|found| query.state.is_none_or(|state| found.is(state)));
                    size += found.as_ref().map_or(0, Found::size);
                    items.extend(found);
                }
                Ok(None)
            },
        )?;
        Ok(Page { items, next })
    }

    pub(super) fn deliveries(&self, query: &DeliveryQuery) -> Result<Page<Delivery>, Error> {
        let Some(destination) = &query.destination else {
            return self.all_deliveries(query);
        };
        let before = query.cursor.unwrap_or(u64::MAX);
        let queues = self.index.queues();
        let places = match query.state {
            Some(MessageState::Pending) => queues.waiting_before(destination, before, query.limit + 1),
            Some(MessageState::Dead) => queues.dead_before(destination, before, query.limit + 1),
            _ => {
                drop(queues);
                return self.all_deliveries(query);
            }
        };
        drop(queues);
        self.these_deliveries(&places, query)
    }

    /// The pending delivery of a destination whose message was accepted first.
    pub(super) fn oldest_pending(&self, destination: &Name) -> Result<Option<Delivery>, Error> {
        let first = self.index.queues().first_waiting(destination);
        let query = DeliveryQuery {
            destination: Some(destination.clone()),
            state: Some(MessageState::Pending),
            limit: 1,
            cursor: None,
        };
        let places: Vec<Place> = first.into_iter().collect();
        Ok(self.these_deliveries(&places, &query)?.items.pop())
    }

    /// Leases one delivery whose queue is blocked. If it cannot be read, its queue stays blocked, so that no later
    /// message overtakes it, until the next start recovers it.
    fn claim_one(&self, slot: Slot) -> Result<Option<Claim>, Error> {
        self.claim_one_as(slot, false)
    }

    /// Leases one delivery. `is_following`: the lease of an earlier one blocks its queue.
    fn claim_one_as(&self, slot: Slot, is_following: bool) -> Result<Option<Claim>, Error> {
        let Slot { place, queue, .. } = slot;
        let view = View::new(&self.overlay);
        let Some((delivery, message, parts)) = self.sound(view.waiting(place))? else {
            self.report(format!(
                "message {} cannot be read: its conversation is blocked at {} until the next start recovers it from the log",
                place.seq, queue.destination
            ));
            return Ok(None);
        };
        let thread = stored::thread(&message, &delivery.destination);
        let has_threads = lock(&self.threaded).contains(&delivery.destination);
        let root = match has_threads {
            true => self.sound(view.load::<Root>(&keys::thread(&thread)))?,
            false => None,
        };
        let lease = Lease {
            id: delivery.id,
            place,
            queue,
            pending_since: delivery.pending_since(),
            parts,
            is_answered: is_following,
        };
        let token = self.leases.grant(lease);
        Ok(Some(Claim {
            delivery,
            message: Arc::new(message),
            thread: root.map(|root| root.thread),
            token,
        }))
    }

    /// Visits the messages that `step` selects from the table, newest first, below the cursor. `visit` returns the
    /// cursor of the next page when this one is full. If the time of one call is used up, a cursor is returned even
    /// without results.
    fn scan(
        &self,
        cursor: Option<u64>,
        step: impl Fn(&Table, u64) -> (Vec<u64>, Option<u64>),
        mut visit: impl FnMut(&View<'_>, u64) -> Result<Option<u64>, Error>,
    ) -> Result<Option<u64>, Error> {
        let view = View::new(&self.overlay);
        let began = Instant::now();
        let mut looked_at = 0_usize;
        let mut below = cursor.unwrap_or(u64::MAX);
        loop {
            let (seqs, next) = step(&self.index.table(), below);
            for seq in seqs {
                looked_at += 1;
                if looked_at.is_multiple_of(SCAN_STEP) && began.elapsed() >= SCAN_TIME {
                    return Ok(Some(seq + 1));
                }
                if let Some(cursor) = visit(&view, seq)? {
                    return Ok(Some(cursor));
                }
            }
            match next {
                Some(next) => below = next,
                None => return Ok(None),
            }
        }
    }

    fn all_deliveries(&self, query: &DeliveryQuery) -> Result<Page<Delivery>, Error> {
        let mut items = Vec::new();
        let mut full = None;
        let above = query.cursor.map(|cursor| Place::unpacked(cursor).seq + 1);
        let next = self.scan(
            above,
            |table, below| table.with_delivery(below, query.state),
            |view, seq| {
                let found = self.sound(view.found(seq))?;
                let deliveries = found.into_iter().flat_map(|found| found.deliveries).rev();
                for delivery in deliveries.filter(|delivery| query.matches(delivery)) {
                    let ordinal = delivery.id.ordinal;
                    let position = Place { seq, ordinal }.packed();
                    if query.cursor.is_some_and(|cursor| position >= cursor) {
                        continue;
                    }
                    if items.len() >= query.limit {
                        full = Some(position + 1);
                        return Ok(full);
                    }
                    items.push(delivery);
                }
                Ok(None)
            },
        )?;
        Ok(Page {
            items,
            next: full.or(next.map(|seq| seq << 16)),
        })
    }

    /// The deliveries at these places, newest first. One place more than requested means that there is a next page.
    fn these_deliveries(&self, places: &[Place], query: &DeliveryQuery) -> Result<Page<Delivery>, Error> {
        let view = View::new(&self.overlay);
        let mut items = Vec::new();
        for &place in places.iter().take(query.limit) {
            let delivery = self.sound(view.delivery(place))?;
            items.extend(delivery.filter(|delivery| query.matches(delivery)));
        }
        let next = places.get(query.limit).map(|place| place.packed() + 1);
        Ok(Page { items, next })
    }

    /// A state that a run stores for the next one. One that is damaged or of another version is ignored: the next
    /// observation replaces it.
    pub(super) fn state<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, Error> {
        match record::load(&self.overlay, key) {
            Err(Trouble::Damaged) => Ok(None),
            loaded => self.sound(loaded),
        }
    }

    /// Treats a damaged record as missing, and reports it.
    pub(super) fn sound<T>(&self, loaded: Result<Option<T>, Trouble>) -> Result<Option<T>, Error> {
        match loaded {
            Ok(loaded) => Ok(loaded),
            Err(Trouble::Damaged) => {
                self.report("found a damaged record: the next start rebuilds the database from the log");
                Ok(None)
            }
            Err(Trouble::Sled(error)) => Err(self.broken(&error)),
        }
    }

    /// A database that cannot be read is a failure of the store: the next start recovers what is readable.
    fn broken(&self, error: &::sled::Error) -> Error {
        self.status.fail(&format!("a read failed: {error}"))
    }
}
