//! The known provider ids in memory, so that a duplicate webhook is detected without reading from disk.
//!
//! Nine bytes per message: some bits of the digest of its id, and its sequence number. The caller reads that message
//! and compares; about one in some hundred lookups is a false match. A message that is removed before its provider id
//! leaves a `k` record, which is looked up on disk.

use hashbrown::HashTable;

use super::keys::Digest;

/// The bits of an entry for the sequence number: room for sixty-eight billion messages.
const SEQ_BITS: u32 = 36;

/// The hash table.
#[derive(Default)]
pub(super) struct DedupIndex {
    entries: HashTable<u64>,
    /// The number of `k` records.
    pub(super) on_disk: u64,
}

impl DedupIndex {
    pub(super) fn add(&mut self, digest: Digest, seq: u64) {
        let entry = entry(digest, seq);
        self.entries
            .insert_unique(hash(entry), entry, |&entry| hash(entry));
    }

    /// The sequence numbers of the messages that may have this provider id.
    pub(super) fn candidates(&self, digest: Digest) -> impl Iterator<Item = u64> {
        let wanted = entry(digest, 0);
        let alike = self.entries.iter_hash(hash(wanted)).copied();
        alike
            .filter(move |entry| entry >> SEQ_BITS == wanted >> SEQ_BITS)
            .map(seq)
    }

    pub(super) fn remove(&mut self, digest: Digest, seq: u64) {
        let gone = entry(digest, seq);
        if let Ok(found) = self.entries.find_entry(hash(gone), |&entry| entry == gone) {
            found.remove();
        }
    }

    /// Removes the entries of messages that are no longer needed.
    pub(super) fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        self.entries.retain(|&mut entry| keep(seq(entry)));
        if self.entries.capacity() > 4 * self.entries.len().max(1_024) {
            self.entries.shrink_to_fit(|&entry| hash(entry));
        }
    }
}

/// Twenty-eight bits of the digest, and the sequence number.
fn entry(digest: Digest, seq: u64) -> u64 {
    let [a, b, c, d, ..] = digest;
    u64::from_be_bytes([a, b, c, d, 0, 0, 0, 0]) >> SEQ_BITS << SEQ_BITS | self::seq(seq)
}

fn seq(entry: u64) -> u64 {
    entry & ((1 << SEQ_BITS) - 1)
}

/// Spreads the bits of the digest over the complete number, because the hash table uses both of its ends.
fn hash(entry: u64) -> u64 {
    (entry >> SEQ_BITS).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u32) -> Digest {
        let mut digest = [7; 16];
        digest[..4].copy_from_slice(&number.wrapping_mul(2_654_435_761).to_be_bytes());
        digest
    }

    #[test]
    fn ids_are_known_until_they_are_removed() {
        let mut index = DedupIndex::default();
        for seq in 1..=5_000 {
            index.add(digest(seq), seq.into());
        }
        index.add(digest(1), 9_999);
        let of = |index: &DedupIndex, number| {
            let mut seqs: Vec<u64> = index.candidates(digest(number)).collect();
            seqs.sort_unstable();
            seqs
        };
        assert_eq!(of(&index, 1), [1, 9_999]);
        assert_eq!(of(&index, 4_321), [4_321]);
        assert!(of(&index, 6_000).is_empty());
        index.remove(digest(1), 1);
        index.remove(digest(1), 1);
        assert_eq!(of(&index, 1), [9_999]);
        index.retain(|seq| seq > 4_990);
        assert!(of(&index, 2).is_empty());
        assert_eq!(of(&index, 4_991), [4_991]);
        assert!(index.entries.capacity() < 5_000);
    }
}
