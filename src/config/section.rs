//! Reads one table of the configuration with serde and reports every error in it.
//!
//! Serde stops at its first error. So the wrong key is reported and removed from a copy of the table, and the rest is
//! read again until no error is left. A missing required key is replaced by placeholders of different types until one
//! fits, so that the next missing key is found, too.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, Error, ValueDeserializer};

use super::diagnostics::Problems;
use super::serde_errors::{quoted_after, translate};

/// A table of the configuration, or a part of it that is read as one.
#[derive(Clone, Debug)]
pub(super) struct Section<'t> {
    /// Its path in messages: `destination.desk`.
    pub key: String,
    /// Its content.
    pub value: Spanned<DeValue<'t>>,
    /// The secrets that were resolved in it, to be removed from error messages.
    pub secrets: Vec<String>,
}

/// One step from a section to a nested value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Item(usize),
}

impl<'t> Section<'t> {
    /// A section with this value.
    pub(super) fn new(key: impl Into<String>, value: Spanned<DeValue<'t>>) -> Self {
        Self {
            key: key.into(),
            value,
            secrets: Vec::new(),
        }
    }

    /// The place for problems of the section as a whole.
    pub(super) fn place(&self) -> Range<usize> {
        self.value.span()
    }

    /// Its keys and values; `None` if it is not a table.
    pub(super) fn table(&self) -> Option<&DeTable<'t>> {
        self.value.get_ref().as_table()
    }

    /// The string at this key, if it is one.
    pub(super) fn text(&self, key: &str) -> Option<Spanned<String>> {
        let value = self.table()?.get(key)?;
        Some(Spanned::new(value.span(), value.get_ref().as_str()?.to_owned()))
    }

    /// Splits the section: the named keys become a section of their own, the others stay.
    pub(super) fn split(mut self, keys: &[&str]) -> (Self, Self) {
        let mut taken = DeTable::new();
        if let DeValue::Table(table) = self.value.get_mut() {
            for key in keys {
                if let Some((key, value)) = table.remove_entry(*key) {
                    taken.insert(key, value);
                }
            }
        }
        let value = Spanned::new(self.place(), DeValue::Table(taken));
        (
            Self {
                key: self.key.clone(),
                value,
                secrets: self.secrets.clone(),
            },
            self,
        )
    }

    /// Makes the paths at these keys relative to `folder`.
    pub(super) fn root_paths(&mut self, keys: &[&str], folder: &Path) {
        let DeValue::Table(table) = self.value.get_mut() else {
            return;
        };
        for key in keys {
            if let Some(DeValue::String(path)) = table.get_mut(*key).map(Spanned::get_mut) {
                *path = folder.join(path.as_ref()).to_string_lossy().into_owned().into();
            }
        }
    }

    /// Reads the section with `parse`, which may be called several times. Reports every problem and returns `None` if
    /// there is one. `also` are known keys that were removed before, for the suggestions.
    pub(super) fn read<T>(
        &self,
        also: &[&str],
        problems: &mut Problems,
        parse: impl Fn(ValueDeserializer<'t>) -> Result<T, Error>,
    ) -> Option<T> {
        self.read_partly(also, problems, parse)
            .and_then(|(value, whole)| whole.then_some(value))
    }

    /// Like `read`, but returns the value without its wrong keys, so that the rest can still be checked, and whether
    /// it was complete. `None` when a required key is missing or wrong.
    pub(super) fn read_partly<T>(
        &self,
        also: &[&str],
        problems: &mut Problems,
        parse: impl Fn(ValueDeserializer<'t>) -> Result<T, Error>,
    ) -> Option<(T, bool)> {
        let mut reading = Reading {
            section: self,
            rest: self.value.clone(),
            also,
            placeholders: Vec::new(),
            errors: 0,
        };
        for _ in 0..ROUNDS_MAX {
            match parse(ValueDeserializer::from(reading.rest.clone())) {
                Ok(value) => {
                    return reading
                        .placeholders
                        .is_empty()
                        .then_some((value, reading.errors == 0));
                }
                Err(error) if reading.go_on(&error, problems) => {}
                Err(_) => break,
            }
        }
        None
    }
}

/// Upper bound of the errors reported for one table.
const ROUNDS_MAX: usize = 200;

struct Reading<'s, 't> {
    section: &'s Section<'t>,
    rest: Spanned<DeValue<'t>>,
    also: &'s [&'s str],
    placeholders: Vec<Placeholder>,
    errors: usize,
}

/// The placeholder of a missing required key.
struct Placeholder {
    table: Vec<Step>,
    field: String,
    tried: usize,
}

