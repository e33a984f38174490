//! Switches off protections in test builds, to verify that the tests of these protections fail without them.
//!
//! Without the feature `sabotage` no protection can be switched off: [`is_off`] is the constant `false`, and its
//! calls are optimised away. With it, `SMSBRIDGE_SABOTAGE` names the protection to switch off (`tests/torture
//! --controls`). A release build with the feature does not compile.

#[cfg(all(feature = "sabotage", not(debug_assertions)))]
compile_error!("the feature `sabotage` takes protections away: it is for test builds only");

/// A protection that can be switched off; the description says what normally holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// `skip-sync`: a commit is synced to disk.
    Sync,
    /// `split-commit`: all entries of a commit are in one batch.
    WholeCommit,
    /// `ignore-write-errors`: a failed write or sync ends the store.
    WriteErrors,
    /// `no-dedup`: a known provider id is detected.
    Dedup,
    /// `fresh-keys`: every attempt of a delivery uses the same idempotency key.
    SameKey,
    /// `one-lane`: destinations do not wait for each other.
    OwnLane,
    /// `skip-crc`: a record must match its checksum.
    Checksum,
    /// `no-escape`: values are escaped for the medium.
    Escape,
    /// `log-texts`: the text of a message is never logged.
    QuietLog,
}

/// Returns true if this protection is switched off.
#[cfg(not(feature = "sabotage"))]
#[must_use]
pub const fn is_off(_protection: Protection) -> bool {
    false
}

/// Returns true if this protection is switched off.
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
