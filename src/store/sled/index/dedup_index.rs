//! The known provider ids in memory, so that a duplicate webhook is detected without reading from disk.
//!
//! A message that is removed before its provider id leaves a `k` record, which is looked up on disk.

use super::super::keys::Digest;
use super::seq_index::SeqIndex;

/// The provider ids of the stored messages.
#[derive(Default)]
pub(in crate::store::sled) struct DedupIndex {
    stored: SeqIndex,
    /// The number of `k` records.
    pub(in crate::store::sled) on_disk: u64,
}

impl DedupIndex {
    pub(in crate::store::sled) fn add(&mut self, digest: Digest, seq: u64) {
        self.stored.add(key(digest), seq);
    }

    /// The sequence numbers of the messages that may have this provider id.
    pub(in crate::store::sled) fn candidates(&self, digest: Digest) -> impl Iterator<Item = u64> {
        self.stored.candidates(key(digest))
    }

    pub(in crate::store::sled) fn remove(&mut self, digest: Digest, seq: u64) {
        self.stored.remove(key(digest), seq);
    }

    /// Removes the entries of messages that are no longer needed.
    pub(in crate::store::sled) fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        self.stored.retain(keep);
    }
}

fn key([a, b, c, d, ..]: Digest) -> u32 {
    u32::from_be_bytes([a, b, c, d])
}
