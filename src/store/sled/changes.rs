//! Changes of entries, as they lie in layers over the database.

use std::collections::BTreeMap;

use ::sled::IVec;

/// The new value by key; none removes it.
pub(super) type Changes = BTreeMap<IVec, Option<IVec>>;

/// An entry, or a key that is removed.
pub(super) type Change = (IVec, Option<IVec>);

/// Of two changes the one with the earlier key; the upper one where both have the same.
pub(super) fn earlier(upper: Option<Change>, lower: Option<Change>) -> Option<Change> {
    match (upper, lower) {
        (Some(upper), Some(lower)) => Some(if lower.0 < upper.0 { lower } else { upper }),
        (upper, lower) => upper.or(lower),
    }
}

/// Of two changes the one with the later key; the upper one where both have the same.
pub(super) fn later(upper: Option<Change>, lower: Option<Change>) -> Option<Change> {
    match (upper, lower) {
        (Some(upper), Some(lower)) => Some(if lower.0 > upper.0 { lower } else { upper }),
        (upper, lower) => upper.or(lower),
    }
}

pub(super) fn cloned((key, value): (&IVec, &Option<IVec>)) -> Change {
    (key.clone(), value.clone())
}
