//! Renewing the log: what is pending is appended again as it stands, so that older segments may go.
//!
//! A renewal begins with a new segment and goes through the pending messages in small steps, between the groups that
//! come in; messages that come meanwhile are in the new segments already. When it has come to the end, all that is
//! pending is in the log from its first frame on. One is made when the log has grown to more than twice what
//! the last one left, so that a backlog is written again only after as much else was; after damage to the log; and for a
//! store that never had one.
//!
//! A message that is to be delivered after all, although all its deliveries had ended, is renewed with the change.

use super::change::Group;
use super::keys;
use super::lock;
use super::record::{self, Kept, Lookup as _, Trouble};
use super::stored::thread;
use crate::delivery::Delivery;
use crate::store::Error;

/// How many messages one step looks at, and after how many bytes it ends.
const STEP: usize = 200;
const STEP_BYTES: usize = 512 << 10;

/// Where a renewal begins and ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Renewal {
    /// The first frame of its first segment.
    pub(super) first: u64,
    /// The last message that it has to look at.
    last: u64,
}

impl Group<'_> {
    /// Begins a new segment. What is small and must not be missing goes along at once.
    pub(super) fn begin_renewal(&mut self) -> Result<Renewal, Error> {
        self.space.for_anything()?;
        self.is_new_segment = true;
        for destination in lock(&self.shared.paused).iter() {
            self.carried
                .insert(keys::paused(destination).into(), Some((&[]).into()));
        }
        self.carry_record(keys::TIMELINE)?;
        self.carry_record(keys::STANDINGS)?;
        let last = lock(&self.shared.books).ledger.counts.accepted;
        Ok(Renewal {
            first: self.frame,
            last,
        })
    }

    /// Appends the next few pending messages behind the one with this number. Says how far it came; nothing when
    /// there are no more.
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

    /// Appends a message to the log with its deliveries, and the threads they belong to. Says how many bytes that is.
    ///
    /// A damaged one fails the store: the log has it as it was, and must not be shortened before the next start has
    /// built the database anew.
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
