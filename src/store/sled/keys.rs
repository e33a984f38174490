//! The keys of the one tree: a tag, then big-endian parts, so that the order of the bytes is the order meant.
//!
//! | key | value | what for |
//! |---|---|---|
//! | `c` | [`Ledger`](super::record::Ledger) | sums, written with every commit |
//! | `m` seq | [`Kept`](super::record::Kept) | a message, with its deliveries as they were when it was accepted |
//! | `d` seq ordinal | `Delivery` | a delivery that changed since, or came later; it stands above the one in `m` |
//! | `b` key part | bytes | what of a record did not fit in its first entry |
//! | `k` hash | [`Seen`](super::record::Seen) | source and provider id of a message that is gone, to know a repeated webhook |
//! | `t` destination 0 conversation | [`Root`](super::record::Root) | where a conversation's thread began |
//! | `w` | [`Timeline`](crate::timeline::Timeline) | what the last run knew about time |
//! | `y` | [`Standings`](crate::store::Standings) | how the destinations stood in the last run |
//! | `a` | [`Saved`](crate::metrics::series::Saved) | the messages of the last hour, minute by minute |
//! | `z` destination | | paused by the operator |
//! | `l` | [`Mark`](super::record::Mark) | how far of the log the database has come |
//!
//! That is all: a text costs one entry when it is accepted and one when it is delivered. What finds them,
//! the queues, the provider ids and the table for searches, is kept in memory and told from these at start.

use crate::message::{Conversation, Name};

/// The key of the sums.
pub(super) const LEDGER: &[u8] = b"c";

/// The key of what is known about time.
pub(super) const TIMELINE: &[u8] = b"w";

/// The key of how the destinations stood.
pub(super) const STANDINGS: &[u8] = b"y";

/// The key of the messages of the last hour.
pub(super) const SERIES: &[u8] = b"a";

pub(super) const PART: u8 = b'b';
pub(super) const MESSAGE: u8 = b'm';
pub(super) const DELIVERY: u8 = b'd';
pub(super) const SEEN: u8 = b'k';
pub(super) const THREAD: u8 = b't';
pub(super) const PAUSED: u8 = b'z';

/// The key of the mark.
pub(super) const MARK: &[u8] = b"l";

/// Half a SHA-256.
pub(super) type Digest = [u8; 16];

/// One delivery's place in the order in which everything came to be owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub(super) struct Place {
    pub(super) seq: u64,
    pub(super) ordinal: u16,
}

impl Place {
    /// The place in one number, in the same order. Two hundred and eighty trillion texts have room.
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

/// The deliveries of one conversation to one destination: what keeps its order.
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

/// What the keys of all deliveries of one message begin with.
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

/// The smallest key that is greater than all keys with this beginning.
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

/// The number of the message that an entry belongs to: its own, a delivery's, or a further part of one of these.
pub(super) fn owner_of(key: &[u8]) -> Option<u64> {
    let key = key.strip_prefix(&[PART]).unwrap_or(key);
    let belongs = matches!(key.first(), Some(&(MESSAGE | DELIVERY)));
    if belongs { seq_of(key) } else { None }
}

/// The place at the end of a delivery's key.
pub(super) fn place_of(key: &[u8]) -> Option<Place> {
    let (rest, ordinal) = key.split_last_chunk()?;
    let (_, seq) = rest.split_last_chunk()?;
    Some(Place {
        seq: u64::from_be_bytes(*seq),
        ordinal: u16::from_be_bytes(*ordinal),
    })
}

/// The destination and what follows it in the key of an index.
fn split(key: &[u8]) -> Option<(Name, &[u8])> {
    let key = key.get(1..)?;
    let at = key.iter().position(|&byte| byte == 0)?;
    let name = std::str::from_utf8(&key[..at]).ok()?.parse().ok()?;
    Some((name, &key[at + 1..]))
}

/// The queue that a thread's key names.
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
    fn keys_are_read_as_they_are_written() {
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
