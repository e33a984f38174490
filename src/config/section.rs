//! One table of the configuration: reads it, and reports every problem in it with its place in the file.

use std::ops::Range;
use std::path::Path;

use deserr::Deserr;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::diagnostics::Problems;
use super::suggest::suggestion;
use crate::model::setting::{self, Errors, Placed, Problem, Step, Wrong};

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

    /// Reads the section. Reports every problem and returns `None` if there is one. `also` are known keys that were
    /// removed before, for the suggestions.
    pub(super) fn read<T: Deserr<Errors>>(&self, also: &[&str], problems: &mut Problems) -> Option<T> {
        self.read_with(also, problems, setting::read)
    }

    /// Like `read`, with a function of a kind.
    pub(super) fn read_with<T>(
        &self,
        also: &[&str],
        problems: &mut Problems,
        read: impl Fn(DeValue<'t>) -> Result<T, Errors>,
    ) -> Option<T> {
        read(self.value.get_ref().clone())
            .map_err(|errors| self.report(&errors, also, problems))
            .ok()
    }

    /// Like `read`, but returns the value without its wrong keys, so that the rest can still be checked, and whether
    /// it was complete. `None` when a required key is missing or wrong.
    pub(super) fn read_partly<T: Deserr<Errors>>(&self, problems: &mut Problems) -> Option<(T, bool)> {
        let errors = match setting::read(self.value.get_ref().clone()) {
            Ok(value) => return Some((value, true)),
            Err(errors) => errors,
        };
        self.report(&errors, &[], problems);
        let mut rest = self.value.clone();
        let mut wrong: Vec<_> = errors.all().iter().map(wrong_value).collect();
        // From the end of each list, so that the numbers of its earlier items stay valid.
        wrong.sort_unstable();
        for path in wrong.iter().rev() {
            remove(&mut rest, path);
        }
        let rest = setting::read(rest.into_inner()).ok()?;
        Some((rest, false))
    }

    fn report(&self, errors: &Errors, also: &[&str], problems: &mut Problems) {
        for Problem { path, wrong } in errors.all() {
            // The known keys that were removed before were all in the section itself, not in a nested table.
            let also = if path.is_empty() { also } else { &[] };
            let (place, key) = match wrong {
                Wrong::UnknownKey { key, .. } => (self.place_of_key(path, key), Some(key)),
                _ => (self.place_of(path), None),
            };
            let shown = self.shown(path, key.map(String::as_str));
            problems.error_with(&place, shown, || self.without_secrets(described(wrong, also)));
        }
    }

    /// The place of the value at this path.
    pub(super) fn place_of(&self, path: &[Step]) -> Range<usize> {
        get(&self.value, path).map_or_else(|| self.place(), Spanned::span)
    }

    /// The value with its place in the file.
    pub(super) fn spanned<T>(&self, placed: Placed<T>) -> Spanned<T> {
        Spanned::new(self.place_of(&placed.path), placed.value)
    }

    fn place_of_key(&self, table: &[Step], key: &str) -> Range<usize> {
        let table = get(&self.value, table).and_then(|value| value.get_ref().as_table());
        let entry = table.and_then(|table| table.get_key_value(key));
        entry.map_or_else(|| self.place(), |(key, _)| key.span())
    }

    fn without_secrets(&self, words: String) -> String {
        self.secrets
            .iter()
            .fold(words, |words, secret| words.replace(secret.as_str(), "***"))
    }

    /// A path as the operator writes it: `destination.desk.to[1]`.
    fn shown(&self, steps: &[Step], key: Option<&str>) -> String {
        let mut shown = self.key.clone();
        let keys = key.map(|key| Step::Key(key.to_owned()));
        for step in steps.iter().chain(&keys) {
            match step {
                Step::Item(index) => shown.push_str(&format!("[{index}]")),
                Step::Key(key) if shown.is_empty() => shown.push_str(key),
                Step::Key(key) => {
                    shown.push('.');
                    shown.push_str(key);
                }
            }
        }
        shown
    }
}

fn described(wrong: &Wrong, also: &[&str]) -> String {
    match wrong {
        Wrong::MissingKey(key) => format!("missing key `{key}`"),
        Wrong::UnknownKey { key, known } => {
            let known = also.iter().copied().chain(known.iter().map(String::as_str));
            format!("unknown key{}", suggestion(key, known))
        }
        Wrong::UnknownWord { word, known } => {
            format!(
                "unknown value `{word}`{}",
                suggestion(word, known.iter().map(String::as_str))
            )
        }
        Wrong::Other(message) => message.clone(),
    }
}

/// The path of the value that is to be left out because of this problem.
fn wrong_value(problem: &Problem) -> Vec<Step> {
    let mut path = problem.path.clone();
    if let Wrong::UnknownKey { key, .. } = &problem.wrong {
        path.push(Step::Key(key.clone()));
    }
    path
}

fn get<'v, 't>(value: &'v Spanned<DeValue<'t>>, path: &[Step]) -> Option<&'v Spanned<DeValue<'t>>> {
    path.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get_ref().get(key.as_str()),
        Step::Item(index) => value.get_ref().get(*index),
    })
}

/// Removes the value at `path`. The section itself cannot be removed.
fn remove(value: &mut Spanned<DeValue<'_>>, path: &[Step]) {
    let Some((last, parents)) = path.split_last() else {
        return;
    };
    let parent = parents
        .iter()
        .try_fold(value, |value, step| match (step, value.get_mut()) {
            (Step::Key(key), DeValue::Table(table)) => table.get_mut(key.as_str()),
            (Step::Item(index), DeValue::Array(items)) => items.get_mut(*index),
            _ => None,
        });
    match (last, parent.map(Spanned::get_mut)) {
        (Step::Key(key), Some(DeValue::Table(table))) => drop(table.remove(key.as_str())),
        (Step::Item(index), Some(DeValue::Array(items))) => {
            let kept = std::mem::replace(items, DeArray::new()).into_iter().enumerate();
            *items = kept
                .filter_map(|(at, item)| (at != *index).then_some(item))
                .collect();
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::units::Port;

    #[derive(Debug, Deserr)]
    #[deserr(error = Errors, deny_unknown_fields)]
    #[allow(dead_code)]
    struct Typed {
        name: String,
        #[deserr(from(Port) = u16::from)]
        port: u16,
        to: Vec<String>,
        #[deserr(default)]
        deep: Option<Deep>,
        #[deserr(default)]
        mode: Option<Mode>,
    }

    #[derive(Debug, Deserr)]
    #[deserr(error = Errors, deny_unknown_fields)]
    #[allow(dead_code)]
    struct Deep {
        user: String,
        on: bool,
    }

    #[derive(Debug, Deserr)]
    #[deserr(error = Errors, rename_all = lowercase)]
    enum Mode {
        Fast,
        Slow,
    }

    fn problems(text: &str) -> Vec<String> {
        let mut problems = Problems::none(Path::new("c"), text);
        let root = DeTable::parse(text).unwrap();
        let section = Section::new("s", Spanned::new(root.span(), DeValue::Table(root.into_inner())));
        let read = section.read::<Typed>(&["kind"], &mut problems);
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
