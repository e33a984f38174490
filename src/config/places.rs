//! Where the keys of a table are in the file, for problems found after the table was read.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

/// The place of a table and of its values, by path: `path`, `basic_auth.password`.
#[derive(Clone, Debug, Default)]
pub struct Places {
    table: Range<usize>,
    values: BTreeMap<String, Range<usize>>,
}

/// How deep nested tables are followed: `api.numbers` and `basic_auth.password` are one level below.
const DEPTH_MAX: usize = 2;

impl Places {
    /// Collects the places of this table.
    pub(super) fn of(table: &Spanned<DeValue<'_>>) -> Self {
        let mut places = Self {
            table: table.span(),
            values: BTreeMap::new(),
        };
        places.add(table.get_ref(), "", DEPTH_MAX);
        places
    }

    /// The place of this key's value, or else of the table.
    #[must_use]
    pub fn of_key(&self, key: &str) -> &Range<usize> {
        self.values.get(key).unwrap_or(&self.table)
    }

    fn add(&mut self, value: &DeValue<'_>, before: &str, depth: usize) {
        let DeValue::Table(table) = value else { return };
        for (key, value) in table.iter().filter(|_| depth > 0) {
            let path = format!("{before}{}", key.get_ref());
            self.add(value.get_ref(), &format!("{path}."), depth - 1);
            self.values.insert(path, value.span());
        }
    }
}
