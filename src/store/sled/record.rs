//! The records stored under the keys, with checksums to detect damage.
//!
//! ```text
//! magic        3 bytes, none of which occurs in UTF-8, and the version
//! checksum     CRC-32C of everything after it
//! generation   6 bytes, the number of the frame of the log that wrote it
//! more         2 bytes, the number of further entries of the record
//! length       2 bytes, of this part of the payload
//! key length   1 byte, and the key
//! payload      in postcard format
//! ```
//!
//! Every entry can be verified alone, including its key: sled skips damage in its log silently, and a complete page
//! may come back in an older version. Every entry can also be found in an otherwise damaged file (see `history`): of
//! two entries under one key, the one with the later generation is valid.
//!
//! No entry is larger than 4 KiB: sled puts a large leaf into a separate file that it never syncs. A longer payload
//! continues under `b` keys, in entries of the same generation.

use ::sled::IVec;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::keys;
use crate::model::delivery::Delivery;
use crate::model::message::{Message, MessageId, Timestamp};
use crate::store::Counts;

/// The version that this build writes.
pub(super) const VERSION: u8 = 2;

/// The prefix of every entry.
pub(super) const MAGIC: [u8; 4] = [0xFE, 0xC1, 0xF6, VERSION];

/// Upper bound of the payload of one entry.
pub(super) const PART_BYTES: usize = 3_900;

/// Most payloads are smaller than this.
const USUAL_BYTES: usize = 512;

/// The size of the header before the key.
const HEADER: usize = 19;

/// The generation of entries written before there was a log.
pub(super) const OLDEST: u64 = 0;

/// A message with its deliveries, as accepted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) message: Message,
    pub(super) deliveries: Vec<Delivery>,
}

/// The provider id of a removed message.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) seq: u64,
    pub(super) id: MessageId,
    pub(super) received_at: Timestamp,
}

/// The root of a conversation's thread.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Root {
    pub(super) thread: String,
    pub(super) at: Timestamp,
}

/// The counters written with every commit, which are verified at the next start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ledger {
    /// The number of groups.
    pub(super) commits: u64,
    /// The counters; `accepted` is also the last sequence number.
    pub(super) counts: Counts,
}

/// The position of the database in the log. Stored only in the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The database contains all frames of the log up to this one.
    pub(super) applied: u64,
    /// Whether every pending message is also in the log.
    pub(super) is_covered: bool,
}

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Sled(#[from] ::sled::Error),
    #[error("a record is damaged")]
    Damaged,
}

/// A source of entries: the tree, or the tree with changes over it.
pub(super) trait Lookup {
    fn lookup(&self, key: &[u8]) -> Result<Option<IVec>, ::sled::Error>;
}

impl Lookup for ::sled::Tree {
    fn lookup(&self, key: &[u8]) -> Result<Option<IVec>, ::sled::Error> {
        self.get(key)
    }
}

/// Reads one record.
pub(super) fn load<T: DeserializeOwned>(from: &impl Lookup, key: &[u8]) -> Result<Option<T>, Trouble> {
    match from.lookup(key)? {
        Some(value) => decode(from, key, &value).map(Some),
        None => Ok(None),
    }
}

/// Reads the record whose first entry was already found.
pub(super) fn decode<T: DeserializeOwned>(
    from: &impl Lookup,
    key: &[u8],
    value: &[u8],
) -> Result<T, Trouble> {
    let Entry {
        generation,
        more,
        payload,
        ..
    } = Entry::read(key, value).ok_or(Trouble::Damaged)?;
    if more == 0 {
        return open(payload);
    }
    let mut whole = payload.to_vec();
    for number in 1..=more {
        let key = keys::part(key, number);
        let value = from.lookup(&key)?.ok_or(Trouble::Damaged)?;
        let part = Entry::read(&key, &value).filter(|part| part.generation == generation);
        whole.extend_from_slice(part.ok_or(Trouble::Damaged)?.payload);
    }
    open(&whole)
}

/// The payload of a record.
pub(super) fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    // Serializing plain data into memory cannot fail; an empty payload would not be accepted as a record.
    postcard::to_extend(record, Vec::with_capacity(USUAL_BYTES)).unwrap_or_default()
}

/// The entries of a record, the first one under its own key.
pub(super) fn entries(key: &[u8], payload: &[u8], generation: u64) -> Vec<(IVec, IVec)> {
    let mut parts = payload.chunks(PART_BYTES);
    let payload = parts.next().unwrap_or_default();
    let more = u16::try_from(parts.len()).unwrap_or(u16::MAX);
    let entry = |key: &[u8], more, payload| {
        let value = Entry {
            key,
            generation,
            more,
            payload,
        }
        .write();
        (IVec::from(key), IVec::from(value))
    };
    let mut entries = Vec::with_capacity(1 + usize::from(more));
    entries.push(entry(key, more, payload));
    entries.extend(
        (1..=more)
            .zip(parts)
            .map(|(number, part)| entry(&keys::part(key, number), 0, part)),
    );
    entries
}

/// The number of further entries of the record with this first entry.
pub(super) fn more_parts(value: &[u8]) -> u16 {
    Entry::parse(value).map_or(0, |(entry, _)| entry.more)
}

