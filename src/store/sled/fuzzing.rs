//! The entry points of the fuzz targets for records. Only in builds for fuzzing.

use ::sled::IVec;

use super::keys;
use super::record::{self, Kept, Ledger, Lookup, PART_BYTES, Root, Seen};
use crate::model::delivery::Delivery;

/// A tree without further parts.
struct Nothing;

impl Lookup for Nothing {
    fn lookup(&self, _: &[u8]) -> Result<Option<IVec>, ::sled::Error> {
        Ok(None)
    }
}

/// Reads a value as every type of record.
pub fn decode(key: &[u8], value: &[u8]) {
    let _ = record::decode::<Kept>(&Nothing, key, value);
    let _ = record::decode::<Delivery>(&Nothing, key, value);
    let _ = record::decode::<Seen>(&Nothing, key, value);
    let _ = record::decode::<Root>(&Nothing, key, value);
    let _ = record::decode::<Ledger>(&Nothing, key, value);
    let _ = keys::place_of(key).map(keys::Place::packed);
    let _ = (keys::seq_of(key), keys::queue_of(key));
}

/// Reads a payload with a valid checksum as a message, and writes it again.
pub fn with_checksum(key: &[u8], payload: &[u8]) -> Option<Vec<u8>> {
    let payload = payload.get(..payload.len().min(PART_BYTES))?;
    let (key, value) = record::entries(key, payload, record::OLDEST).into_iter().next()?;
    let kept: Kept = record::decode(&Nothing, &key, &value).ok()?;
    Some(record::encode(&kept))
}
