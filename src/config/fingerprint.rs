//! Detects changes of a part of the configuration without storing its content.

use std::fmt;

use sha2::{Digest as _, Sha256};
use toml::de::{DeTable, DeValue};

/// A hash of the meaning of a part of the configuration, including resolved secrets: a rotated secret file is a
/// change although the configuration file is the same; reordering a table or adding a comment is not.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// Prints no bytes: the hash of a weak secret would help to guess it.
impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint")
    }
}

impl Fingerprint {
    /// The fingerprint of a table or value.
    #[must_use]
    pub fn of(value: &DeValue<'_>) -> Self {
        let mut hash = Sha256::new();
        take_value(&mut hash, value);
        Self(hash.finalize().into())
    }

    /// The fingerprint of this part and of something else that it depends on.
    #[must_use]
    pub fn with(self, other: &[u8]) -> Self {
        Self(
            Sha256::new()
                .chain_update(self.0)
                .chain_update(other)
                .finalize()
                .into(),
        )
    }

    /// The first four bytes, for comparing daemons.
    #[must_use]
    pub fn short(self) -> String {
        hex::encode(&self.0[..4])
    }

    /// The fingerprint of two parts together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        self.with(&other.0)
    }
}

fn take_value(hash: &mut Sha256, value: &DeValue<'_>) {
    hash.update(value.type_str());
    match value {
        DeValue::Array(items) => {
            hash.update(items.len().to_le_bytes());
            items.iter().for_each(|item| take_value(hash, item.get_ref()));
        }
        DeValue::Table(table) => take_table(hash, table),
        DeValue::String(text) => take_text(hash, text),
        DeValue::Integer(number) => take_text(hash, &number.to_string()),
        DeValue::Float(number) => take_text(hash, number.as_str()),
        DeValue::Boolean(yes) => hash.update([u8::from(*yes)]),
        DeValue::Datetime(time) => take_text(hash, &time.to_string()),
    }
}

/// Keys are sorted, so their order in the file has no effect.
fn take_table(hash: &mut Sha256, table: &DeTable<'_>) {
    hash.update(table.len().to_le_bytes());
    for (key, value) in table {
        take_text(hash, key.get_ref());
        take_value(hash, value.get_ref());
    }
}

fn take_text(hash: &mut Sha256, text: &str) {
    hash.update(text.len().to_le_bytes());
    hash.update(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Fingerprint {
        Fingerprint::of(&DeValue::Table(DeTable::parse(text).unwrap().into_inner()))
    }

    #[test]
    fn a_fingerprint_follows_the_meaning_and_not_the_writing() {
        assert_eq!(of("a = 1\nb = [\"x\"]"), of("# hello\nb = ['x']\na = 1"));
        for other in [
            "a = 2\nb = [\"x\"]",
            "a = 1\nb = [\"x\", \"x\"]",
            "a = 1\nb = \"x\"",
            "a = 1",
        ] {
            assert_ne!(of("a = 1\nb = [\"x\"]"), of(other), "{other}");
        }
        assert_ne!(of("a = 'bc'"), of("ab = 'c'"));
    }
}
