//! Reads a table of the configuration with `deserr`, which reports every problem at once, each with its path.
//!
//! A type of the configuration derives `Deserr` with the error [`Errors`]; a value with a form of its own implements it
//! with [`text`] or [`whole_number`].

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;

use deserr::{
    DeserializeError, Deserr, ErrorKind, IntoValue, Map, MergeWithError, Sequence, Value, ValueKind,
    ValuePointerRef,
};
use toml::Spanned;
use toml::de::{DeArray, DeString, DeTable, DeValue};

/// A value of a TOML file that is to be read.
pub struct Node<'t>(DeValue<'t>);

/// A list of such values.
pub struct List<'t>(DeArray<'t>);

/// A table of such values.
pub struct Table<'t>(DeTable<'t>);

/// One step from a table to a value in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// To the value of this key.
    Key(String),
    /// To this item of a list.
    Item(usize),
}

/// Every problem of a table, in the order in which they were found.
#[derive(Debug, Default)]
pub struct Errors(Vec<Problem>);

/// An error, and the path of the value that it concerns.
#[derive(Debug)]
pub struct Problem {
    /// The path from the table that was read.
    pub path: Vec<Step>,
    /// The error.
    pub wrong: Wrong,
}

/// The error in a value.
#[derive(Debug)]
pub enum Wrong {
    /// The table at the path lacks this key.
    MissingKey(String),
    /// The table at the path has a key that is not one of these.
    UnknownKey {
        /// The key.
        key: String,
        /// The keys that it may have.
        known: Vec<String>,
    },
    /// The word at the path is not one of these.
    UnknownWord {
        /// The word.
        word: String,
        /// The words that it may be.
        known: Vec<String>,
    },
    /// Anything else, as a sentence for the operator.
    Other(String),
}

/// Upper bound of the problems of one table.
const PROBLEMS_MAX: usize = 200;

impl Errors {
    /// One problem.
    #[must_use]
    pub fn at(path: ValuePointerRef<'_>, wrong: Wrong) -> Self {
        let path = steps(path);
        Self(vec![Problem { path, wrong }])
    }

    /// A value of the wrong type. It is not quoted: it may be a secret in the wrong place.
    #[must_use]
    pub fn mistyped(path: ValuePointerRef<'_>, expected: &str, found: ValueKind) -> Self {
        let message = format!("expected {expected}, but this is {}", found_type(found));
        Self::at(path, Wrong::Other(message))
    }

    /// The problems.
    #[must_use]
    pub fn all(&self) -> &[Problem] {
        &self.0
    }
}

/// The first problem, without its path.
impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.first().map(|problem| &problem.wrong) {
            None => f.write_str("no problem"),
            Some(Wrong::MissingKey(key)) => write!(f, "missing key `{key}`"),
            Some(Wrong::UnknownKey { key, .. }) => write!(f, "unknown key `{key}`"),
            Some(Wrong::UnknownWord { word, .. }) => write!(f, "unknown value `{word}`"),
            Some(Wrong::Other(message)) => f.write_str(message),
        }
    }
}

impl MergeWithError<Self> for Errors {
    fn merge(earlier: Option<Self>, later: Self, _: ValuePointerRef<'_>) -> ControlFlow<Self, Self> {
        let mut all = earlier.unwrap_or_default();
        all.0.extend(later.0);
        if all.0.len() < PROBLEMS_MAX {
            ControlFlow::Continue(all)
        } else {
            ControlFlow::Break(all)
        }
    }
}

impl DeserializeError for Errors {
    fn error<V: IntoValue>(
        earlier: Option<Self>,
        error: ErrorKind<'_, V>,
        path: ValuePointerRef<'_>,
    ) -> ControlFlow<Self, Self> {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let found = match error {
            ErrorKind::IncorrectValueKind { actual, accepted } => {
                let expected = accepted.first().copied().map_or("another type", expected_type);
                Self::mistyped(path, expected, actual.kind())
            }
            ErrorKind::MissingField { field } => Self::at(path, Wrong::MissingKey(field.to_owned())),
            ErrorKind::UnknownKey { key, accepted } => Self::at(
                path,
                Wrong::UnknownKey {
                    key: key.to_owned(),
                    known: owned(accepted),
                },
            ),
            ErrorKind::UnknownValue { value, accepted } => Self::at(
                path,
                Wrong::UnknownWord {
                    word: value.to_owned(),
                    known: owned(accepted),
                },
            ),
            ErrorKind::BadSequenceLen { expected, .. } => {
                Self::at(path, Wrong::Other(format!("expected a list of {expected}")))
            }
            ErrorKind::Unexpected { msg } => Self::at(path, Wrong::Other(msg)),
        };
        Self::merge(earlier, found, path)
    }
}

