//! Reading: claims, and what operators ask for. None of it goes through the writer.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::keys::{self, Place, Slot};
use super::leases::Lease;
use super::prune::CLOCK_SLACK;
use super::record::{self, Kept, Root, Trouble};
use super::view::View;
use super::{Shared, lock};
use crate::delivery::{Delivery, State};
use crate::message::{MessageId, Name, Timestamp};
use crate::store::{Claim, DeliveryQuery, Error, Found, MessageState, Page, Query};

/// How many records one call looks at, and for how long, before it gives what it has, and a cursor.
const SCAN_MAX: usize = 100_000;
const SCAN_TIME: Duration = Duration::from_millis(150);

impl Shared {
    pub(super) fn claim(
        &self,
        destination: &Name,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<Claim>, Error> {
        let mut claims = Vec::new();
        for slot in self.slots(destination) {
            let slot = slot?;
            if claims.len() == limit || slot.due > now {
                break;
            }
            claims.extend(self.claim_one(slot)?);
        }
        Ok(claims)
    }

    /// When the first delivery is due that nobody is at work on.
    pub(super) fn next_due(&self, destination: &Name) -> Result<Option<Timestamp>, Error> {
        for slot in self.slots(destination) {
            let slot = slot?;
            if !self.leases.is_busy(&slot.queue) {
                return Ok(Some(slot.due));
            }
        }
        Ok(None)
    }

    pub(super) fn find(&self, id: MessageId) -> Result<Option<Found>, Error> {
        let view = View::new(&self.db);
        let Some(seq) = self.sound(view.seq(id))? else {
            return Ok(None);
        };
        let found = self.sound(view.found(seq))?;
        Ok(found.filter(|found| found.message.id == id))
    }

    pub(super) fn messages(&self, query: &Query) -> Result<Page<Found>, Error> {
        let mut items = Vec::new();
        let newest = query.until.map(|until| self.first_after(until)).transpose()?;
        let above = query.cursor.into_iter().chain(newest).min();
        let next = self.scan(above, |view, seq, kept| {
            if items.len() >= query.limit {
                return Ok(ControlFlow::Break(seq.checked_add(1)));
            }
            if query
                .since
                .is_some_and(|since| kept.message.received_at.after(CLOCK_SLACK) < since)
            {
                return Ok(ControlFlow::Break(None));
            }
            if query.matches(&kept.message) {
                let found = self.sound(view.complete(seq, kept).map(Some))?;
                items.extend(found.filter(|found| query.state.is_none_or(|state| found.is(state))));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(Page { items, next })
    }

    pub(super) fn deliveries(&self, query: &DeliveryQuery) -> Result<Page<Delivery>, Error> {
        match (&query.destination, query.state) {
            (Some(destination), Some(MessageState::Dead)) => self.dead(destination, query),
            _ => self.all_deliveries(query),
        }
    }

    /// The schedule of a destination, by due time.
    fn slots(&self, destination: &Name) -> impl Iterator<Item = Result<Slot, Error>> {
        let entries = self.db.scan_prefix(keys::of(keys::SCHEDULE, destination)).keys();
        entries.filter_map(|key| match key {
            Ok(key) => keys::slot_of(&key).map(Ok),
            Err(error) => Some(Err(self.broken(&error))),
        })
    }

    /// Leases one delivery, unless its queue is at work.
    ///
    /// The schedule entry is looked up again once the queue is held: what was read before may have been
    /// settled by a commit that ended in between. A delivery that cannot be read keeps its queue held, so
    /// that nothing overtakes it, until the next start sets it aside.
    fn claim_one(&self, slot: Slot) -> Result<Option<Claim>, Error> {
        let Slot { due, place, queue } = slot;
        if !self.leases.hold(&queue, place) {
            return Ok(None);
        }
        let view = View::new(&self.db);
        let current = view
            .has(&keys::schedule(&queue, due, place))
            .map_err(|error| self.broken(&error))?;
        if !current {
            self.leases.free(&queue);
            return Ok(None);
        }
        let Some((delivery, message)) = self.sound(view.with_message(place))? else {
            self.status.find(format!(
                "text {} cannot be read: its conversation waits at {} until the next start sets it aside",
                place.seq, queue.destination
            ));
            return Ok(None);
        };
        let root = self.sound(view.load::<Root>(&keys::thread(&queue)))?;
        let lease = Lease {
            id: delivery.id,
            place,
            queue,
            created_at: delivery.created_at,
        };
        let token = self.leases.grant(lease);
        Ok(Some(Claim {
            delivery,
            message: Arc::new(message),
            thread: root.map(|root| root.thread),
            token,
        }))
    }

    /// Goes through the messages, newest first, from below the cursor; `visit` says whether to go on, or which
    /// cursor to give. Nothing found within the bounds of one call still leaves a cursor to go on from.
    fn scan(
        &self,
        cursor: Option<u64>,
        mut visit: impl FnMut(&View<'_>, u64, Kept) -> Result<ControlFlow<Option<u64>>, Error>,
    ) -> Result<Option<u64>, Error> {
        let view = View::new(&self.db);
        let end = cursor.map_or_else(|| keys::end(&[keys::MESSAGE]), keys::message);
        let began = Instant::now();
        for (looked_at, entry) in self.db.range(keys::message(0)..end).rev().enumerate() {
            let (key, value) = entry.map_err(|error| self.broken(&error))?;
            let Some(seq) = keys::seq_of(&key) else { continue };
            let late = looked_at > 0 && looked_at % 256 == 0 && began.elapsed() >= SCAN_TIME;
            if late || looked_at == SCAN_MAX {
                return Ok(seq.checked_add(1));
            }
            let Some(kept) = self.sound(record::decode::<Kept>(&view, &key, &value).map(Some))? else {
                continue;
            };
            if let ControlFlow::Break(cursor) = visit(&view, seq, kept)? {
                return Ok(cursor);
            }
        }
        Ok(None)
    }

    /// From this place on all messages were received after `until`, however wrong the clock was. Found by
    /// halving, so that a search in the past does not read the present.
    fn first_after(&self, until: Timestamp) -> Result<u64, Error> {
        let view = View::new(&self.db);
        let until = until.after(CLOCK_SLACK);
        let (mut low, mut high) = (0, lock(&self.books).ledger.counts.accepted.saturating_add(1));
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = self.db.range(keys::message(middle)..keys::message(high)).next();
            let Some((key, value)) = entry.transpose().map_err(|error| self.broken(&error))? else {
                high = middle;
                continue;
            };
            let kept = self.sound(record::decode::<Kept>(&view, &key, &value).map(Some))?;
            match (keys::seq_of(&key), kept) {
                (_, Some(kept)) if kept.message.received_at >= until => high = middle,
                (seq, _) => low = seq.unwrap_or(middle).max(middle) + 1,
            }
        }
        Ok(high)
    }

    fn all_deliveries(&self, query: &DeliveryQuery) -> Result<Page<Delivery>, Error> {
        let mut items = Vec::new();
        let mut full = None;
        let above = query.cursor.map(|cursor| place_of(cursor).seq.saturating_add(1));
        let next = self.scan(above, |view, seq, kept| {
            let Some(found) = self.sound(view.complete(seq, kept).map(Some))? else {
                return Ok(ControlFlow::Continue(()));
            };
            for delivery in found.deliveries.into_iter().rev() {
                let position = cursor_of(Place {
                    seq,
                    ordinal: delivery.id.ordinal,
                });
                if query.cursor.is_some_and(|cursor| position >= cursor) || !query.matches(&delivery) {
                    continue;
                }
                if items.len() >= query.limit {
                    full = position.checked_add(1);
                    return Ok(ControlFlow::Break(None));
                }
                items.push(delivery);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(Page {
            items,
            next: full.or(next.map(|seq| seq << 16)),
        })
    }

    /// Dead deliveries have an index of their own: they are what operators look for.
    fn dead(&self, destination: &Name, query: &DeliveryQuery) -> Result<Page<Delivery>, Error> {
        let view = View::new(&self.db);
        let mut items = Vec::new();
        let prefix = keys::of(keys::DEAD, destination);
        let end = query.cursor.map_or_else(
            || keys::end(&prefix),
            |cursor| keys::dead(destination, place_of(cursor)),
        );
        for key in self.db.range(prefix..end).keys().rev() {
            let key = key.map_err(|error| self.broken(&error))?;
            let Some(place) = keys::place_of(&key) else {
                continue;
            };
            if items.len() >= query.limit {
                return Ok(Page {
                    items,
                    next: cursor_of(place).checked_add(1),
                });
            }
            let delivery = self.sound(view.delivery(place))?;
            items.extend(delivery.filter(|delivery| matches!(delivery.state, State::Dead { .. })));
        }
        Ok(Page { items, next: None })
    }

    /// What can be read. What is damaged is as good as not there, but does not stay unsaid.
    pub(super) fn sound<T>(&self, loaded: Result<Option<T>, Trouble>) -> Result<Option<T>, Error> {
        match loaded {
            Ok(loaded) => Ok(loaded),
            Err(Trouble::Damaged) => {
                self.status
                    .find("a damaged record was met: the next start sets it aside".to_owned());
                Ok(None)
            }
            Err(Trouble::Sled(error)) => Err(self.broken(&error)),
        }
    }

    /// A tree that cannot be read is a failed store: the next start saves what can be saved.
    fn broken(&self, error: &::sled::Error) -> Error {
        self.status.fail(&format!("a read failed: {error}"))
    }
}

/// A position in the list of all deliveries: places in one number.
fn cursor_of(place: Place) -> u64 {
    place.seq << 16 | u64::from(place.ordinal)
}

fn place_of(cursor: u64) -> Place {
    Place {
        seq: cursor >> 16,
        ordinal: (cursor & 0xFFFF) as u16,
    }
}
