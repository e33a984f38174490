//! The changes: the effect of each writing operation on the batch that is being built.
//!
//! They run on the writer's thread, one after the other, and each sees the effects of the previous ones. Each reads
//! everything that it needs before it changes anything, so that a rejected change has no effect.

use std::collections::HashSet;

use super::changes::Changes;
use super::disk_space::DiskSpace;
use super::index::IndexUpdate;
use super::index::counters::Uncommitted;
use super::index::dedup_index::DedupIndex;
use super::index::line::Times;
use super::index::row::Row;
use super::index::table::Draft;
use super::keys::{self, Digest, Place, Queue};
use super::leases::Lease;
use super::record::{Kept, Root, Seen, Trouble};
use super::stored;
use super::view::View;
use super::{Shared, lock};
use crate::metrics::series::Saved;
use crate::model::delivery::{Delivery, DeliveryId, State};
use crate::model::message::{Conversation, MessageId, Name, Timestamp};
use crate::model::notices::Notices;
use crate::store::acknowledge::covered;
use crate::store::{Acceptance, Error, Settlement, Standings, backup, changed_at, is_new};
use crate::timeline::Timeline;

/// The number of entries that one step of a long operation reads, so that messages are accepted in between.
pub(super) const STEP: usize = 500;

/// The progress of pruning.
pub(super) enum Sweep {
    /// Messages with a higher sequence number than this.
    Messages(u64),
    /// Provider ids, then threads, after this key.
    Records(u8, Option<Vec<u8>>),
}

impl Default for Sweep {
    fn default() -> Self {
        Self::Messages(0)
    }
}

/// Changes that will be committed together.
pub(super) struct WriteBatch<'a> {
    pub(super) shared: &'a Shared,
    pub(super) view: View<'a>,
    pub(super) space: &'a DiskSpace,
    pub(super) sweep: &'a mut Sweep,
    pub(super) dedup_index: &'a mut DedupIndex,
    /// The number of the frame that will contain these changes.
    pub(super) frame: u64,
    /// Entries that are in the database and are appended to the log again.
    pub(super) carried: Changes,
    /// Whether the frame begins a new segment of the log.
    pub(super) is_new_segment: bool,
    /// The counters after this commit.
    pub(super) counters: Uncommitted,
    /// The updates of the indexes, to be applied after the commit.
    pub(super) updates: Vec<IndexUpdate>,
    /// Queues that cannot be claimed until the commit.
    pub(super) reserved: Vec<Queue>,
    /// Queues that are released by this commit.
    pub(super) settled: Vec<Queue>,
    /// Messages with a delivery that became dead in this batch, which the index does not show yet.
    pub(super) dying: HashSet<u64>,
}

/// A new message, encoded by its caller to relieve the writer.
pub(super) struct Incoming {
    pub(super) conversation: Conversation,
    /// The digest of its provider id; `None` if it has none.
    pub(super) digest: Option<Digest>,
    pub(super) dedup_since: Timestamp,
    pub(super) payload: Vec<u8>,
    pub(super) draft: Box<Draft>,
    pub(super) deliveries: Vec<Delivery>,
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Sled(error) => Self::Failed(error.to_string()),
            // The next start finds the record, sets the database aside and rebuilds it.
            Trouble::Damaged => Self::Failed("a record is damaged".to_owned()),
        }
    }
}

