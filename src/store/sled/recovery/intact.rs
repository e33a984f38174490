//! Checks without opening a database whether its file looks as sled left it.
//!
//! If sled finds damage while opening, it overwrites the rest with zeros. No pending message is lost, because the log
//! has them, but history that could still be read. So the file, which is read completely before opening anyway, is
//! checked and copied if it looks damaged. A false alarm only costs the copy.
//!
//! The file consists of segments of half a MiB. Each begins with its sequence number and contains messages with a
//! checksum, up to one that fills the rest. Only the segment with the highest number may end earlier.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::super::record::{Entry, MAGIC};

const SEGMENT: usize = 512 << 10;
const HEAD: usize = 20;

/// No message begins closer to the end of a segment than this.
const MESSAGE_HEAD_MAX: usize = 32;

/// The kind of the message that fills the rest of a segment.
const CAP: u8 = 2;
const KINDS: std::ops::RangeInclusive<u8> = 1..=11;

/// Checks the complete file. An I/O error is returned as such.
pub(in crate::store::sled) fn looks_intact(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    let mut bytes = vec![0; SEGMENT];
    let (mut is_intact, mut tip, mut stable) = (true, None, 0);
    for at in (0..file.metadata()?.len()).step_by(SEGMENT) {
        let length = read_at_most(&file, &mut bytes, at)?;
        let Some(segment) = Segment::read(&bytes[..length]) else {
            // A released segment is zeroed.
            is_intact &= bytes[..length.min(HEAD)].iter().all(|byte| *byte == 0);
            continue;
        };
        stable = stable.max(segment.stable);
        let end = segment.end(&bytes[..length]);
        let last = (segment.number, at, end);
        match tip {
            Some(before) if before > last => is_intact &= end.is_none(),
            _ => {
                is_intact &= tip.is_none_or(|(_, _, end): (u64, u64, Option<usize>)| end.is_none());
                tip = Some(last);
            }
        }
    }
    if let Some((number, at, end)) = tip {
        is_intact &= stable < (number + 1) * SEGMENT as u64;
        if let Some(end) = end {
            let length = read_at_most(&file, &mut bytes, at)?;
            is_intact &= is_end(&bytes[..length], end);
        }
    }
    Ok(is_intact)
}

/// Returns true if no entry after this position is newer than those before it.
fn is_end(bytes: &[u8], end: usize) -> bool {
    let newest = |bytes: &[u8]| {
        let found = memchr::memmem::find_iter(bytes, &MAGIC);
        found
            .filter_map(|at| Entry::find(&bytes[at..]))
            .map(|entry| entry.generation)
            .max()
    };
    let (before, behind) = bytes.split_at(end.min(bytes.len()));
    newest(behind).is_none_or(|behind| newest(before).is_some_and(|before| behind < before))
}

struct Segment {
    /// The sequence number of the segment.
    number: u64,
    /// The position up to which the log was on disk.
    stable: u64,
}

impl Segment {
    fn read(bytes: &[u8]) -> Option<Self> {
        let head = bytes.first_chunk::<HEAD>()?;
        let crc = u32::from_le_bytes(*head.first_chunk()?);
        let number = |at: usize| {
            head[at..]
                .first_chunk()
                .map(|bytes| u64::from_le_bytes(*bytes) ^ (u64::MAX >> 1))
        };
        let is_whole = crc32fast::hash(&head[4..]) == crc ^ u32::MAX;
        let (lsn, stable) = (number(4)?, number(12)?);
        is_whole.then_some(Self {
            number: lsn / SEGMENT as u64,
            stable: if stable >> 63 == 0 { stable } else { 0 },
        })
    }

    /// The position at which the messages end too early; `None` if they fill the segment.
    fn end(&self, bytes: &[u8]) -> Option<usize> {
        let mut at = HEAD;
        while at + MESSAGE_HEAD_MAX <= SEGMENT {
            match bytes.get(at..).and_then(|bytes| message(bytes, self.number)) {
                Some((CAP, _)) => return None,
                Some((_, length)) => at += length,
                None => return Some(at),
            }
        }
        None
    }
}

