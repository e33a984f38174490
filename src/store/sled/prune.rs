//! Forgetting: a bounded step at a time, so that texts are accepted in between.

use super::change::{Group, STEP};
use super::keys::{self, Place};
use super::record::{Kept, Root, Seen, Trouble};
use super::{lock, record};
use crate::delivery::{Delivery, State};
use crate::message::Timestamp;
use crate::store::{Error, Found, Horizon, redacted};

/// By how much the clock may have been wrong while texts were received. A pass over the messages, which are
/// in the order of acceptance, ends at the first that is newer than all it looks for by more than this.
pub(super) const CLOCK_SLACK: std::time::Duration = std::time::Duration::from_secs(2 * 86_400);

/// How far forgetting has come: the key that was looked at last, in the first of the stages not yet done.
#[derive(Default)]
pub(super) struct Sweep {
    stage: usize,
    after: Option<Vec<u8>>,
}

/// What is looked through, in this order.
const STAGES: [u8; 3] = [keys::MESSAGE, keys::SEEN, keys::THREAD];

impl Group<'_> {
    /// Forgets one step's worth; says whether there is more.
    pub(super) fn prune(&mut self, horizon: &Horizon, now: Timestamp) -> Result<bool, Error> {
        self.space.for_anything()?;
        let Some(&stage) = STAGES.get(self.sweep.stage) else {
            *self.sweep = Sweep::default();
            return Ok(false);
        };
        let after = self.sweep.after.take();
        let entries = self
            .view
            .page(&[stage], after.as_deref(), STEP)
            .map_err(Trouble::from)?;
        let mut ended = false;
        for (key, value) in &entries {
            match stage {
                keys::MESSAGE => ended = self.prune_message(key, value, horizon, now)?,
                keys::SEEN => self.prune_seen(key, value, horizon)?,
                _ => self.prune_thread(key, value, horizon)?,
            }
            if ended {
                break;
            }
        }
        if ended || entries.len() < STEP {
            self.sweep.stage += 1;
        } else {
            self.sweep.after = entries.last().map(|(key, _)| key.to_vec());
        }
        if self.sweep.stage == STAGES.len() {
            *self.sweep = Sweep::default();
            return Ok(false);
        }
        Ok(true)
    }

    /// Says whether nothing after this message can be old enough.
    fn prune_message(
        &mut self,
        key: &[u8],
        value: &[u8],
        horizon: &Horizon,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let latest = horizon.purge_before.max(horizon.redact_before);
        let Some(seq) = keys::seq_of(key) else {
            return Ok(false);
        };
        let kept = record::decode::<Kept>(&self.view, key, value).map(Some);
        let Some(kept) = self.shared.sound(kept)? else {
            return Ok(false);
        };
        let received_at = kept.message.received_at;
        if latest.is_none_or(|latest| received_at >= latest.after(CLOCK_SLACK)) {
            return Ok(true);
        }
        let purge = horizon.purge_before.is_some_and(|before| received_at < before);
        let redact = kept.message.redacted_at.is_none()
            && horizon.redact_before.is_some_and(|before| received_at < before);
        if !purge && !redact {
            return Ok(false);
        }
        let found = self.view.complete(seq, kept.clone()).map(Some);
        let Some(found) = self.shared.sound(found)? else {
            return Ok(false);
        };
        if found.deliveries.iter().any(Delivery::is_waiting) {
            return Ok(false);
        }
        if purge {
            self.purge(seq, &found)?
        } else {
            self.redact(key, kept, now)?
        }
        Ok(false)
    }

    fn purge(&mut self, seq: u64, found: &Found) -> Result<(), Error> {
        let dropped = |trouble: ::sled::Error| Error::from(Trouble::from(trouble));
        for delivery in &found.deliveries {
            let place = Place {
                seq,
                ordinal: delivery.id.ordinal,
            };
            self.view.drop_record(&keys::delivery(place)).map_err(dropped)?;
            if matches!(delivery.state, State::Dead { .. }) {
                self.view.remove(keys::dead(&delivery.destination, place));
            }
        }
        self.view.drop_record(&keys::message(seq)).map_err(dropped)?;
        self.view.remove(keys::id(found.message.id));
        let mut books = lock(&self.shared.books);
        found.deliveries.iter().for_each(|delivery| books.leave(delivery));
        books.ledger.counts.purged += found.deliveries.len() as u64;
        books.ledger.counts.messages_purged += 1;
        Ok(())
    }

    fn redact(&mut self, key: &[u8], kept: Kept, now: Timestamp) -> Result<(), Error> {
        let kept = Kept {
            message: redacted(kept.message, now),
            ..kept
        };
        self.view
            .store(key, &kept)
            .map_err(|error| Trouble::from(error).into())
    }

    fn prune_seen(&mut self, key: &[u8], value: &[u8], horizon: &Horizon) -> Result<(), Error> {
        match record::decode::<Seen>(&self.view, key, value) {
            Ok(seen) if seen.received_at >= horizon.dedup_before => {}
            Ok(_) | Err(Trouble::Damaged) => self.view.remove(key.to_vec()),
            Err(trouble) => return Err(trouble.into()),
        }
        Ok(())
    }

    /// A thread's root is forgotten like a message; the conversation's next text begins a new thread.
    fn prune_thread(&mut self, key: &[u8], value: &[u8], horizon: &Horizon) -> Result<(), Error> {
        match record::decode::<Root>(&self.view, key, value) {
            Ok(root) if horizon.purge_before.is_none_or(|before| root.at >= before) => {}
            Ok(_) | Err(Trouble::Damaged) => {
                self.view.drop_record(key).map_err(Trouble::from)?;
            }
            Err(trouble) => return Err(trouble.into()),
        }
        Ok(())
    }
}
