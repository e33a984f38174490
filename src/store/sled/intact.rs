//! Whether the file of a database looks as sled left it, told without opening it.
//!
//! Where sled finds damage while opening, it zeroes what follows. That costs nothing pending, since the log has that,
//! but history that could still be read. So the file is read through before, as it has to be anyway, and copied if
//! something in it looks torn; where nothing does, no copy is made. A wrong suspicion costs a copy and nothing else.
//!
//! A file is segments of half a MiB. Each begins with its number in the sequence, and has messages with a checksum
//! each, up to one that fills the rest. Only the segment with the highest number may end earlier.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::record::{Entry, MAGIC};

const SEGMENT: usize = 512 << 10;
const HEAD: usize = 20;

/// No message begins closer to the end of a segment than this.
const MESSAGE_HEAD_MAX: usize = 32;

/// The kind of the message that fills the rest of a segment.
const CAP: u8 = 2;
const KINDS: std::ops::RangeInclusive<u8> = 1..=11;

/// Reads the file to its end. What the disk does not give is an error.
pub(super) fn looks_intact(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    let mut bytes = vec![0; SEGMENT];
    let (mut is_intact, mut tip, mut stable) = (true, None, 0);
    for at in (0..file.metadata()?.len()).step_by(SEGMENT) {
        let length = read_at_most(&file, &mut bytes, at)?;
        let Some(segment) = Segment::read(&bytes[..length]) else {
            // One that was given back is zeroed.
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

/// Whether nothing was written behind this place after what stands before it.
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
    /// The place in the sequence.
    number: u64,
    /// How far the log was on disk.
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

    /// Where the messages end too early; nothing when they fill the segment.
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

/// The kind and the length of the undamaged message that begins here.
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

/// A number as sled writes it.
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

    /// A database of some segments, written in this order of generations.
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
    fn a_sound_file_looks_intact_and_a_damaged_one_does_not() {
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
        // What was written over before need not be noticed.
        assert!(seen > 60, "{seen} of 100 damages were seen");
    }

    #[test]
    fn no_bytes_make_reading_panic() {
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