impl<'a> WriteBatch<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        frame: u64,
        space: &'a DiskSpace,
        sweep: &'a mut Sweep,
        dedup_index: &'a mut DedupIndex,
    ) -> Self {
        Self {
            shared,
            view: View::of(&shared.overlay, frame),
            frame,
            carried: Changes::new(),
            is_new_segment: false,
            space,
            sweep,
            dedup_index,
            counters: lock(&shared.counters).begin(),
            updates: Vec::new(),
            reserved: Vec::new(),
            settled: Vec::new(),
            dying: HashSet::new(),
        }
    }

    pub(super) fn accept(&mut self, incoming: Incoming) -> Result<Acceptance, Error> {
        if let Some(seen) = self.seen(&incoming)? {
            return Ok(Acceptance::Duplicate(seen));
        }
        self.space.for_arrivals()?;
        self.counters.ledger.counts.accepted += 1;
        let seq = self.counters.ledger.counts.accepted;
        let Incoming {
            conversation,
            digest,
            payload,
            draft,
            deliveries,
            ..
        } = incoming;
        self.view.create(&keys::message(seq), &payload);
        if let Some(digest) = digest {
            self.dedup_index.add(digest, seq);
        }
        self.updates.push(IndexUpdate::Message { seq, draft });
        for delivery in deliveries {
            let queue = Queue {
                destination: delivery.destination.clone(),
                conversation: delivery.queue(conversation),
            };
            let place = Place {
                seq,
                ordinal: delivery.id.ordinal,
            };
            self.begin(queue, place, &delivery);
        }
        Ok(Acceptance::New)
    }

    /// The lease is ended after everything else that can fail, so that a rejected outcome can be recorded later.
    ///
    /// `record` is the encoded delivery: its caller encodes it to relieve the writer.
    pub(super) fn settle(&mut self, settlement: Settlement, record: &[u8]) -> Result<Vec<DeliveryId>, Error> {
        let Settlement {
            token,
            delivery,
            follow_ups,
            thread,
        } = settlement;
        self.space.for_anything()?;
        let has_ended = !delivery.is_waiting() || follow_ups.iter().any(|follow_up| !follow_up.is_waiting());
        let may_cover = has_ended && self.may_cover(token, &delivery);
        let is_alone = delivery.recipient.is_none() && !may_cover;
        let kept = match follow_ups.is_empty() && is_alone {
            true => None,
            false => Some(self.claimed(token, delivery.id)?),
        };
        let follow_ups = match &kept {
            Some(kept) if !follow_ups.is_empty() => self.new_ones(token, &delivery, kept, follow_ups)?,
            _ => follow_ups,
        };
        let lease = self
            .shared
            .leases
            .end(token, delivery.id)
            .ok_or(Error::LostClaim)?;
        if !lease.is_answered {
            self.settled.push(lease.queue.clone());
        }
        let Lease {
            place,
            queue,
            pending_since,
            parts,
            ..
        } = lease;
        self.view.replace(&keys::delivery(place), parts, record);
        let next = match &kept {
            Some(kept) => stored::queue(&kept.message, &delivery),
            None => queue.clone(),
        };
        match delivery.state {
            State::Waiting { due } if next == queue => self.updates.push(IndexUpdate::Due {
                queue: next,
                place,
                times: Times::new(due, &delivery),
            }),
            _ => {
                let queue = queue.clone();
                self.updates.push(IndexUpdate::Ended { queue, place });
                self.list(next, place, &delivery);
            }
        }
        self.counters.leave_pending(&queue.destination, pending_since);
        self.counters.enter(&delivery);
        if let Some(thread) = thread {
            lock(&self.shared.threaded).insert(delivery.destination.clone());
            let root = Root {
                thread,
                at: changed_at(&delivery),
            };
            let queue = kept
                .as_ref()
                .map_or(queue, |kept| stored::thread(&kept.message, &delivery.destination));
            self.view
                .store(&keys::thread(&queue), &root)
                .map_err(Trouble::from)?;
        }
        let Some(kept) = kept else {
            return Ok(Vec::new());
        };
        let conversation = kept.message.conversation();
        let added = follow_ups
            .into_iter()
            .map(|follow_up| self.add(place.seq, &kept, conversation, follow_up));
        let added = added.collect::<Result<_, _>>()?;
        if has_ended {
            self.cover(place.seq, kept, changed_at(&delivery))?;
        }
        Ok(added)
    }

    /// Returns false if the end of a claimed delivery cannot make up for a dead one of its message, as with the first
    /// delivery of most messages, which then are not read.
    fn may_cover(&self, token: u64, delivery: &Delivery) -> bool {
        let seq = match self.shared.leases.get(token, delivery.id) {
            Some(lease) => lease.place.seq,
            None => return false,
        };
        let table = self.shared.index.table();
        let has_dead = || table.get(seq).is_some_and(Row::may_be_dead);
        delivery.origin.is_some() || delivery.is_dead() || self.dying.contains(&seq) || has_dead()
    }

    /// Acknowledges the dead deliveries of a message that another one made up for.
    fn cover(&mut self, seq: u64, kept: Kept, at: Timestamp) -> Result<(), Error> {
        let found = self.shared.sound(self.view.complete(seq, kept).map(Some))?;
        let deliveries = found.map(|found| found.deliveries).unwrap_or_default();
        let covered = covered(&deliveries, at);
        for new in covered {
            let ordinal = new.id.ordinal;
            let place = Place { seq, ordinal };
            if let Some(old) = deliveries.iter().find(|old| old.id == new.id) {
                self.updates.push(IndexUpdate::Covered { place });
                self.replace(place, old, &new)?;
            }
        }
        Ok(())
    }

    /// The follow-ups, without fallbacks whose destination has the message. Deliveries of the message that cannot be
    /// read are ignored.
    fn new_ones(
        &self,
        token: u64,
        delivery: &Delivery,
        kept: &Kept,
        follow_ups: Vec<Delivery>,
    ) -> Result<Vec<Delivery>, Error> {
        let lease = self.shared.leases.get(token, delivery.id);
        let lease = lease.ok_or(Error::LostClaim)?;
        let found = self.view.complete(lease.place.seq, kept.clone()).map(Some);
        let mut there = self
            .shared
            .sound(found)?
            .map(|found| found.deliveries)
            .unwrap_or_default();
        // The delivery with this outcome, which is not written yet.
        let own = there.iter_mut().filter(|there| there.id == delivery.id);
        own.for_each(|own| *own = delivery.clone());
        let mut new = Vec::new();
        for follow_up in follow_ups {
            if is_new(&follow_up, &there) {
                there.push(follow_up.clone());
                new.push(follow_up);
            }
        }
        Ok(new)
    }

    /// The message of a claimed delivery. If it cannot be read, the lease stays, so that no later message overtakes
    /// it, until the next start recovers it.
    fn claimed(&self, token: u64, id: DeliveryId) -> Result<Kept, Error> {
        let place = self.shared.leases.get(token, id).ok_or(Error::LostClaim)?.place;
        let kept = self.shared.sound(self.view.kept(place.seq))?;
        kept.ok_or(Error::NotFound)
    }

    pub(super) fn add_deliveries(
        &mut self,
        id: MessageId,
        deliveries: Vec<Delivery>,
    ) -> Result<Vec<DeliveryId>, Error> {
        self.space.for_arrivals()?;
        let (seq, kept) = self.by_id(id)?.ok_or(Error::NotFound)?;
        let conversation = kept.message.conversation();
        self.carry(seq)?;
        deliveries
            .into_iter()
            .map(|delivery| self.add(seq, &kept, conversation, delivery))
            .collect()
    }

    /// The message with this id, if it is stored.
    pub(super) fn by_id(&self, id: MessageId) -> Result<Option<(u64, Kept)>, Error> {
        let candidates = self.shared.index.table().candidates(id);
        for seq in candidates {
            let kept = self.shared.sound(self.view.kept(seq))?;
            if let Some(kept) = kept.filter(|kept| kept.message.id == id) {
                return Ok(Some((seq, kept)));
            }
        }
        Ok(None)
    }

    pub(super) fn set_paused(&mut self, destination: Name, paused: bool) -> Result<(), Error> {
        self.space.for_anything()?;
        let key = keys::paused(&destination);
        let mut all = lock(&self.shared.paused);
        if paused {
            self.view.put(key, &[]);
            all.insert(destination);
        } else {
            self.view.remove(key);
            all.remove(&destination);
        }
        Ok(())
    }

    pub(super) fn set_timeline(&mut self, timeline: &Timeline) -> Result<(), Error> {
        self.space.for_anything()?;
        self.view
            .store(keys::TIMELINE, timeline)
            .map_err(|error| Trouble::from(error).into())
    }

    pub(super) fn set_series(&mut self, series: &Saved) -> Result<(), Error> {
        self.space.for_anything()?;
        self.view
            .store(keys::SERIES, series)
            .map_err(|error| Trouble::from(error).into())
    }

    pub(super) fn set_notices(&mut self, notices: &Notices) -> Result<(), Error> {
        self.space.for_anything()?;
        self.view
            .store(keys::NOTICES, notices)
            .map_err(|error| Trouble::from(error).into())
    }

    pub(super) fn set_standings(&mut self, standings: &Standings) -> Result<(), Error> {
        self.space.for_anything()?;
        self.view
            .store(keys::STANDINGS, standings)
            .map_err(|error| Trouble::from(error).into())
    }

    /// The last message with this provider id, unless it is outside the window or was damaged and set aside: then the
    /// carrier's repetition restores the message.
    fn seen(&self, incoming: &Incoming) -> Result<Option<MessageId>, Error> {
        let Some(digest) = incoming.digest else {
            return Ok(None);
        };
        let mut last: Option<Seen> = None;
        for seq in self.dedup_index.candidates(digest) {
            let Some(Kept { message, .. }) = self.shared.sound(self.view.kept(seq))? else {
                continue;
            };
            let is_last = last.is_none_or(|last| last.seq < seq);
            if is_last && backup::digest(&message.source, &message.provider_id) == digest {
                let (id, received_at) = (message.id, message.received_at);
                last = Some(Seen { seq, id, received_at });
            }
        }
        // A later message may have been removed while an earlier one still has pending deliveries.
        if let Some(gone) = self.remembered(digest)?
            && last.is_none_or(|last| last.seq < gone.seq)
        {
            last = Some(gone);
        }
        let within = last.filter(|seen| seen.received_at >= incoming.dedup_since);
        Ok(within.map(|seen| seen.id))
    }

    /// The last removed message with this provider id.
    pub(super) fn remembered(&self, digest: Digest) -> Result<Option<Seen>, Error> {
        if self.dedup_index.on_disk == 0 {
            return Ok(None);
        }
        self.shared.sound(self.view.load(&keys::seen(digest)))
    }

    /// Adds a delivery to a stored message.
    pub(super) fn add(
        &mut self,
        seq: u64,
        kept: &Kept,
        conversation: Conversation,
        mut delivery: Delivery,
    ) -> Result<DeliveryId, Error> {
        let ordinal = self.view.next_ordinal(seq, kept)?;
        delivery.id = DeliveryId {
            message: kept.message.id,
            ordinal,
        };
        let place = Place { seq, ordinal };
        self.view
            .store(&keys::delivery(place), &delivery)
            .map_err(Trouble::from)?;
        let queue = Queue {
            destination: delivery.destination.clone(),
            conversation: delivery.queue(conversation),
        };
        self.begin(queue, place, &delivery);
        Ok(delivery.id)
    }

    /// Counts and schedules a new delivery.
    fn begin(&mut self, queue: Queue, place: Place, delivery: &Delivery) {
        self.list(queue, place, delivery);
        self.counters.ledger.counts.created += 1;
        self.counters.enter(delivery);
    }

    /// Adds a delivery to the indexes.
    pub(super) fn list(&mut self, queue: Queue, place: Place, delivery: &Delivery) {
        if delivery.is_dead() {
            self.dying.insert(place.seq);
        }
        self.updates.push(IndexUpdate::delivery(queue, place, delivery));
    }

    pub(super) fn replace(&mut self, place: Place, old: &Delivery, new: &Delivery) -> Result<(), Error> {
        self.view
            .store(&keys::delivery(place), new)
            .map_err(Trouble::from)?;
        self.counters.leave(old);
        self.counters.enter(new);
        Ok(())
    }
}