fn steps(path: ValuePointerRef<'_>) -> Vec<Step> {
    let (mut steps, mut rest) = (Vec::new(), &path);
    loop {
        rest = match rest {
            ValuePointerRef::Origin => break,
            ValuePointerRef::Key { key, prev } => {
                steps.push(Step::Key((*key).to_owned()));
                prev
            }
            ValuePointerRef::Index { index, prev } => {
                steps.push(Step::Item(*index));
                prev
            }
        };
    }
    steps.reverse();
    steps
}

fn expected_type(kind: ValueKind) -> &'static str {
    match kind {
        ValueKind::Null => "nothing",
        ValueKind::Boolean => "true or false",
        ValueKind::Integer | ValueKind::NegativeInteger => "a whole number",
        ValueKind::Float => "a number",
        ValueKind::String => "a string",
        ValueKind::Sequence => "a list in [ ]",
        ValueKind::Map => "a table",
    }
}

fn found_type(kind: ValueKind) -> &'static str {
    match kind {
        // Only a date or time becomes this: nothing else of TOML is without a counterpart.
        ValueKind::Null => "a date or time",
        ValueKind::Boolean => "a boolean",
        ValueKind::Integer | ValueKind::NegativeInteger => "an integer",
        ValueKind::Float => "a number with a fraction",
        ValueKind::String => "a string",
        ValueKind::Sequence => "a list",
        ValueKind::Map => "a table",
    }
}

/// Reads a value.
///
/// # Errors
/// Every problem in it.
pub fn read<T: Deserr<Errors>>(value: DeValue<'_>) -> Result<T, Errors> {
    deserr::deserialize(Node(value))
}

/// Reads a string in TOML that belongs to the program, or to a test.
///
/// # Errors
/// The first syntax error, or the first problem.
pub fn from_toml<T: Deserr<Errors>>(text: &str) -> Result<T, String> {
    let table = DeTable::parse(text).map_err(|error| error.message().to_owned())?;
    read(DeValue::Table(table.into_inner())).map_err(|errors: Errors| errors.to_string())
}

/// Reads a string with `parse`; `expected` describes it.
///
/// # Errors
/// It is not a string, or `parse` says why it is wrong.
pub fn text<V: IntoValue, T>(
    value: Value<V>,
    path: ValuePointerRef<'_>,
    expected: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, Errors> {
    match value {
        Value::String(text) => parse(&text).map_err(|message| Errors::at(path, Wrong::Other(message))),
        other => Err(Errors::mistyped(path, expected, other.kind())),
    }
}

/// Reads a whole number from `least` to `most`.
///
/// # Errors
/// It is not one.
pub fn whole_number<V: IntoValue>(
    value: &Value<V>,
    path: ValuePointerRef<'_>,
    least: u64,
    most: u64,
) -> Result<u64, Errors> {
    match value {
        Value::Integer(number) if (least..=most).contains(number) => Ok(*number),
        Value::Integer(_) | Value::NegativeInteger(_) => Err(Errors::at(
            path,
            Wrong::Other(format!("must be from {least} to {most}")),
        )),
        other => {
            let expected = format!("a whole number from {least} to {most}");
            Err(Errors::mistyped(path, &expected, other.kind()))
        }
    }
}

/// A value together with its path, for problems that are found after the table was read.
#[derive(Clone, Debug)]
pub struct Placed<T> {
    /// The path from the table that was read.
    pub path: Vec<Step>,
    /// The value.
    pub value: T,
}

impl<T: Deserr<Errors>> Deserr<Errors> for Placed<T> {
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef<'_>,
    ) -> Result<Self, Errors> {
        Ok(Self {
            path: steps(location),
            value: T::deserialize_from_value(value, location)?,
        })
    }
}

