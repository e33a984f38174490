//! The provider ids that were seen, in memory, so that a repeated webhook is known without a look at the disk.
//!
//! Nine bytes a text: a few bits of the id's digest and the number of the text. Whoever asks reads that text
//! and compares; one answer in some hundred is a chance likeness. A text that is forgotten before its provider
//! id is leaves a `k` record, which is looked up on disk.

use hashbrown::HashTable;

use super::keys::Digest;

/// How many bits of an entry are the text's number: sixty-eight billion texts.
const SEQ_BITS: u32 = 36;

/// The table.
#[derive(Default)]
pub(super) struct Known {
    entries: HashTable<u64>,
    /// How many `k` records there are.
    pub(super) on_disk: u64,
}

impl Known {
    pub(super) fn add(&mut self, digest: Digest, seq: u64) {
        let entry = entry(digest, seq);
        self.entries
            .insert_unique(hash(entry), entry, |&entry| hash(entry));
    }

    /// The numbers of the texts that may have this provider id.
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

    /// Forgets the texts that need not be kept any more.
    pub(super) fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        self.entries.retain(|&mut entry| keep(seq(entry)));
        if self.entries.capacity() > 4 * self.entries.len().max(1_024) {
            self.entries.shrink_to_fit(|&entry| hash(entry));
        }
    }
}

/// Twenty-eight bits of the digest, and the number.
fn entry(digest: Digest, seq: u64) -> u64 {
    let [a, b, c, d, ..] = digest;
    u64::from_be_bytes([a, b, c, d, 0, 0, 0, 0]) >> SEQ_BITS << SEQ_BITS | self::seq(seq)
}

fn seq(entry: u64) -> u64 {
    entry & ((1 << SEQ_BITS) - 1)
}

/// Spreads the digest's bits over the whole number: the table looks at both of its ends.
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
    fn ids_are_known_until_they_are_forgotten() {
        let mut known = Known::default();
        for seq in 1..=5_000 {
            known.add(digest(seq), seq.into());
        }
        known.add(digest(1), 9_999);
        let of = |known: &Known, number| {
            let mut seqs: Vec<u64> = known.candidates(digest(number)).collect();
            seqs.sort_unstable();
            seqs
        };
        assert_eq!(of(&known, 1), [1, 9_999]);
        assert_eq!(of(&known, 4_321), [4_321]);
        assert!(of(&known, 6_000).is_empty());
        known.remove(digest(1), 1);
        known.remove(digest(1), 1);
        assert_eq!(of(&known, 1), [9_999]);
        known.retain(|seq| seq > 4_990);
        assert!(of(&known, 2).is_empty());
        assert_eq!(of(&known, 4_991), [4_991]);
        assert!(known.entries.capacity() < 5_000);
    }
}
