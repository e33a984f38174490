//! What is kept under the keys, and how it is known to be undamaged.
//!
//! A value is a version byte, a CRC-32C over its key, its length in parts and its payload, and the payload in
//! postcard form. sled checks its own pages, but skips what it finds damaged in its log without a word, and a
//! whole page may come back as an older one: so every record vouches for itself, for its key too.
//!
//! No entry grows over [`PART_BYTES`]: sled puts a large leaf into a file of its own that it never syncs. A
//! longer payload goes on under `b` keys.

use ::sled::IVec;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::keys;
use crate::delivery::Delivery;
use crate::message::{Message, MessageId, Timestamp};
use crate::sabotage::{self, Protection};
use crate::store::Counts;

/// The version this build writes.
pub(super) const VERSION: u8 = 1;

/// The most payload that one entry carries.
pub(super) const PART_BYTES: usize = 3_900;

const HEADER: usize = 7;

/// A message with its deliveries, as they were accepted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) message: Message,
    pub(super) deliveries: Vec<Delivery>,
}

/// A provider id that was seen, of a message that is gone.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) seq: u64,
    pub(super) id: MessageId,
    pub(super) received_at: Timestamp,
}

/// Where a conversation's thread began.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Root {
    pub(super) thread: String,
    pub(super) at: Timestamp,
}

/// What every commit carries: sums that must add up at the next start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ledger {
    /// How many commits there were.
    pub(super) commits: u64,
    /// The sums; `accepted` is also the last sequence number.
    pub(super) counts: Counts,
}

/// Why something cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Sled(#[from] ::sled::Error),
    #[error("a record is damaged")]
    Damaged,
}

/// Anything that entries are read from: the tree, or the tree under a group of changes.
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
    let header = Header::read(value).ok_or(Trouble::Damaged)?;
    let first = &value[HEADER..];
    if header.more == 0 {
        return header.open(key, first);
    }
    let mut payload = first.to_vec();
    for number in 1..=header.more {
        let part = from.lookup(&keys::part(key, number))?.ok_or(Trouble::Damaged)?;
        payload.extend_from_slice(&part);
    }
    header.open(key, &payload)
}

/// The payload of a record.
pub(super) fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    // Writing plain data into memory has no way to fail; and an empty payload is never read as a record.
    postcard::to_stdvec(record).unwrap_or_default()
}

/// The entries that make up a record, the first one under its own key.
pub(super) fn entries(key: &[u8], payload: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut parts = payload.chunks(PART_BYTES);
    let first = parts.next().unwrap_or_default();
    let more = u16::try_from(parts.len()).unwrap_or(u16::MAX);
    let header = Header {
        more,
        crc: crc(key, more, payload),
    };
    let mut entries = vec![(key.to_vec(), header.write(first))];
    entries.extend(
        (1..=more)
            .zip(parts)
            .map(|(number, part)| (keys::part(key, number), part.to_vec())),
    );
    entries
}

/// How many further entries the record has whose first one this is.
pub(super) fn more_parts(value: &[u8]) -> u16 {
    Header::read(value).map_or(0, |header| header.more)
}

struct Header {
    crc: u32,
    more: u16,
}

impl Header {
    fn read(value: &[u8]) -> Option<Self> {
        let (&[VERSION, a, b, c, d, e, f], _) = value.split_first_chunk::<HEADER>()? else {
            return None;
        };
        Some(Self {
            crc: u32::from_be_bytes([a, b, c, d]),
            more: u16::from_be_bytes([e, f]),
        })
    }

    fn write(&self, first: &[u8]) -> Vec<u8> {
        let mut value = Vec::with_capacity(HEADER + first.len());
        value.push(VERSION);
        value.extend(self.crc.to_be_bytes());
        value.extend(self.more.to_be_bytes());
        value.extend_from_slice(first);
        value
    }

    fn open<T: DeserializeOwned>(&self, key: &[u8], payload: &[u8]) -> Result<T, Trouble> {
        let is_whole = crc(key, self.more, payload) == self.crc;
        if !is_whole && !sabotage::is_off(Protection::Checksum) {
            return Err(Trouble::Damaged);
        }
        postcard::from_bytes(payload).map_err(|_| Trouble::Damaged)
    }
}

fn crc(key: &[u8], more: u16, payload: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), &more.to_be_bytes());
    crc32c::crc32c_append(crc, payload)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Default)]
    struct Map(BTreeMap<Vec<u8>, Vec<u8>>);

    impl Lookup for Map {
        fn lookup(&self, key: &[u8]) -> Result<Option<IVec>, ::sled::Error> {
            Ok(self.0.get(key).map(|value| IVec::from(value.as_slice())))
        }
    }

    fn kept(text: &str) -> Map {
        Map(entries(b"m1", &encode(&text)).into_iter().collect())
    }

    #[test]
    fn a_record_of_any_length_is_read_as_it_was_written() {
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
    fn every_flipped_bit_a_missing_part_and_a_foreign_key_are_noticed() {
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
        let mut short = Map(good.0.clone());
        short.0.remove(&keys::part(b"m1", 1));
        assert!(matches!(load::<String>(&short, b"m1"), Err(Trouble::Damaged)));
        let small = kept("x");
        let moved = Map([(b"m2".to_vec(), small.0[&b"m1"[..]].clone())].into());
        assert!(matches!(load::<String>(&moved, b"m2"), Err(Trouble::Damaged)));
    }
}