/// A table with keys of the operator's choice. The implementation for maps in `deserr` ignores wrong values.
#[derive(Clone, Debug)]
pub struct Members<T>(pub BTreeMap<String, T>);

impl<T: Deserr<Errors>> Deserr<Errors> for Members<T> {
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef<'_>,
    ) -> Result<Self, Errors> {
        let map = match value {
            Value::Map(map) => map,
            other => {
                return Err(Errors::mistyped(
                    location,
                    expected_type(ValueKind::Map),
                    other.kind(),
                ));
            }
        };
        let (mut members, mut errors) = (BTreeMap::new(), Errors::default());
        for (key, value) in map.into_iter() {
            match T::deserialize_from_value(value.into_value(), location.push_key(&key)) {
                Ok(value) => drop(members.insert(key, value)),
                Err(found) => errors.0.extend(found.0),
            }
        }
        if errors.0.is_empty() {
            Ok(Self(members))
        } else {
            Err(errors)
        }
    }
}

impl<T> From<Members<T>> for BTreeMap<String, T> {
    fn from(Members(members): Members<T>) -> Self {
        members
    }
}

impl<'t> IntoValue for Node<'t> {
    type Sequence = List<'t>;
    type Map = Table<'t>;

    fn kind(&self) -> ValueKind {
        match &self.0 {
            DeValue::String(_) => ValueKind::String,
            DeValue::Integer(_) => ValueKind::Integer,
            DeValue::Float(_) => ValueKind::Float,
            DeValue::Boolean(_) => ValueKind::Boolean,
            DeValue::Datetime(_) => ValueKind::Null,
            DeValue::Array(_) => ValueKind::Sequence,
            DeValue::Table(_) => ValueKind::Map,
        }
    }

    fn into_value(self) -> Value<Self> {
        match self.0 {
            DeValue::String(text) => Value::String(text.into_owned()),
            DeValue::Integer(number) => {
                let digits = i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(i128::MAX);
                match (u64::try_from(digits), i64::try_from(digits)) {
                    (Ok(positive), _) => Value::Integer(positive),
                    (_, Ok(negative)) => Value::NegativeInteger(negative),
                    _ => Value::Integer(u64::MAX),
                }
            }
            DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(yes) => Value::Boolean(yes),
            DeValue::Datetime(_) => Value::Null,
            DeValue::Array(items) => Value::Sequence(List(items)),
            DeValue::Table(table) => Value::Map(Table(table)),
        }
    }
}

impl<'t> Sequence for List<'t> {
    type Value = Node<'t>;
    type Iter = std::iter::Map<<DeArray<'t> as IntoIterator>::IntoIter, fn(Spanned<DeValue<'t>>) -> Node<'t>>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn into_iter(self) -> Self::Iter {
        self.0.into_iter().map(|item| Node(item.into_inner()))
    }
}

type Entry<'t> = (Spanned<DeString<'t>>, Spanned<DeValue<'t>>);

impl<'t> Map for Table<'t> {
    type Value = Node<'t>;
    type Iter = std::iter::Map<<DeTable<'t> as IntoIterator>::IntoIter, fn(Entry<'t>) -> (String, Node<'t>)>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn remove(&mut self, key: &str) -> Option<Node<'t>> {
        self.0.remove(key).map(|value| Node(value.into_inner()))
    }

    fn into_iter(self) -> Self::Iter {
        self.0
            .into_iter()
            .map(|(key, value)| (key.into_inner().into_owned(), Node(value.into_inner())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::secret::Secret;

    #[test]
    fn a_wrong_member_of_a_table_is_reported() {
        let Members(members) = from_toml::<Members<Secret>>("x = 'a'\ny = 'b'").unwrap();
        assert_eq!(members.len(), 2);
        let errors = read::<Members<Secret>>(DeValue::Table(
            DeTable::parse("x = 1\ny = ''\nz = 'a'").unwrap().into_inner(),
        ))
        .unwrap_err();
        let paths: Vec<_> = errors.all().iter().map(|problem| problem.path.clone()).collect();
        assert_eq!(paths, [[Step::Key("x".to_owned())], [Step::Key("y".to_owned())]]);
    }
}