/// One entry of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) key: &'a [u8],
    pub(super) generation: u64,
    pub(super) more: u16,
    pub(super) payload: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Parses the entry found under this key, if it is valid.
    pub(super) fn read(key: &[u8], value: &'a [u8]) -> Option<Self> {
        let (entry, is_whole) = Self::parse(value)?;
        let fits = entry.length() == value.len() && entry.key == key;
        (fits && is_whole).then_some(entry)
    }

    /// Parses the valid entry at the beginning of these bytes, which may be followed by others.
    pub(super) fn find(bytes: &'a [u8]) -> Option<Self> {
        Self::parse(bytes).and_then(|(entry, is_whole)| is_whole.then_some(entry))
    }

    /// Its size in bytes.
    pub(super) fn length(&self) -> usize {
        HEADER + self.key.len() + self.payload.len()
    }

    /// The entry, and whether its checksum is valid.
    fn parse(bytes: &'a [u8]) -> Option<(Self, bool)> {
        let (head, rest) = bytes.split_first_chunk::<HEADER>()?;
        let &[
            m,
            n,
            o,
            version,
            a,
            b,
            c,
            d,
            e,
            f,
            g,
            h,
            i,
            j,
            more @ ..,
            l,
            k,
            key,
        ] = head;
        let [more_high, more_low] = more;
        if [m, n, o, version] != MAGIC {
            return None;
        }
        let length = usize::from(u16::from_be_bytes([l, k]));
        let (key, rest) = rest.split_at_checked(usize::from(key))?;
        let entry = Self {
            key,
            generation: u64::from_be_bytes([0, 0, e, f, g, h, i, j]),
            more: u16::from_be_bytes([more_high, more_low]),
            payload: rest.get(..length)?,
        };
        let crc = u32::from_be_bytes([a, b, c, d]);
        Some((entry, crc32c::crc32c(bytes.get(8..entry.length())?) == crc))
    }

    fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.length());
        bytes.extend(MAGIC);
        bytes.extend([0; 4]);
        bytes.extend_from_slice(&self.generation.to_be_bytes()[2..]);
        bytes.extend(self.more.to_be_bytes());
        bytes.extend((self.payload.len() as u16).to_be_bytes());
        bytes.push(self.key.len() as u8);
        bytes.extend_from_slice(self.key);
        bytes.extend_from_slice(self.payload);
        let crc = crc32c::crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_be_bytes());
        bytes
    }
}

fn open<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Trouble> {
    postcard::from_bytes(payload).map_err(|_| Trouble::Damaged)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Default)]
    struct Map(BTreeMap<IVec, IVec>);

    impl Lookup for Map {
        fn lookup(&self, key: &[u8]) -> Result<Option<IVec>, ::sled::Error> {
            Ok(self.0.get(key).cloned())
        }
    }

    fn kept(text: &str) -> Map {
        Map(entries(b"m1", &encode(&text), 5).into_iter().collect())
    }

    #[test]
    fn a_record_of_any_length_survives_a_round_trip() {
        for length in [
            0,
            1,
            PART_BYTES - 2,
            PART_BYTES - 1,
            PART_BYTES,
            PART_BYTES * 3,
            65_536,
        ] {
            let text = "é".repeat(length / 2);
            let map = kept(&text);
            assert!(
                map.0.iter().all(|(key, value)| key.len() + value.len() <= 4096),
                "{length}"
            );
            assert_eq!(load::<String>(&map, b"m1").unwrap().unwrap(), text);
            assert_eq!(usize::from(more_parts(&map.0[&b"m1"[..]])) + 1, map.0.len());
        }
        assert!(load::<String>(&Map::default(), b"m1").unwrap().is_none());
    }

    #[test]
    fn a_flipped_bit_a_missing_part_and_a_foreign_key_are_detected() {
        let good = kept(&"x".repeat(PART_BYTES + 10));
        for (key, value) in &good.0 {
            for bit in (0..value.len() * 8).step_by(if value.len() > 100 { 37 } else { 1 }) {
                let mut map = Map(good.0.clone());
                map.0.get_mut(key).unwrap()[bit / 8] ^= 1 << (bit % 8);
                assert!(
                    matches!(load::<String>(&map, b"m1"), Err(Trouble::Damaged)),
                    "bit {bit}"
                );
            }
        }
        let mut mixed = Map(good.0.clone());
        let later = entries(b"m1", &encode(&"y".repeat(PART_BYTES + 10)), 6);
        mixed.0.insert(later[1].0.clone(), later[1].1.clone());
        assert!(matches!(load::<String>(&mixed, b"m1"), Err(Trouble::Damaged)));
        let mut short = Map(good.0.clone());
        short.0.remove(&*keys::part(b"m1", 1));
        assert!(matches!(load::<String>(&short, b"m1"), Err(Trouble::Damaged)));
        let small = kept("x");
        let moved = Map([(IVec::from(b"m2"), small.0[&b"m1"[..]].clone())].into());
        assert!(matches!(load::<String>(&moved, b"m2"), Err(Trouble::Damaged)));
    }
}