impl<'t> Reading<'_, 't> {
    /// Reports the error and removes its cause. Returns true if reading again may find more.
    fn go_on(&mut self, error: &Error, problems: &mut Problems) -> bool {
        let span = error.span().unwrap_or_else(|| self.section.place());
        if let Some(index) = placeholder_at(&span) {
            return self.placeholder(index);
        }
        if problems.is_full() {
            self.errors += 1;
            problems.error_with(&span, "", String::new);
            return false;
        }
        let mut path = Vec::new();
        locate(&self.rest, &span, &mut path);
        if let Some(field) = quoted_after(error.message(), "missing field ") {
            return self.missing(path, field, &span, problems);
        }
        if path.is_empty() && self.errors > 0 {
            return false;
        }
        self.errors += 1;
        let words = translate(error.message(), self.also_at(&path));
        problems.error(&span, self.written_path(&span), self.without_secrets(words));
        remove(&mut self.rest, &path)
    }

    /// The known keys that were removed before, which were all in the section itself and not in a nested table.
    fn also_at(&self, path: &[Step]) -> &[&str] {
        if path.len() == 1 { self.also } else { &[] }
    }

    fn missing(
        &mut self,
        table: Vec<Step>,
        field: &str,
        span: &Range<usize>,
        problems: &mut Problems,
    ) -> bool {
        let mut path = table.clone();
        path.push(Step::Key(field.to_owned()));
        if get(&self.section.value, &path).is_none() {
            problems.error(span, self.path(&table), format!("missing key `{field}`"));
        }
        self.errors += 1;
        self.placeholders.push(Placeholder {
            table,
            field: field.to_owned(),
            tried: 0,
        });
        self.placeholder(self.placeholders.len() - 1)
    }

    /// Tries a placeholder of the next type for a missing key.
    fn placeholder(&mut self, index: usize) -> bool {
        let Some(missing) = self.placeholders.get_mut(index) else {
            return false;
        };
        let span = PLACEHOLDER + index..PLACEHOLDER + index;
        let Some(value) = placeholder_value(missing.tried, &span) else {
            return false;
        };
        missing.tried += 1;
        let Some(DeValue::Table(table)) = get_mut(&mut self.rest, &missing.table) else {
            return false;
        };
        table.insert(
            Spanned::new(span.clone(), missing.field.clone().into()),
            Spanned::new(span, value),
        );
        true
    }

    /// The path as written in the file: earlier items of a list may have been removed by now.
    fn written_path(&self, span: &Range<usize>) -> String {
        let mut path = Vec::new();
        locate(&self.section.value, span, &mut path);
        self.path(&path)
    }

    fn without_secrets(&self, words: String) -> String {
        self.section
            .secrets
            .iter()
            .fold(words, |words, secret| words.replace(secret.as_str(), "***"))
    }

    fn path(&self, steps: &[Step]) -> String {
        steps
            .iter()
            .fold(self.section.key.clone(), |path, step| match step {
                Step::Key(key) if path.is_empty() => key.clone(),
                Step::Key(key) => format!("{path}.{key}"),
                Step::Item(index) => format!("{path}[{index}]"),
            })
    }
}

/// Places from here on belong to placeholders. No file is that long.
const PLACEHOLDER: usize = usize::MAX / 2;

fn placeholder_at(span: &Range<usize>) -> Option<usize> {
    span.start.checked_sub(PLACEHOLDER)
}

/// Placeholder strings of which each setting of type string accepts one: a name or number, an address, a URL.
const PLACEHOLDER_TEXTS: [&str; 3] = ["1-1234", "x@example.com", "https://example.com/"];

fn placeholder_value<'t>(attempt: usize, span: &Range<usize>) -> Option<DeValue<'t>> {
    if let Some(text) = PLACEHOLDER_TEXTS.get(attempt / 2) {
        let text = DeValue::String((*text).into());
        let list = |text| DeValue::Array([Spanned::new(span.clone(), text)].into_iter().collect());
        return Some(if attempt.is_multiple_of(2) {
            text
        } else {
            list(text)
        });
    }
    Some(match attempt - 2 * PLACEHOLDER_TEXTS.len() {
        0 => DeValue::Integer(toml::de::DeInteger::default()),
        1 => DeValue::Boolean(true),
        2 => DeValue::Array(DeArray::new()),
        3 => DeValue::Table(DeTable::new()),
        _ => return None,
    })
}