/// The kind and length of the valid message at this position.
fn message(bytes: &[u8], segment: u64) -> Option<(u8, usize)> {
    let mut rest = bytes;
    let crc = u32::from_le_bytes(*rest.split_off(..4)?.first_chunk()?);
    let kind = *rest.split_off_first()?;
    let length = varint(&mut rest)?;
    let number = varint(&mut rest)?;
    let _page = varint(&mut rest)?;
    let head = bytes.len() - rest.len();
    let body = rest.get(..usize::try_from(length).ok()?)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(body);
    hasher.update(&bytes[4..head]);
    let is_whole = KINDS.contains(&kind) && number == segment && hasher.finalize() ^ u32::MAX == crc;
    is_whole.then_some((kind, head + body.len()))
}

/// A number in sled's variable-length encoding.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let first = *bytes.split_off_first()?;
    let more = match first {
        0..=240 => 0,
        241..=248 => 1,
        _ => usize::from(first) - 247,
    };
    let rest = bytes.split_off(..more)?;
    Some(match (first, rest) {
        (0..=240, _) => first.into(),
        (241..=248, &[low]) => 240 + 256 * (u64::from(first) - 241) + u64::from(low),
        (249, &[high, low]) => 2_288 + 256 * u64::from(high) + u64::from(low),
        _ => {
            let mut number = [0; 8];
            number.get_mut(..rest.len())?.copy_from_slice(rest);
            u64::from_le_bytes(number)
        }
    })
}

fn read_at_most(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < bytes.len() {
        match file.read_at(&mut bytes[length..], at + length as u64)? {
            0 => break,
            more => length += more,
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database with some segments, written in this order of generations.
    fn database(folder: &Path, rounds: u64) -> Vec<u8> {
        let config = ::sled::Config::new().path(folder).flush_every_ms(None);
        let db = config.open().unwrap();
        for round in 1..=rounds {
            for n in 0..300_u64 {
                let key = [b"m", &n.to_be_bytes()[..]].concat();
                for (key, value) in crate::store::sled::record::entries(&key, &[7; 1_000], round) {
                    db.insert(key, value).unwrap();
                }
            }
            db.flush().unwrap();
        }
        drop(db);
        std::fs::read(folder.join("db")).unwrap()
    }

    #[test]
    fn an_intact_file_is_distinguished_from_a_damaged_one() {
        let folder = tempfile::tempdir().unwrap();
        let (path, mut seen) = (folder.path().join("copy"), 0);
        for rounds in [0, 1, 3, 9] {
            let sound = database(&folder.path().join(rounds.to_string()), rounds);
            std::fs::write(&path, &sound).unwrap();
            assert!(looks_intact(&path).unwrap(), "{rounds}");
            let used = sound.iter().rposition(|byte| *byte != 0).unwrap();
            for at in (HEAD..used).step_by(used / 25 + 1) {
                let mut damaged = sound.clone();
                damaged[at] ^= 1;
                std::fs::write(&path, &damaged).unwrap();
                seen += u32::from(!looks_intact(&path).unwrap());
            }
        }
        // Damage in overwritten parts need not be detected.
        assert!(seen > 60, "{seen} of 100 damages were seen");
    }

    #[test]
    fn arbitrary_bytes_do_not_cause_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        for length in [0, 1, HEAD, 600, SEGMENT, SEGMENT + 5] {
            std::fs::write(&path, vec![0xA5; length]).unwrap();
            let _ = looks_intact(&path).unwrap();
        }
        for first in 0..=u8::MAX {
            let _ = varint(&mut &[first, 1, 2, 3, 4, 5, 6, 7, 8][..]);
            let _ = varint(&mut &[first][..]);
        }
    }
}
