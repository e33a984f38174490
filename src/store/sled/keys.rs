//! The keys of the tree: a tag, followed by big-endian parts, so that the order of the bytes is the logical order.
//!
//! | key | value | purpose |
//! |---|---|---|
//! | `c` | [`Ledger`](super::record::Ledger) | counters, written with every commit |
//! | `m` seq | [`Kept`](super::record::Kept) | a message, with its deliveries as they were when it was accepted |
//! | `d` seq ordinal | `Delivery` | a delivery that was changed or added later; takes precedence over `m` |
//! | `b` key part | bytes | the parts of a record that did not fit in its first entry |
//! | `k` hash | [`Seen`](super::record::Seen) | source and provider id of a removed message, to detect duplicates |
//! | `t` destination 0 conversation | [`Root`](super::record::Root) | the root of a conversation's thread |
//! | `w` | [`Timeline`](crate::timeline::Timeline) | the clock state of the last run |
//! | `y` | [`Standings`](crate::store::Standings) | the states of the destinations in the last run |
//! | `a` | [`Saved`](crate::metrics::series::Saved) | the messages of the last hour, by minute |
//! | `n` | [`Notices`](crate::model::notices::Notices) | the problems that were told to the operator |
//! | `z` destination | | paused by the operator |
//! | `l` | [`Mark`](super::record::Mark) | the last frame of the log that the database contains |
//!
//! A message needs one entry when it is accepted and one when it is delivered. The indexes (queues, provider ids and
//! the search table) are kept in memory and built from these records at start.

use crate::model::message::{Conversation, Name};

/// The key of the counters.
pub(super) const LEDGER: &[u8] = b"c";

/// The key of the clock state.
pub(super) const TIMELINE: &[u8] = b"w";

/// The key of the states of the destinations.
pub(super) const STANDINGS: &[u8] = b"y";

/// The key of the messages of the last hour.
pub(super) const SERIES: &[u8] = b"a";

/// The key of the problems that were told to the operator.
pub(super) const NOTICES: &[u8] = b"n";

pub(super) const PART: u8 = b'b';
pub(super) const MESSAGE: u8 = b'm';
pub(super) const DELIVERY: u8 = b'd';
pub(super) const SEEN: u8 = b'k';
pub(super) const THREAD: u8 = b't';
pub(super) const PAUSED: u8 = b'z';

/// The key of the mark.
pub(super) const MARK: &[u8] = b"l";

/// The first half of a SHA-256.
pub(super) type Digest = [u8; 16];

/// The position of a delivery in the order of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub(super) struct Place {
    pub(super) seq: u64,
    pub(super) ordinal: u16,
}

impl Place {
    /// The position as one number with the same order. It has room for 280 trillion messages.
    pub(super) fn packed(self) -> u64 {
        self.seq << 16 | u64::from(self.ordinal)
    }

    pub(super) fn unpacked(packed: u64) -> Self {
        Self {
            seq: packed >> 16,
            ordinal: (packed & 0xFFFF) as u16,
        }
    }
}

/// A queue: the deliveries of one conversation to one destination, whose order is kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Queue {
    pub(super) destination: Name,
    pub(super) conversation: Conversation,
}

pub(super) fn message(seq: u64) -> Vec<u8> {
    join(MESSAGE, &[&seq.to_be_bytes()])
}

pub(super) fn delivery(place: Place) -> Vec<u8> {
    join(
        DELIVERY,
        &[&place.seq.to_be_bytes(), &place.ordinal.to_be_bytes()],
    )
}

/// The prefix of the keys of all deliveries of one message.
pub(super) fn deliveries(seq: u64) -> Vec<u8> {
    join(DELIVERY, &[&seq.to_be_bytes()])
}

pub(super) fn part(key: &[u8], number: u16) -> Vec<u8> {
    join(PART, &[key, &number.to_be_bytes()])
}

pub(super) fn seen(digest: Digest) -> Vec<u8> {
    join(SEEN, &[&digest])
}

pub(super) fn thread(queue: &Queue) -> Vec<u8> {
    join(
        THREAD,
        &[queue.destination.as_str().as_bytes(), &[0], &queue.conversation.0],
    )
}

pub(super) fn paused(destination: &Name) -> Vec<u8> {
    join(PAUSED, &[destination.as_str().as_bytes()])
}

/// The smallest key that is greater than all keys with this prefix.
pub(super) fn end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// The sequence number in the key of a message or delivery.
pub(super) fn seq_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*key.get(1..)?.first_chunk()?))
}

/// The sequence number of the message that an entry belongs to, for a message, a delivery, or a further part of one.
pub(super) fn owner_of(key: &[u8]) -> Option<u64> {
    let key = key.strip_prefix(&[PART]).unwrap_or(key);
    let belongs = matches!(key.first(), Some(&(MESSAGE | DELIVERY)));
    if belongs { seq_of(key) } else { None }
}

/// The position at the end of a delivery's key.
pub(super) fn place_of(key: &[u8]) -> Option<Place> {
    let (rest, ordinal) = key.split_last_chunk()?;
    let (_, seq) = rest.split_last_chunk()?;
    Some(Place {
        seq: u64::from_be_bytes(*seq),
        ordinal: u16::from_be_bytes(*ordinal),
    })
}

/// The destination in the key of an index, and the rest of the key.
fn split(key: &[u8]) -> Option<(Name, &[u8])> {
    let key = key.get(1..)?;
    let at = key.iter().position(|&byte| byte == 0)?;
    let name = std::str::from_utf8(&key[..at]).ok()?.parse().ok()?;
    Some((name, &key[at + 1..]))
}

/// The queue in the key of a thread.
pub(super) fn queue_of(key: &[u8]) -> Option<Queue> {
    let (destination, conversation) = split(key)?;
    let conversation = Conversation(conversation.try_into().ok()?);
    Some(Queue {
        destination,
        conversation,
    })
}

fn join(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(tag);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_parsed_as_they_are_written() {
        let place = Place { seq: 7, ordinal: 300 };
        let queue = Queue {
            destination: "desk.1".parse().unwrap(),
            conversation: Conversation([0, 255, 0, 1, 2, 3, 4, 5]),
        };
        assert_eq!(place_of(&delivery(place)), Some(place));
        assert_eq!(seq_of(&delivery(place)), Some(7));
        assert_eq!(queue_of(&thread(&queue)), Some(queue));
        assert_eq!(seq_of(b"m"), None);
        assert_eq!(Place::unpacked(place.packed()), place);
        assert!(delivery(place) < end(&deliveries(7)) && end(&deliveries(7)) <= deliveries(8));
    }
}
