//! Backups of the store in memory, in the same parts as those of other stores.

use super::Inner;
use crate::store::backup::{Part, Position, Record, digest};

/// The number of messages per part.
const STEP: usize = 200;

impl Inner {
    pub(super) fn export(&self, from: &Position) -> Part {
        match from.stage {
            0 => self.export_sums(),
            1 => self.export_messages(from),
            _ => (self.export_rest(from.last), None),
        }
    }

    fn export_sums(&self) -> Part {
        let mut records = vec![Record::Sums(self.counts())];
        records.extend(self.paused.iter().cloned().map(Record::Paused));
        let next = Position {
            stage: 1,
            after: None,
            last: self.accepted,
        };
        (records, Some(next))
    }

    fn export_messages(&self, from: &Position) -> Part {
        let after = from.after.as_deref().and_then(|after| after.try_into().ok());
        let first = after.map_or(0, |after| u64::from_be_bytes(after) + 1);
        let step = self.messages.range(first..=from.last).take(STEP);
        let records: Vec<Record> = step
            .map(|(&seq, found)| Record::message(seq, found.clone()))
            .collect();
        let last = match records.last() {
            Some(Record::Message { seq, .. }) if records.len() == STEP => Some(seq.to_be_bytes().to_vec()),
            _ => None,
        };
        let next = Position {
            stage: if last.is_some() { 1 } else { 2 },
            after: last,
            last: from.last,
        };
        (records, Some(next))
    }

    /// Threads, and the provider ids of removed messages.
    fn export_rest(&self, last: u64) -> Vec<Record> {
        let gone = self
            .seen
            .iter()
            .filter(|(_, seen)| seen.seq <= last && !self.messages.contains_key(&seen.seq));
        let gone = gone.map(|((source, provider_id), seen)| Record::Seen {
            digest: digest(source, provider_id),
            id: seen.id,
            seq: seen.seq,
            received_at: seen.received_at,
        });
        let threads = self.threads.iter();
        let threads = threads.map(|((destination, conversation), (thread, at))| Record::Thread {
            destination: destination.clone(),
            conversation: conversation.0,
            thread: thread.clone(),
            at: *at,
        });
        gone.chain(threads).collect()
    }
}
