//! Retention: removes and redacts messages in limited steps, so that messages are accepted in between.

use super::index::IndexUpdate;
use super::keys::{self, Place};
use super::record;
use super::record::{Kept, Root, Seen, Trouble};
use super::write_batch::{STEP, Sweep, WriteBatch};
use crate::model::delivery::{Delivery, State};
use crate::model::message::{Message, Timestamp};
use crate::store::{Error, Found, RetentionCutoffs, backup, redacted};

impl WriteBatch<'_> {
    /// Performs one step. Returns true if there is more to do.
    pub(super) fn prune(&mut self, cutoffs: &RetentionCutoffs, now: Timestamp) -> Result<bool, Error> {
        self.space.for_anything()?;
        *self.sweep = match std::mem::take(self.sweep) {
            Sweep::Messages(after) => self.prune_messages(after, cutoffs, now)?,
            Sweep::Records(tag, after) => self.prune_records(tag, after, cutoffs)?,
        };
        Ok(!matches!(self.sweep, Sweep::Messages(0)))
    }

    fn prune_messages(
        &mut self,
        after: u64,
        cutoffs: &RetentionCutoffs,
        now: Timestamp,
    ) -> Result<Sweep, Error> {
        let seqs = self.shared.index.table().ended(after, cutoffs, STEP);
        for &seq in &seqs {
            self.prune_message(seq, cutoffs, now)?;
        }
        match seqs.last() {
            Some(&last) if seqs.len() == STEP => Ok(Sweep::Messages(last)),
            _ => {
                self.prune_dedup_index(cutoffs);
                Ok(Sweep::Records(keys::SEEN, None))
            }
        }
    }

    fn prune_records(
        &mut self,
        tag: u8,
        after: Option<Vec<u8>>,
        cutoffs: &RetentionCutoffs,
    ) -> Result<Sweep, Error> {
        let entries = self
            .view
            .page(&[tag], after.as_deref(), STEP)
            .map_err(Trouble::from)?;
        for (key, value) in &entries {
            match tag {
                keys::SEEN => self.prune_seen(key, value, cutoffs)?,
                _ => self.prune_thread(key, value, cutoffs)?,
            }
        }
        Ok(match (entries.last(), tag) {
            (Some((last, _)), tag) if entries.len() == STEP => Sweep::Records(tag, Some(last.to_vec())),
            (_, keys::SEEN) => Sweep::Records(keys::THREAD, None),
            _ => Sweep::default(),
        })
    }

    fn prune_message(&mut self, seq: u64, cutoffs: &RetentionCutoffs, now: Timestamp) -> Result<(), Error> {
        let Some(kept) = self.shared.sound(self.view.kept(seq))? else {
            return Ok(());
        };
        let found = self.view.complete(seq, kept.clone()).map(Some);
        let Some(found) = self.shared.sound(found)? else {
            return Ok(());
        };
        if found.deliveries.iter().any(Delivery::is_waiting) {
            return Ok(());
        }
        let received_at = kept.message.received_at;
        let is_before = |moment: Option<Timestamp>| moment.is_some_and(|moment| received_at < moment);
        if is_before(cutoffs.purge_before) {
            self.purge(seq, &found, cutoffs)
        } else if kept.message.redacted_at.is_none() && is_before(cutoffs.redact_before) {
            self.redact(seq, kept, now)
        } else {
            Ok(())
        }
    }

    /// A provider id is removed when it is older than the deduplication window.
    fn prune_dedup_index(&mut self, cutoffs: &RetentionCutoffs) {
        let table = self.shared.index.table();
        let is_new = |seq| {
            table
                .get(seq)
                .is_none_or(|row| row.is_since(cutoffs.dedup_before))
        };
        self.dedup_index.retain(is_new);
    }

    fn purge(&mut self, seq: u64, found: &Found, cutoffs: &RetentionCutoffs) -> Result<(), Error> {
        let dropped = |trouble: ::sled::Error| Error::from(Trouble::from(trouble));
        for delivery in &found.deliveries {
            let place = Place {
                seq,
                ordinal: delivery.id.ordinal,
            };
            self.view.drop_record(&keys::delivery(place)).map_err(dropped)?;
            if matches!(delivery.state, State::Dead { .. }) {
                let destination = delivery.destination.clone();
                self.updates.push(IndexUpdate::Revived {
                    destination,
                    place,
                    is_covered: delivery.is_delivered_otherwise(),
                });
            }
        }
        self.view.drop_record(&keys::message(seq)).map_err(dropped)?;
        self.updates.push(IndexUpdate::Removed { seq });
        self.remember(seq, &found.message, cutoffs)?;
        let deliveries = found.deliveries.iter();
        deliveries.for_each(|delivery| self.counters.leave(delivery));
        let counts = &mut self.counters.ledger.counts;
        counts.purged += found.deliveries.len() as u64;
        counts.messages_purged += 1;
        Ok(())
    }

    /// Keeps the provider id of a removed message until the deduplication window ends. If several messages have the
    /// same provider id, the last accepted one counts, whichever is removed first.
    fn remember(&mut self, seq: u64, message: &Message, cutoffs: &RetentionCutoffs) -> Result<(), Error> {
        if message.provider_id.is_empty() {
            return Ok(());
        }
        let digest = backup::digest(&message.source, &message.provider_id);
        self.dedup_index.remove(digest, seq);
        if message.received_at < cutoffs.dedup_before {
            return Ok(());
        }
        let there = self.remembered(digest)?;
        if there.is_none_or(|there| there.seq < seq) {
            let (id, received_at) = (message.id, message.received_at);
            self.dedup_index.on_disk += u64::from(there.is_none());
            self.view.create(
                &keys::seen(digest),
                &record::encode(&Seen { seq, id, received_at }),
            );
        }
        Ok(())
    }

    fn redact(&mut self, seq: u64, kept: Kept, now: Timestamp) -> Result<(), Error> {
        let kept = Kept {
            message: redacted(kept.message, now),
            ..kept
        };
        self.updates.push(IndexUpdate::message(seq, &kept.message));
        self.view
            .store(&keys::message(seq), &kept)
            .map_err(|error| Trouble::from(error).into())
    }

    fn prune_seen(&mut self, key: &[u8], value: &[u8], cutoffs: &RetentionCutoffs) -> Result<(), Error> {
        match record::decode::<Seen>(&self.view, key, value) {
            Ok(seen) if seen.received_at >= cutoffs.dedup_before => {}
            Ok(_) | Err(Trouble::Damaged) => {
                self.dedup_index.on_disk = self.dedup_index.on_disk.saturating_sub(1);
                self.view.remove(key);
            }
            Err(trouble) => return Err(trouble.into()),
        }
        Ok(())
    }

    /// The root of a thread is removed like a message; the next message of the conversation starts a new thread.
    fn prune_thread(&mut self, key: &[u8], value: &[u8], cutoffs: &RetentionCutoffs) -> Result<(), Error> {
        match record::decode::<Root>(&self.view, key, value) {
            Ok(root) if cutoffs.purge_before.is_none_or(|before| root.at >= before) => {}
            Ok(_) | Err(Trouble::Damaged) => {
                self.view.drop_record(key).map_err(Trouble::from)?;
            }
            Err(trouble) => return Err(trouble.into()),
        }
        Ok(())
    }
}
