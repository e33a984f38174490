//! The registry entry of a kind: its name in the configuration and the function that reads its keys.

use toml::de::DeValue;

use super::setting::Errors;

/// A registered kind of source or destination; `K` is the trait of its configuration.
pub struct Registered<K: ?Sized + 'static> {
    /// `kind` in the configuration.
    pub name: &'static str,
    /// Reads the keys that the kind adds to the common ones.
    pub read: fn(DeValue<'_>) -> Result<Box<K>, Errors>,
}

/// The names of all kinds.
pub fn names<K: ?Sized>(kinds: &'static [Registered<K>]) -> impl Iterator<Item = &'static str> {
    kinds.iter().map(|kind| kind.name)
}

/// The kind with this name.
pub fn find<K: ?Sized>(kinds: &'static [Registered<K>], name: &str) -> Option<&'static Registered<K>> {
    kinds.iter().find(|kind| kind.name == name)
}
