//! Backups: the complete content of a store as a stream of records, independent of the kind of store.
//!
//! ```text
//! magic and version   12 bytes
//! record              length, CRC-32C, payload in postcard format; repeated
//! end                 the length 0xFFFFFFFF, the number of records, a CRC-32C over everything before
//! ```
//!
//! Numbers are big-endian. Every record has its own checksum, so that damage can be located; the end marker proves
//! that no record is missing.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::{Counts, Found};
use crate::model::delivery::Delivery;
use crate::model::message::{Message, MessageId, Name, Timestamp};

/// The version that this build writes, and the newest that it reads. Version 1 had no deliveries for single
/// recipients.
pub const VERSION: u32 = 2;

/// The oldest version that this build reads.
const OLDEST: u32 = 1;

const MAGIC: &[u8; 8] = b"SMSBRIDG";

/// The length field of the end marker.
const END: u32 = u32::MAX;

/// No record is nearly as long; a greater length is damage.
const RECORD_MAX: u32 = 64 << 20;

/// One record of a backup.
#[expect(clippy::large_enum_variant, reason = "nearly every record is a message")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// The counters at the start of the backup. The first record.
    Sums(Counts),
    /// A destination that the operator paused.
    Paused(Name),
    /// A message with its deliveries.
    Message {
        /// Its sequence number; messages are ordered by it.
        seq: u64,
        /// The message.
        message: Message,
        /// Its deliveries in their current state.
        deliveries: Vec<Delivery>,
    },
    /// A provider id whose message was removed already.
    Seen {
        /// The digest of source and provider id.
        digest: [u8; 16],
        /// The id of the message.
        id: MessageId,
        /// Its sequence number.
        seq: u64,
        /// The time of its receipt.
        received_at: Timestamp,
    },
    /// The root of a conversation's thread.
    Thread {
        /// The destination.
        destination: Name,
        /// The conversation.
        conversation: [u8; 8],
        /// The root.
        thread: String,
        /// The time at which it was stored.
        at: Timestamp,
    },
}

/// The digest that identifies a provider id after its message was removed.
pub(super) fn digest(source: &Name, provider_id: &str) -> [u8; 16] {
    let digest = sha2::Sha256::new()
        .chain_update(source.as_str())
        .chain_update([0])
        .chain_update(provider_id)
        .finalize();
    let mut short = [0; 16];
    short.copy_from_slice(&digest[..16]);
    short
}

impl Record {
    /// The approximate size of a message in bytes; other records are small.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Message {
                message, deliveries, ..
            } => message.size() + deliveries.iter().map(Delivery::size).sum::<usize>(),
            _ => 0,
        }
    }

    pub(super) fn message(seq: u64, found: Found) -> Self {
        Self::Message {
            seq,
            message: found.message,
            deliveries: found.deliveries,
        }
    }
}

/// The position in a backup. The default is the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    pub(super) stage: u8,
    pub(super) after: Option<Vec<u8>>,
    /// The last sequence number when the backup started; later messages are not included.
    pub(super) last: u64,
}

/// A part of a backup and the position of the next one; `None` after the last part.
pub type Part = (Vec<Record>, Option<Position>);

/// Encodes a backup.
#[derive(Default)]
pub struct Encoder {
    records: u64,
    crc: u32,
}

impl Encoder {
    /// The beginning of a backup.
    pub fn begin(&mut self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_be_bytes());
        self.crc = crc32c::crc32c(&bytes);
        bytes
    }

    /// Encodes a record into the output buffer.
    ///
    /// # Errors
    /// Never in practice.
    pub fn add(&mut self, record: &Record, to: &mut Vec<u8>) -> io::Result<()> {
        let payload = postcard::to_stdvec(record).map_err(io::Error::other)?;
        let length = u32::try_from(payload.len())
            .ok()
            .filter(|length| *length <= RECORD_MAX)
            .ok_or_else(|| io::Error::other("a record is too long for a backup"))?;
        let from = to.len();
        to.extend(length.to_be_bytes());
        to.extend(crc32c::crc32c(&payload).to_be_bytes());
        to.extend(payload);
        self.crc = crc32c::crc32c_append(self.crc, &to[from..]);
        self.records += 1;
        Ok(())
    }

    /// The end marker.
    #[must_use]
    pub fn end(&self) -> Vec<u8> {
        let mut bytes = END.to_be_bytes().to_vec();
        bytes.extend(self.records.to_be_bytes());
        let crc = crc32c::crc32c_append(self.crc, &bytes);
        bytes.extend(crc.to_be_bytes());
        bytes
    }
}

