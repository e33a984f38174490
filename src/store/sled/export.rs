//! A backup, read in parts on the writer's thread between commits, so that every part is consistent and messages are
//! accepted in between. Messages accepted after the start of the backup are not included.

use super::keys;
use super::lock;
use super::record::{self, Kept, Root, Seen, Trouble};
use super::write_batch::WriteBatch;
use crate::store::backup::{Part, Position, Record};
use crate::store::{Error, PAGE_BYTES};

/// Entries per part, unless they are large.
const STEP: usize = 200;

/// The records after the counters, in this order.
const STAGES: [u8; 3] = [keys::MESSAGE, keys::SEEN, keys::THREAD];

impl WriteBatch<'_> {
    pub(super) fn export(&self, position: Position) -> Result<Part, Error> {
        let Position { stage, after, last } = position;
        let Some(index) = usize::from(stage).checked_sub(1) else {
            return Ok(self.export_sums());
        };
        let Some(&tag) = STAGES.get(index) else {
            return Ok((Vec::new(), None));
        };
        let entries = self
            .view
            .page(&[tag], after.as_deref(), STEP)
            .map_err(Trouble::from)?;
        let (mut records, mut size, mut read) = (Vec::new(), 0, 0);
        for (key, value) in &entries {
            if size >= PAGE_BYTES {
                break;
            }
            let record = match tag {
                keys::MESSAGE => self.export_message(key, value, last)?,
                keys::SEEN => self.export_seen(key, value, last)?,
                _ => self.export_thread(key, value)?,
            };
            size += record.as_ref().map_or(0, Record::size);
            records.extend(record);
            read += 1;
        }
        let all_read = read < STEP && read == entries.len();
        let after = entries[..read].last().map(|(key, _)| key.to_vec());
        let beyond = tag == keys::MESSAGE
            && after
                .as_deref()
                .and_then(keys::seq_of)
                .is_some_and(|seq| seq >= last);
        let next = if all_read || beyond {
            Position {
                stage: stage + 1,
                after: None,
                last,
            }
        } else {
            Position { stage, after, last }
        };
        let more = usize::from(next.stage) <= STAGES.len();
        Ok((records, more.then_some(next)))
    }

    fn export_sums(&self) -> Part {
        let counts = self.counters.ledger.counts;
        let mut records = vec![Record::Sums(counts)];
        records.extend(lock(&self.shared.paused).iter().cloned().map(Record::Paused));
        let next = Position {
            stage: 1,
            after: None,
            last: counts.accepted,
        };
        (records, Some(next))
    }

    fn export_message(&self, key: &[u8], value: &[u8], last: u64) -> Result<Option<Record>, Error> {
        let Some(seq) = keys::seq_of(key).filter(|seq| *seq <= last) else {
            return Ok(None);
        };
        let kept = record::decode::<Kept>(&self.view, key, value);
        let found = kept.and_then(|kept| self.view.complete(seq, kept)).map(Some);
        let found = self.shared.sound(found)?;
        Ok(found.map(|found| Record::message(seq, found)))
    }

    /// The provider id of a message in the backup is included with the message.
    fn export_seen(&self, key: &[u8], value: &[u8], last: u64) -> Result<Option<Record>, Error> {
        let seen = record::decode::<Seen>(&self.view, key, value).map(Some);
        let (Some(Seen { seq, id, received_at }), Some(digest)) = (self.shared.sound(seen)?, digest(key))
        else {
            return Ok(None);
        };
        let kept = self.view.has(&keys::message(seq)).map_err(Trouble::from)?;
        Ok((!kept && seq <= last).then_some(Record::Seen {
            digest,
            id,
            seq,
            received_at,
        }))
    }

    fn export_thread(&self, key: &[u8], value: &[u8]) -> Result<Option<Record>, Error> {
        let root = record::decode::<Root>(&self.view, key, value).map(Some);
        let (Some(Root { thread, at }), Some(queue)) = (self.shared.sound(root)?, keys::queue_of(key)) else {
            return Ok(None);
        };
        Ok(Some(Record::Thread {
            destination: queue.destination,
            conversation: queue.conversation.0,
            thread,
            at,
        }))
    }
}

fn digest(key: &[u8]) -> Option<[u8; 16]> {
    key.get(1..)?.try_into().ok()
}
