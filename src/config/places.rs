//! Where the keys of a table are written, for what is found about them after the table was read.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

/// The place of a table and of the values in it, by path: `path`, `basic_auth.password`.
#[derive(Clone, Debug, Default)]
pub struct Places {
    table: Range<usize>,
    values: BTreeMap<String, Range<usize>>,
}

/// Tables in tables: `api.numbers` and `basic_auth.password` are one below.
const DEPTH_MAX: usize = 2;

impl Places {
    /// The places in this table.
    pub(super) fn of(table: &Spanned<DeValue<'_>>) -> Self {
        let mut places = Self {
            table: table.span(),
            values: BTreeMap::new(),
        };
        places.add(table.get_ref(), "", DEPTH_MAX);
        places
    }

    /// Where the value of this key is, or else the table.
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
