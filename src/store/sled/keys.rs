//! The keys of the one tree: a tag, then big-endian parts, so that the order of the bytes is the order meant.
//!
//! | key | value | what for |
//! |---|---|---|
//! | `c` | [`Ledger`](super::record::Ledger) | sums, written with every commit |
//! | `m` seq | [`Kept`](super::record::Kept) | a message, with its deliveries as they were when it was accepted |
//! | `d` seq ordinal | `Delivery` | a delivery that changed since, or came later; it stands above the one in `m` |
//! | `b` key part | bytes | what of a record did not fit in its first entry |
//! | `i` message id | seq | |
//! | `k` hash | [`Seen`](super::record::Seen) | source and provider id, to know a repeated webhook |
//! | `h` destination 0 conversation | [`Head`](super::record::Head) | the first waiting delivery of a queue |
//! | `f` destination 0 conversation seq ordinal | | the waiting deliveries behind it |
//! | `s` destination 0 due seq ordinal conversation | | when a head is due |
//! | `x` destination 0 seq ordinal | | dead deliveries |
//! | `t` destination 0 conversation | [`Root`](super::record::Root) | where a conversation's thread began |
//! | `z` destination | | paused by the operator |
//! | `!` key | bytes | set aside, damaged |
//!
//! Only heads are scheduled: a claim never meets a delivery that must wait for another one, and a queue of a
//! hundred thousand costs a claim no more than a queue of one.

use sha2::Digest as _;

use crate::message::{Conversation, MessageId, Name, Timestamp};

/// The key of the sums.
pub(super) const LEDGER: &[u8] = b"c";

pub(super) const ID: u8 = b'i';
pub(super) const PART: u8 = b'b';
pub(super) const MESSAGE: u8 = b'm';
pub(super) const DELIVERY: u8 = b'd';
pub(super) const SEEN: u8 = b'k';
pub(super) const HEAD: u8 = b'h';
pub(super) const FOLLOWER: u8 = b'f';
pub(super) const SCHEDULE: u8 = b's';
pub(super) const DEAD: u8 = b'x';
pub(super) const THREAD: u8 = b't';
pub(super) const PAUSED: u8 = b'z';
pub(super) const ASIDE: u8 = b'!';

/// One delivery's place in the order in which everything came to be owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub(super) struct Place {
    pub(super) seq: u64,
    pub(super) ordinal: u16,
}

/// The deliveries of one conversation to one destination: what keeps its order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Queue {
    pub(super) destination: Name,
    pub(super) conversation: Conversation,
}

/// A schedule entry, read back from its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) due: Timestamp,
    pub(super) place: Place,
    pub(super) queue: Queue,
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

/// What the keys of the parts of all records begin with whose own keys begin so.
pub(super) fn parts(prefix: &[u8]) -> Vec<u8> {
    join(PART, &[prefix])
}

pub(super) fn id(id: MessageId) -> Vec<u8> {
    join(ID, &[id.0.as_bytes()])
}

pub(super) fn seen(source: &Name, provider_id: &str) -> Vec<u8> {
    let digest = sha2::Sha256::new()
        .chain_update(source.as_str())
        .chain_update([0])
        .chain_update(provider_id)
        .finalize();
    join(SEEN, &[&digest[..16]])
}

pub(super) fn head(queue: &Queue) -> Vec<u8> {
    join(
        HEAD,
        &[queue.destination.as_str().as_bytes(), &[0], &queue.conversation.0],
    )
}

pub(super) fn follower(queue: &Queue, place: Place) -> Vec<u8> {
    let mut key = followers(queue);
    key.extend(place.seq.to_be_bytes());
    key.extend(place.ordinal.to_be_bytes());
    key
}

/// What the keys of all followers of one queue begin with.
pub(super) fn followers(queue: &Queue) -> Vec<u8> {
    join(
        FOLLOWER,
        &[queue.destination.as_str().as_bytes(), &[0], &queue.conversation.0],
    )
}

pub(super) fn schedule(queue: &Queue, due: Timestamp, place: Place) -> Vec<u8> {
    let mut key = of(SCHEDULE, &queue.destination);
    key.extend(sortable(due).to_be_bytes());
    key.extend(place.seq.to_be_bytes());
    key.extend(place.ordinal.to_be_bytes());
    key.extend(queue.conversation.0);
    key
}

pub(super) fn dead(destination: &Name, place: Place) -> Vec<u8> {
    let mut key = of(DEAD, destination);
    key.extend(place.seq.to_be_bytes());
    key.extend(place.ordinal.to_be_bytes());
    key
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

pub(super) fn aside(key: &[u8]) -> Vec<u8> {
    join(ASIDE, &[key])
}

/// What the keys with this tag begin with that belong to a destination.
pub(super) fn of(tag: u8, destination: &Name) -> Vec<u8> {
    join(tag, &[destination.as_str().as_bytes(), &[0]])
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

/// The place at the end of a delivery's, a follower's or a dead one's key.
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

/// Reads a schedule entry's key back.
pub(super) fn slot_of(key: &[u8]) -> Option<Slot> {
    let (destination, rest) = split(key)?;
    let (due, rest) = rest.split_first_chunk()?;
    let (place, conversation) = rest.split_at_checked(10)?;
    let conversation = Conversation(conversation.try_into().ok()?);
    let due = Timestamp((u64::from_be_bytes(*due) ^ SIGN).cast_signed());
    Some(Slot {
        due,
        place: place_of(place)?,
        queue: Queue {
            destination,
            conversation,
        },
    })
}

const SIGN: u64 = 1 << 63;

/// Keeps the order of times, also of those before 1970, in unsigned bytes.
fn sortable(time: Timestamp) -> u64 {
    time.0.cast_unsigned() ^ SIGN
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

    fn queue(name: &str) -> Queue {
        Queue {
            destination: name.parse().unwrap(),
            conversation: Conversation([0, 255, 0, 1, 2, 3, 4, 5]),
        }
    }

    #[test]
    fn keys_are_read_as_they_are_written() {
        let place = Place { seq: 7, ordinal: 300 };
        let queue = queue("desk.1");
        let slot = Slot {
            due: Timestamp(-5),
            place,
            queue: queue.clone(),
        };
        assert_eq!(slot_of(&schedule(&queue, slot.due, place)), Some(slot));
        assert_eq!(place_of(&follower(&queue, place)), Some(place));
        assert_eq!(place_of(&dead(&queue.destination, place)), Some(place));
        assert_eq!(seq_of(&delivery(place)), Some(7));
        assert_eq!(slot_of(b"s"), None);
    }

    #[test]
    fn the_schedule_is_in_the_order_of_time_and_then_of_acceptance() {
        let place = |seq| Place { seq, ordinal: 1 };
        let keys: Vec<_> = [(i64::MIN, 9), (-1, 9), (0, 9), (5, 1), (5, 2), (i64::MAX, 1)]
            .map(|(due, seq)| schedule(&queue("desk"), Timestamp(due), place(seq)))
            .into();
        assert!(keys.is_sorted());
        assert!(
            keys.iter()
                .all(|key| *key < end(&of(SCHEDULE, &queue("desk").destination)))
        );
    }

    #[test]
    fn one_destinations_keys_are_not_anothers() {
        let prefix = of(SCHEDULE, &"desk".parse().unwrap());
        assert!(!schedule(&queue("desk2"), Timestamp(0), Place { seq: 1, ordinal: 1 }).starts_with(&prefix));
    }
}
