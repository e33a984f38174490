//! Protections that can be switched off, to show that the tests of what they protect would notice.
//!
//! Without the feature `sabotage` nothing can be: [`is_off`] is a constant `false`, and its calls vanish. With it,
//! `SMSBRIDGE_SABOTAGE` names what the process does without (`tests/torture --controls`). A release build with the
//! feature is refused by the compiler.

#[cfg(all(feature = "sabotage", not(debug_assertions)))]
compile_error!("the feature `sabotage` takes protections away: it is for test builds only");

/// Something that keeps a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// `skip-sync`: the sync before a commit counts as done.
    Sync,
    /// `split-commit`: all entries of a commit in one batch.
    WholeCommit,
    /// `ignore-write-errors`: a failed write or sync ends the store.
    WriteErrors,
    /// `no-dedup`: a known provider id is recognised.
    Dedup,
    /// `fresh-keys`: every attempt at a delivery carries the same idempotency key.
    SameKey,
    /// `one-lane`: destinations do not wait for each other.
    OwnLane,
    /// `skip-crc`: a record must match its checksum.
    Checksum,
    /// `no-escape`: a text is escaped for its medium.
    Escape,
    /// `log-texts`: no text gets into the log.
    QuietLog,
}

/// Whether this process does without it.
#[cfg(not(feature = "sabotage"))]
#[must_use]
pub const fn is_off(_protection: Protection) -> bool {
    false
}

/// Whether this process does without it.
#[cfg(feature = "sabotage")]
#[must_use]
pub fn is_off(protection: Protection) -> bool {
    use std::sync::LazyLock;
    static NAMED: LazyLock<String> =
        LazyLock::new(|| std::env::var("SMSBRIDGE_SABOTAGE").unwrap_or_default());
    let name = match protection {
        Protection::Sync => "skip-sync",
        Protection::WholeCommit => "split-commit",
        Protection::WriteErrors => "ignore-write-errors",
        Protection::Dedup => "no-dedup",
        Protection::SameKey => "fresh-keys",
        Protection::OwnLane => "one-lane",
        Protection::Checksum => "skip-crc",
        Protection::Escape => "no-escape",
        Protection::QuietLog => "log-texts",
    };
    NAMED.split(',').any(|named| named == name)
}