/// Finds the deepest key or value at this place. The place of a table with a header is its header, so a value may lie
/// outside of the place of its table.
fn locate(value: &Spanned<DeValue<'_>>, span: &Range<usize>, path: &mut Vec<Step>) -> bool {
    match value.get_ref() {
        DeValue::Table(table) => {
            for (key, child) in table {
                path.push(Step::Key(key.get_ref().to_string()));
                if key.span() == *span || locate(child, span, path) {
                    return true;
                }
                path.pop();
            }
        }
        DeValue::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                path.push(Step::Item(index));
                if locate(item, span, path) {
                    return true;
                }
                path.pop();
            }
        }
        _ => {}
    }
    let own = value.span();
    own.start <= span.start && span.end <= own.end
}

fn get<'v, 't>(value: &'v Spanned<DeValue<'t>>, path: &[Step]) -> Option<&'v DeValue<'t>> {
    path.iter()
        .try_fold(value, |value, step| match step {
            Step::Key(key) => value.get_ref().get(key.as_str()),
            Step::Item(index) => value.get_ref().get(*index),
        })
        .map(Spanned::get_ref)
}

fn get_mut<'v, 't>(value: &'v mut Spanned<DeValue<'t>>, path: &[Step]) -> Option<&'v mut DeValue<'t>> {
    path.iter()
        .try_fold(value, |value, step| match (step, value.get_mut()) {
            (Step::Key(key), DeValue::Table(table)) => table.get_mut(key.as_str()),
            (Step::Item(index), DeValue::Array(items)) => items.get_mut(*index),
            _ => None,
        })
        .map(Spanned::get_mut)
}

/// Removes the value at `path`. The section itself cannot be removed.
fn remove(value: &mut Spanned<DeValue<'_>>, path: &[Step]) -> bool {
    let Some((last, parents)) = path.split_last() else {
        return false;
    };
    match (last, get_mut(value, parents)) {
        (Step::Key(key), Some(DeValue::Table(table))) => table.remove(key.as_str()).is_some(),
        (Step::Item(index), Some(DeValue::Array(items))) => {
            let kept = std::mem::replace(items, DeArray::new())
                .into_iter()
                .enumerate()
                .filter(|(at, _)| at != index);
            *items = kept.map(|(_, item)| item).collect();
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Typed {
        name: String,
        port: u16,
        to: Vec<String>,
        deep: Option<Deep>,
        mode: Option<Mode>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Deep {
        user: String,
        on: bool,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        Fast,
        Slow,
    }

    fn problems(text: &str) -> Vec<String> {
        let mut problems = Problems::none(Path::new("c"), text);
        let root = DeTable::parse(text).unwrap();
        let section = Section::new("s", Spanned::new(root.span(), DeValue::Table(root.into_inner())));
        let read = section.read(&["kind"], &mut problems, Typed::deserialize);
        assert_eq!(read.is_some(), problems.all().is_empty(), "{read:?}");
        problems
            .to_string()
            .lines()
            .map(|line| line.trim_start_matches("c:").to_owned())
            .collect()
    }

    #[test]
    fn a_valid_table_is_read() {
        let none: Vec<String> = Vec::new();
        assert_eq!(
            problems("name = 'a'\nport = 1\nto = ['x']\ndeep = { user = 'u', on = true }\nmode = 'fast'"),
            none
        );
    }

    #[test]
    fn every_wrong_key_is_reported_at_once() {
        assert_eq!(
            problems(
                "nam = 'a'\nport = 'hunter2'\nto = ['x', 5, 6]\nkid = 1\nmode = 'fats'\n[deep]\nuser = 1\nonn = true"
            ),
            [
                "1:1: error: s.nam: unknown key; did you mean `name`? (known here: kind, name, port, to, deep, mode)",
                "1:1: error: s: missing key `name`",
                "2:8: error: s.port: expected a whole number from 0 to 65535, but this is a string",
                "3:12: error: s.to[1]: expected a string, but this is an integer",
                "3:15: error: s.to[2]: expected a string, but this is an integer",
                "4:1: error: s.kid: unknown key; did you mean `kind`? (known here: kind, name, port, to, deep, mode)",
                "5:8: error: s.mode: unknown value `fats`; did you mean `fast`? (known here: fast, slow)",
                "6:1: error: s.deep: missing key `on`",
                "7:8: error: s.deep.user: expected a string, but this is an integer",
                "8:1: error: s.deep.onn: unknown key; did you mean `on`? (known here: user, on)",
            ]
        );
    }

    #[test]
    fn every_missing_key_is_reported_at_once() {
        assert_eq!(
            problems("deep = {}"),
            [
                "1:1: error: s: missing key `name`",
                "1:1: error: s: missing key `port`",
                "1:1: error: s: missing key `to`",
                "1:8: error: s.deep: missing key `user`",
                "1:8: error: s.deep: missing key `on`",
            ]
        );
    }
}
