//! Maps keys to the sequence numbers of messages, in nine bytes per entry.
//!
//! Only twenty-eight bits of each key are kept, so the caller reads the message and compares its key. With a million
//! messages, about one lookup in 270 finds a message with another key.

use hashbrown::HashTable;

/// The bits of an entry for the sequence number: room for sixty-eight billion messages.
const SEQ_BITS: u32 = 36;

/// The hash table.
#[derive(Default)]
pub(in crate::store::sled) struct SeqIndex {
    entries: HashTable<u64>,
}

impl SeqIndex {
    pub(in crate::store::sled) fn add(&mut self, key: u32, seq: u64) {
        let entry = entry(key, seq);
        self.entries
            .insert_unique(hash(entry), entry, |&entry| hash(entry));
    }

    /// The sequence numbers of the messages that may have this key.
    pub(in crate::store::sled) fn candidates(&self, key: u32) -> impl Iterator<Item = u64> {
        let wanted = entry(key, 0);
        let alike = self.entries.iter_hash(hash(wanted)).copied();
        alike
            .filter(move |entry| entry >> SEQ_BITS == wanted >> SEQ_BITS)
            .map(seq)
    }

    pub(in crate::store::sled) fn remove(&mut self, key: u32, seq: u64) {
        let gone = entry(key, seq);
        if let Ok(found) = self.entries.find_entry(hash(gone), |&entry| entry == gone) {
            found.remove();
            self.shrink();
        }
    }

    /// Removes the entries of messages that are no longer needed.
    pub(in crate::store::sled) fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        self.entries.retain(|&mut entry| keep(seq(entry)));
        self.shrink();
    }

    /// Frees memory when most of it is unused.
    fn shrink(&mut self) {
        if self.entries.capacity() > 4 * self.entries.len().max(1_024) {
            self.entries.shrink_to_fit(|&entry| hash(entry));
        }
    }
}

/// Twenty-eight bits of the key, and the sequence number.
fn entry(key: u32, seq: u64) -> u64 {
    u64::from(key) << 32 >> SEQ_BITS << SEQ_BITS | self::seq(seq)
}

fn seq(entry: u64) -> u64 {
    entry & ((1 << SEQ_BITS) - 1)
}

/// Spreads the bits of the key over the complete number, because the hash table uses both of its ends.
fn hash(entry: u64) -> u64 {
    (entry >> SEQ_BITS).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> u32 {
        number.wrapping_mul(2_654_435_761)
    }

    #[test]
    fn keys_are_found_until_they_are_removed() {
        let mut index = SeqIndex::default();
        for number in 1..=5_000 {
            index.add(key(number), number.into());
        }
        index.add(key(1), 9_999);
        let of = |index: &SeqIndex, number| {
            let mut seqs: Vec<u64> = index.candidates(key(number)).collect();
            seqs.sort_unstable();
            seqs
        };
        assert_eq!(of(&index, 1), [1, 9_999]);
        assert_eq!(of(&index, 4_321), [4_321]);
        assert!(of(&index, 6_000).is_empty());
        index.remove(key(1), 1);
        index.remove(key(1), 1);
        assert_eq!(of(&index, 1), [9_999]);
        index.retain(|seq| seq > 4_990);
        assert!(of(&index, 2).is_empty());
        assert_eq!(of(&index, 4_991), [4_991]);
        assert!(index.entries.capacity() < 5_000);
    }
}
