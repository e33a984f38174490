//! A frame of the log: a batch of changes with a sequence number and a checksum.
//!
//! ```text
//! magic     4 bytes, none of which occurs in UTF-8
//! checksum  CRC-32C of everything after it
//! length    of the payload
//! sequence  numbers the frames of a store, from 1
//! payload   entries: key length (2), value length (4), key, value
//! ```
//!
//! Numbers are big-endian. A value length of `0xFFFF_FFFF` removes the key. Messages are UTF-8, so a carrier cannot
//! send the magic: the search for the next frame after damage finds only frames.

use ::sled::IVec;

use crate::store::sled::changes::Changes;

const MAGIC: [u8; 4] = [0xFF, 0xC1, 0xF5, 0xFE];

const HEAD: usize = 20;

/// The value length of a removed key.
const REMOVED: u32 = u32::MAX;

/// No frame is nearly as long; a greater length is damage.
const PAYLOAD_MAX: usize = 512 << 20;

/// The maximum distance of a sequence number; a greater one is damage.
const AHEAD_MAX: u64 = 1 << 40;

/// A frame in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) sequence: u64,
    pub(super) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Parses the frame that begins here; `None` if there is none or it is damaged.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
        let (magic, crc, length) = (field(head, 0), field(head, 4), field(head, 8) as usize);
        if magic != u32::from_be_bytes(MAGIC) || length > PAYLOAD_MAX {
            return None;
        }
        let payload = rest.get(..length)?;
        let sequence = sequence(head);
        (crc32c::crc32c(bytes.get(8..HEAD + length)?) == crc).then_some(Self { sequence, payload })
    }

    fn length(&self) -> usize {
        HEAD + self.payload.len()
    }

    /// The changes of the batch, in the order of application.
    pub(super) fn changes(&self) -> Entries<'a> {
        Entries(self.payload)
    }
}

/// Encodes the changes of a batch, one list after the other, as the frame with this number.
pub(super) fn encode(sequence: u64, changes: &[&Changes]) -> Vec<u8> {
    let all = || changes.iter().flat_map(|changes| changes.iter());
    let length =
        |(key, value): (&IVec, &Option<IVec>)| 6 + key.len() + value.as_ref().map_or(0, |value| value.len());
    let mut bytes = Vec::with_capacity(HEAD + all().map(length).sum::<usize>());
    bytes.extend(MAGIC);
    bytes.extend([0; 8]);
    bytes.extend(sequence.to_be_bytes());
    for (key, value) in all() {
        bytes.extend((key.len() as u16).to_be_bytes());
        bytes.extend(
            value
                .as_ref()
                .map_or(REMOVED, |value| value.len() as u32)
                .to_be_bytes(),
        );
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    let payload = (bytes.len() - HEAD) as u32;
    bytes[8..12].copy_from_slice(&payload.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// The changes in a payload.
pub(super) struct Entries<'a>(&'a [u8]);

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let (&[a, b, c, d, e, f], rest) = self.0.split_first_chunk()?;
        let length = u32::from_be_bytes([c, d, e, f]);
        let (key, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([a, b])))?;
        let (value, rest) = match length {
            REMOVED => (None, rest),
            length => {
                let (value, rest) = rest.split_at_checked(length as usize)?;
                (Some(value), rest)
            }
        };
        self.0 = rest;
        Some((key, value))
    }
}

/// Iterates over the frames of a segment, starting with this number. Frames of the file's previous use are skipped.
/// Calls `lost` with the numbers that are missing between two frames.
pub(super) struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
    next: u64,
    pub(super) lost: Vec<std::ops::Range<u64>>,
}

impl<'a> Frames<'a> {
    pub(super) fn new(bytes: &'a [u8], first: u64) -> Self {
        Self {
            bytes,
            at: 0,
            next: first,
            lost: Vec::new(),
        }
    }

    /// The end of the last frame, and the number of the next one.
    pub(super) fn end(&self) -> (usize, u64) {
        (self.at, self.next)
    }

