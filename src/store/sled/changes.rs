//! Changes of entries, as kept in the layers over the database.

use std::collections::BTreeMap;

use ::sled::IVec;

/// The new values by key; `None` removes the key.
pub(super) type Changes = BTreeMap<IVec, Option<IVec>>;

/// A key with its new value, or `None` if it is removed.
pub(super) type Change = (IVec, Option<IVec>);

/// Returns the change with the smaller key; for equal keys, that of the upper layer.
pub(super) fn earlier(upper: Option<Change>, lower: Option<Change>) -> Option<Change> {
    match (upper, lower) {
        (Some(upper), Some(lower)) => Some(if lower.0 < upper.0 { lower } else { upper }),
        (upper, lower) => upper.or(lower),
    }
}

/// Returns the change with the larger key; for equal keys, that of the upper layer.
pub(super) fn later(upper: Option<Change>, lower: Option<Change>) -> Option<Change> {
    match (upper, lower) {
        (Some(upper), Some(lower)) => Some(if lower.0 > upper.0 { lower } else { upper }),
        (upper, lower) => upper.or(lower),
    }
}

pub(super) fn cloned((key, value): (&IVec, &Option<IVec>)) -> Change {
    (key.clone(), value.clone())
}
