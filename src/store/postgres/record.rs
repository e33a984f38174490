//! Messages and deliveries as columns: their records in full, and what SQL selects by.

use crate::model::delivery::Delivery;
use crate::model::message::Message;
use crate::store::Error;

/// A pending delivery to look at when its destination is served: it is due, or claimed.
pub(super) const READY: i16 = 0;
/// A pending delivery that is due later.
pub(super) const DELAYED: i16 = 1;
/// A delivery behind an earlier pending one of its queue.
pub(super) const BEHIND: i16 = 2;
/// A delivered one.
pub(super) const DELIVERED: i16 = 3;
/// A dead one that needs attention.
pub(super) const DEAD: i16 = 4;
/// A dead delivery that needs no attention.
pub(super) const ACKNOWLEDGED: i16 = 5;

/// The disposition of a message with deliveries.
pub(super) const ROUTED: i16 = 0;
/// The disposition of a message whose routes have no destination.
pub(super) const KEPT: i16 = 1;
/// The disposition of a message that matched no route.
pub(super) const UNROUTED: i16 = 2;
/// The disposition of a message that matched no route, and has deliveries.
pub(super) const UNROUTED_DELIVERED: i16 = 3;

/// Upper bound of a column with an index: an index entry may have 2700 bytes.
pub(super) const INDEXED_MAX: usize = 200;

/// The first byte of a record: the version of its format.
const VERSION: u8 = 1;

/// Encodes a message.
pub(super) fn of_message(message: &Message) -> Result<Vec<u8>, Error> {
    encode(message)
}

/// Decodes a message.
pub(super) fn message(record: &[u8]) -> Result<Message, Error> {
    decode(record)
}

/// Encodes a delivery.
pub(super) fn of_delivery(delivery: &Delivery) -> Result<Vec<u8>, Error> {
    encode(delivery)
}

/// Decodes a delivery.
pub(super) fn delivery(record: &[u8]) -> Result<Delivery, Error> {
    decode(record)
}

/// Encodes a record that only this program reads.
pub(super) fn encode<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    postcard::to_extend(value, vec![VERSION])
        .map_err(|error| Error::Failed(format!("a record cannot be encoded: {error}")))
}

/// Decodes a record.
pub(super) fn decode<T: serde::de::DeserializeOwned>(record: &[u8]) -> Result<T, Error> {
    match record.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest)
            .map_err(|error| Error::Failed(format!("a record in the database is damaged: {error}"))),
        Some((version, _)) => Err(Error::Failed(format!(
            "a record in the database has format {version}, this version of smsbridge reads format {VERSION}"
        ))),
        None => Err(Error::Failed("a record in the database is empty".to_owned())),
    }
}

/// The stage of a delivery that is written: a pending one is looked at when its destination is served.
pub(super) fn stage(delivery: &Delivery) -> i16 {
    if delivery.is_waiting() {
        READY
    } else if delivery.needs_attention() {
        DEAD
    } else if delivery.is_dead() {
        ACKNOWLEDGED
    } else {
        DELIVERED
    }
}

/// A number or name as the database stores it for searching: without the character that it cannot store, and cut.
pub(super) fn indexed(words: &str) -> String {
    let words = words.replace('\0', "\u{fffd}");
    let end = words.floor_char_boundary(INDEXED_MAX);
    words[..end].to_owned()
}

/// The content of a message in lower case, as [`crate::store::Query::matches`] compares it.
pub(super) fn folded(text: &str) -> String {
    text.to_lowercase().replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_with_an_index_is_cut_at_a_character() {
        assert_eq!(indexed("+13038675309"), "+13038675309");
        assert_eq!(indexed("a\0b"), "a\u{fffd}b");
        let long = indexed(&"é".repeat(500));
        assert_eq!(long.len(), INDEXED_MAX);
        assert_eq!(indexed(&format!("x{}", "é".repeat(500))).len(), INDEXED_MAX - 1);
    }

    #[test]
    fn a_record_of_a_later_format_is_refused() {
        let name: crate::model::message::Name = "desk".parse().unwrap();
        let record = encode(&name).unwrap();
        assert_eq!(decode::<crate::model::message::Name>(&record), Ok(name));
        for bad in [&[][..], &[2, 1, 2], &[1, 200]] {
            assert!(
                matches!(decode::<crate::model::message::Name>(bad), Err(Error::Failed(_))),
                "{bad:?}"
            );
        }
    }
}