/// Why a backup cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// The file is not a backup.
    #[error("not an smsbridge backup")]
    Foreign,
    /// It was written by a newer version of the program.
    #[error("the backup has format {found}, this version reads up to {VERSION}: use the newer version")]
    Newer {
        /// The version of the file.
        found: u32,
    },
    /// The file is incomplete or damaged.
    #[error("the backup is damaged at record {record}, byte {offset}: {what}; use another one")]
    At {
        /// The number of the record, counted from 1.
        record: u64,
        /// The position of the record in bytes.
        offset: u64,
        /// A description of the damage.
        what: &'static str,
    },
    /// The file cannot be read.
    #[error("the backup cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Decodes a backup and verifies everything.
pub struct Reader<R> {
    from: R,
    records: u64,
    offset: u64,
    crc: u32,
}

impl<R: Read> Reader<R> {
    /// Reads the beginning.
    ///
    /// # Errors
    /// When the file is not a backup, or was written by a newer version.
    pub fn begin(mut from: R) -> Result<Self, Damage> {
        let mut bytes = [0; 12];
        from.read_exact(&mut bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Damage::Foreign,
            _ => Damage::Io(error),
        })?;
        let (magic, version) = bytes.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(Damage::Foreign);
        }
        match version.try_into().map(u32::from_be_bytes) {
            Ok(OLDEST..=VERSION) => Ok(Self {
                from,
                records: 0,
                offset: bytes.len() as u64,
                crc: crc32c::crc32c(&bytes),
            }),
            Ok(found) if found > VERSION => Err(Damage::Newer { found }),
            _ => Err(Damage::Foreign),
        }
    }

    /// The number of bytes read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the next record, or `None` when the end is reached and the backup is complete.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn next_record(&mut self) -> Result<Option<Record>, Damage> {
        let length = u32::from_be_bytes(self.take()?);
        if length == END {
            return self.end().map(|()| None);
        }
        if length > RECORD_MAX {
            return Err(self.damage("invalid record length"));
        }
        let head = length.to_be_bytes();
        let crc: [u8; 4] = self.take()?;
        let mut payload = Vec::new();
        let read = self.from.by_ref().take(length.into()).read_to_end(&mut payload)?;
        if read < length as usize {
            return Err(self.damage("the file ends within this record"));
        }
        if crc32c::crc32c(&payload) != u32::from_be_bytes(crc) {
            return Err(self.damage("wrong checksum"));
        }
        let record = postcard::from_bytes(&payload).map_err(|_| self.damage("invalid content"))?;
        for bytes in [&head[..], &crc, &payload] {
            self.crc = crc32c::crc32c_append(self.crc, bytes);
        }
        self.records += 1;
        self.offset += 8 + u64::from(length);
        Ok(Some(record))
    }

    fn end(&mut self) -> Result<(), Damage> {
        let records: [u8; 8] = self.take()?;
        let crc = crc32c::crc32c_append(self.crc, &END.to_be_bytes());
        let crc = crc32c::crc32c_append(crc, &records);
        if u64::from_be_bytes(records) != self.records || u32::from_be_bytes(self.take()?) != crc {
            return Err(self.damage("records are missing, or the end is damaged"));
        }
        match self.from.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(self.damage("something follows the end")),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let mut bytes = [0; N];
        self.from
            .read_exact(&mut bytes)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => self.damage("the file ends too early"),
                _ => Damage::Io(error),
            })?;
        Ok(bytes)
    }

    fn damage(&self, what: &'static str) -> Damage {
        Damage::At {
            record: self.records + 1,
            offset: self.offset,
            what,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> Vec<u8> {
        let mut encoder = Encoder::default();
        let mut bytes = encoder.begin();
        for name in ["desk", "front"] {
            let record = Record::Paused(name.parse().unwrap());
            encoder.add(&record, &mut bytes).unwrap();
        }
        bytes.extend(encoder.end());
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<Record>, Damage> {
        let mut reader = Reader::begin(bytes)?;
        std::iter::from_fn(|| reader.next_record().transpose()).collect()
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_detected() {
        let good = written();
        assert_eq!(read(&good).unwrap().len(), 2);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bad).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(read(&good[..length]).is_err(), "cut at {length}");
        }
        assert!(read(&[good.as_slice(), b"x"].concat()).is_err());
    }

    #[test]
    fn a_backup_of_version_1_is_read() {
        let mut old = written();
        old[11] = 1;
        let end = old.len() - 4;
        let crc = crc32c::crc32c(&old[..end]);
        old[end..].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(read(&old).unwrap().len(), 2);
    }

    #[test]
    fn a_newer_format_is_rejected_and_damage_is_reported_with_its_position() {
        let mut newer = written();
        newer[11] = 3;
        assert!(matches!(read(&newer), Err(Damage::Newer { found: 3 })));
        let mut bad = written();
        bad[21] ^= 1;
        assert!(matches!(
            read(&bad),
            Err(Damage::At {
                record: 1,
                offset: 12,
                ..
            })
        ));
    }
}
