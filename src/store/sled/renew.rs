//! Renewing the log: appends the pending messages again in their current state, so that older segments can be
//! removed.
//!
//! A renewal begins with a new segment and reads the pending messages in small steps, between other batches; messages
//! that arrive meanwhile are in the new segments anyway. At its end, everything pending is in the log from the first
//! frame of the renewal on. A renewal is made when the log has grown to more than twice its size after the last one,
//! so that a backlog is only written again after as much else was written; after damage of the log; and for a store
//! that had no log before.
//!
//! A message whose deliveries had all ended and that becomes pending again is appended together with that change.

use super::keys;
use super::lock;
use super::record::{self, Kept, Lookup as _, Trouble};
use super::stored::thread;
use super::write_batch::WriteBatch;
use crate::model::delivery::Delivery;
use crate::store::Error;

/// Messages per step, and the size in bytes at which a step ends.
const STEP: usize = 200;
const STEP_BYTES: usize = 512 << 10;

/// The range of a renewal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Renewal {
    /// The first frame of its first segment.
    pub(super) first: u64,
    /// The last message to check.
    last: u64,
}

impl WriteBatch<'_> {
    /// Begins a new segment, and appends the small records that must not be missing.
    pub(super) fn begin_renewal(&mut self) -> Result<Renewal, Error> {
        self.space.for_anything()?;
        self.is_new_segment = true;
        for destination in lock(&self.shared.paused).iter() {
            self.carried
                .insert(keys::paused(destination).into(), Some((&[]).into()));
        }
        self.carry_record(keys::TIMELINE)?;
        self.carry_record(keys::STANDINGS)?;
        let last = self.counters.ledger.counts.accepted;
        Ok(Renewal {
            first: self.frame,
            last,
        })
    }

    /// Appends the next pending messages after this sequence number. Returns the last one checked; `None` if there
    /// are no more.
    pub(super) fn renew(&mut self, renewal: Renewal, after: u64) -> Result<Option<u64>, Error> {
        self.space.for_anything()?;
        let seqs = self.shared.index.table().waiting(after, renewal.last, STEP);
        let mut bytes = 0;
        for &seq in &seqs {
            bytes += self.carry(seq)?;
            if bytes > STEP_BYTES {
                return Ok(Some(seq));
            }
        }
        Ok(seqs.last().copied().filter(|_| seqs.len() == STEP))
    }

    /// Appends a message to the log with its deliveries and their threads. Returns the size in bytes.
    ///
    /// A damaged message fails the store: the log still has the original, and must not be shortened before the next
    /// start has rebuilt the database.
    pub(super) fn carry(&mut self, seq: u64) -> Result<usize, Error> {
        let key = keys::message(seq);
        let Some(kept) = self.view.load::<Kept>(&key)? else {
            return Ok(0);
        };
        let mut bytes = self.carry_record(&key)?;
        let changed = self
            .view
            .page(&keys::deliveries(seq), None, usize::from(u16::MAX))
            .map_err(Trouble::from)?;
        let mut deliveries = kept.deliveries;
        for (key, value) in changed {
            bytes += self.carry_record(&key)?;
            deliveries.push(record::decode::<Delivery>(&self.view, &key, &value)?);
        }
        for delivery in deliveries.iter().filter(|delivery| delivery.is_waiting()) {
            bytes += self.carry_record(&keys::thread(&thread(&kept.message, &delivery.destination)))?;
        }
        Ok(bytes)
    }

    fn carry_record(&mut self, key: &[u8]) -> Result<usize, Error> {
        let mut bytes = 0;
        let mut parts = 0;
        if let Some(value) = self.view.lookup(key).map_err(Trouble::from)? {
            parts = record::more_parts(&value);
            bytes += key.len() + value.len();
            self.carried.insert(key.into(), Some(value));
        }
        for key in (1..=parts).map(|number| keys::part(key, number)) {
            if let Some(value) = self.view.lookup(&key).map_err(Trouble::from)? {
                bytes += key.len() + value.len();
                self.carried.insert(key.into(), Some(value));
            }
        }
        Ok(bytes)
    }
}