    /// The next valid frame at or after this position that is not from a previous use.
    fn search(&self) -> Option<(usize, Frame<'a>)> {
        let expected = self.next..self.next.saturating_add(AHEAD_MAX);
        let rest = self.bytes.get(self.at..)?;
        memchr::memmem::find_iter(rest, &MAGIC).find_map(|offset| {
            let bytes = &rest[offset..];
            // The number alone identifies a frame of a previous use, so its payload need not be read.
            let may_be = bytes
                .first_chunk()
                .is_some_and(|head| expected.contains(&sequence(head)));
            let frame = if may_be { Frame::read(bytes)? } else { return None };
            Some((self.at + offset, frame))
        })
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        let here = Frame::read(self.bytes.get(self.at..)?).filter(|frame| frame.sequence == self.next);
        let (at, frame) = match here {
            Some(frame) => (self.at, frame),
            None => self.search()?,
        };
        if frame.sequence > self.next {
            self.lost.push(self.next..frame.sequence);
        }
        self.at = at + frame.length();
        self.next = frame.sequence + 1;
        Some(frame)
    }
}

fn field(head: &[u8; HEAD], at: usize) -> u32 {
    head[at..]
        .first_chunk()
        .map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

fn sequence(head: &[u8; HEAD]) -> u64 {
    head[12..]
        .first_chunk()
        .map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn changes(words: &[(&str, Option<&str>)]) -> Changes {
        let entry = |(key, value): &(&str, Option<&str>)| (IVec::from(*key), value.map(IVec::from));
        words.iter().map(entry).collect()
    }

    fn segment(numbers: std::ops::RangeInclusive<u64>) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut begins) = (Vec::new(), Vec::new());
        for number in numbers {
            begins.push(bytes.len());
            let text = "message ".repeat(number as usize % 7);
            bytes.extend(encode(number, &[&changes(&[("m1", Some(&text)), ("d1", None)])]));
        }
        begins.push(bytes.len());
        bytes.resize(bytes.len() + 500, 0);
        (bytes, begins)
    }

    #[test]
    fn frames_are_parsed_as_they_were_written() {
        let (one, two) = (
            changes(&[("a", Some("1")), ("b", None)]),
            changes(&[("a", Some(""))]),
        );
        let bytes = encode(7, &[&one, &two]);
        let frame = Frame::read(&bytes).unwrap();
        assert_eq!((frame.sequence, frame.length()), (7, bytes.len()));
        let expected: [(&[u8], Option<&[u8]>); 3] = [(b"a", Some(b"1")), (b"b", None), (b"a", Some(b""))];
        assert_eq!(frame.changes().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn frames_of_a_previous_use_of_the_file_are_skipped() {
        let (mut bytes, _) = segment(1..=9);
        let new = encode(100, &[&changes(&[("m", Some("new"))])]);
        bytes[..new.len()].copy_from_slice(&new);
        let mut frames = Frames::new(&bytes, 100);
        assert_eq!(
            frames.by_ref().map(|frame| frame.sequence).collect::<Vec<_>>(),
            [100]
        );
        assert_eq!(frames.end(), (new.len(), 101));
        assert!(frames.lost.is_empty());
    }

    proptest! {
        #[test]
        fn damage_costs_the_frames_it_is_in_and_no_other(at in 0usize..2_000, length in 1usize..200, value: u8) {
            let (sound, begins) = segment(1..=20);
            let mut bytes = sound.clone();
            let at = at % begins[20];
            let end = (at + length).min(bytes.len());
            bytes[at..end].fill(value);
            let hit: Vec<u64> = (1..=20u64)
                .filter(|&n| bytes[begins[n as usize - 1]..begins[n as usize]] != sound[begins[n as usize - 1]..begins[n as usize]])
                .collect();
            let mut frames = Frames::new(&bytes, 1);
            let read: Vec<u64> = frames.by_ref().map(|frame| frame.sequence).collect();
            let expected: Vec<u64> = (1..=20).filter(|number| !hit.contains(number)).collect();
            prop_assert_eq!(&read, &expected);
            let last = expected.last().copied().unwrap_or(0);
            let told: Vec<u64> = frames.lost.iter().cloned().flatten().collect();
            let expected: Vec<u64> = hit.into_iter().filter(|number| *number < last).collect();
            prop_assert_eq!(told, expected);
        }

        #[test]
        fn no_bytes_make_reading_panic(bytes: Vec<u8>) {
            let mut spoiled = MAGIC.to_vec();
            spoiled.extend(&bytes);
            let _ = Frames::new(&spoiled, 0).count();
            let _ = Entries(&bytes).count();
        }
    }
}
