//! Describes the first syntax error of a file that is not TOML, and says what to write instead.
//!
//! After an error the parser continues and reports further errors that may only follow from it. So only the first one
//! is reported.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue, Error};

use super::diagnostics::Problems;

/// Reports the first error of the parser. `start` is the offset of this file.
pub(super) fn report(text: &str, start: usize, errors: &[Error], problems: &mut Problems) {
    let place = |error: &Error| error.span().unwrap_or(0..0);
    let Some(first) = errors.iter().min_by_key(|error| place(error).start) else {
        return;
    };
    let span = place(first);
    let shifted = |span: Range<usize>| span.start + start..span.end + start;
    if first.message() == "duplicate key" {
        let (key, message) = match Duplicate::find(text, &span) {
            Some(duplicate) => duplicate.describe(problems, start),
            None => (String::new(), "is defined twice".to_owned()),
        };
        problems.error(&shifted(span), key, message);
        return;
    }
    let (span, message) = describe(text, span, first.message());
    problems.error(&shifted(span), "", message);
}

/// A message for a common mistake, or else that of the parser, and the place that it refers to.
fn describe(text: &str, span: Range<usize>, words: &str) -> (Range<usize>, String) {
    if words.ends_with("string, expected `\"`") || words.ends_with("string, expected `'`") {
        let message = "not TOML: the string that begins on this line has no closing quote";
        return (string_start(text, span.start, words), message.to_owned());
    }
    let rest = text.get(span.start..).unwrap_or_default();
    if rest.starts_with(':') && words.starts_with("invalid unquoted key") {
        return (
            span,
            "not TOML: write `=` between a key and its value, not `:`".to_owned(),
        );
    }
    if words.starts_with("invalid unquoted key") {
        let message =
            "not TOML: a key with characters other than letters, digits, `-` and `_` needs quotes around it";
        return (span, message.to_owned());
    }
    if words.contains("missing escaped value") || words.contains("escape") {
        return (
            span,
            format!("not TOML: {words} (write regular expressions in 'single quotes')"),
        );
    }
    let unquoted = ["string values must be quoted", "invalid "]
        .iter()
        .any(|start| words.starts_with(start));
    match unquoted.then(|| bare_value(text, span.start)).flatten() {
        Some(value) if value.is_empty() => (value, "not TOML: there is no value after the `=`".to_owned()),
        // The value is not quoted: it may be a secret.
        Some(value) => {
            let message = "not TOML: the value needs quotes around it";
            let message = match key_before(text, value.start) {
                Some(key) => format!("{message}: {key} = \"…\""),
                None => message.to_owned(),
            };
            (value, message)
        }
        None => (span, format!("not TOML: {words}")),
    }
}

/// The opening quote of the string that is unterminated at `end`.
fn string_start(text: &str, end: usize, words: &str) -> Range<usize> {
    let quote = if words.ends_with("`'`") { '\'' } else { '"' };
    let before = text.get(..end).unwrap_or_default();
    let start = if words.contains("multi-line") {
        before.rfind(&quote.to_string().repeat(3))
    } else {
        let line = before.rfind('\n').map_or(0, |at| at + 1);
        before
            .get(line..)
            .and_then(|line| line.rfind(quote))
            .map(|at| line + at)
    };
    start.map_or(end..end, |start| start..end)
}

/// The unquoted value at `at`, up to the characters that separate values.
fn bare_value(text: &str, at: usize) -> Option<Range<usize>> {
    let (before, after) = (text.get(..at)?, text.get(at..)?);
    let start = before
        .rfind(['=', '[', ',', '{', '\n'])
        .map_or(0, |sign| sign + 1);
    let end = after
        .find(['\n', '#', ',', ']', '}'])
        .map_or(text.len(), |sign| at + sign);
    let found = text.get(start..end)?;
    let trimmed = found.trim();
    let start = start + (found.len() - found.trim_start().len());
    // A value that contains a quote is a different mistake.
    (!trimmed.contains(['"', '\''])).then(|| start..start + trimmed.len())
}

/// The key of the value that begins here.
fn key_before(text: &str, at: usize) -> Option<&str> {
    let line = text.get(..at)?.trim_end().strip_suffix('=')?;
    let key = line.rsplit(['\n', '{', ',']).next()?.trim();
    (!key.is_empty() && key.len() <= 64).then_some(key)
}

/// A key or table that is defined twice.
struct Duplicate {
    /// Its path: `destination.ops`.
    path: Vec<String>,
    /// The place of its first definition.
    first: Range<usize>,
    /// Whether one definition is a table in single brackets and the other one a list in double brackets.
    mixed: bool,
}

/// A key that no file contains.
const UNIQUE: &str = "smsbridge-the-second-definition";

impl Duplicate {
    /// Renames the second definition, parses the file again, and looks for the first one in the same table.
    fn find(text: &str, second: &Range<usize>) -> Option<Self> {
        let written = text.get(second.clone())?;
        let renamed = format!("{}{UNIQUE}{}", text.get(..second.start)?, text.get(second.end..)?);
        let (root, _) = DeTable::parse_recoverable(&renamed);
        let root = root.into_inner();
        let mut path = Vec::new();
        let table = parent_of(&root, UNIQUE, &mut path)?;
        let definition = format!("{written} = 0");
        let name = DeTable::parse(&definition).ok()?.into_inner();
        let name = name.keys().next()?.get_ref().as_ref();
        let (key, value) = table.get_key_value(name)?;
        let is_list = |value: &DeValue<'_>| matches!(value, DeValue::Array(_));
        let mixed = table
            .get(UNIQUE)
            .is_some_and(|other| is_list(other.get_ref()) != is_list(value.get_ref()));
        path.push(name.to_owned());
        Some(Self {
            path,
            first: key.span(),
            mixed,
        })
    }

    fn describe(self, problems: &Problems, start: usize) -> (String, String) {
        let first = problems.location(&(self.first.start + start..self.first.end + start));
        let path = self.path.join(".");
        let next = if path == "route" {
            "; a route begins with [[route]], in double brackets".to_owned()
        } else if self.mixed {
            format!("; write either [{path}] once or [[{path}]] each time")
        } else {
            String::new()
        };
        (path, format!("is already defined at {first}{next}"))
    }
}

/// Finds the table that contains this key, at any depth below `table`; `path` becomes the path to it.
fn parent_of<'v, 't>(table: &'v DeTable<'t>, key: &str, path: &mut Vec<String>) -> Option<&'v DeTable<'t>> {
    if table.contains_key(key) {
        return Some(table);
    }
    for (name, value) in table {
        path.push(name.get_ref().to_string());
        if let Some(found) = parent_below(value, key, path) {
            return Some(found);
        }
        path.pop();
    }
    None
}

fn parent_below<'v, 't>(
    value: &'v Spanned<DeValue<'t>>,
    key: &str,
    path: &mut Vec<String>,
) -> Option<&'v DeTable<'t>> {
    match value.get_ref() {
        DeValue::Table(table) => parent_of(table, key, path),
        DeValue::Array(items) => items.iter().find_map(|item| parent_below(item, key, path)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn reported(text: &str) -> String {
        let (_, errors) = DeTable::parse_recoverable(text);
        let mut problems = Problems::none(Path::new("c.toml"), text);
        report(text, 0, &errors, &mut problems);
        problems.to_string()
    }

    #[test]
    fn only_the_first_error_is_reported_and_says_what_to_write() {
        let open = "not TOML: the string that begins on this line has no closing quote";
        let quotes = "not TOML: the value needs quotes around it";
        for (text, expected) in [
            ("a = 1\n", String::new()),
            ("[s]\nlisten = \"127.0.0.1:8080\nx = \"y\"\n[s\n", format!("2:10: error: {open}")),
            ("a = [ \"x\", \"y\nb = 1\n[t]\nc = 'x'\n", format!("1:12: error: {open}")),
            ("x = 1\na = \"\"\"\nb\n[t]\n", format!("2:5: error: {open}")),
            ("[s]\nhost = 127.0.0.1\n", format!("2:8: error: {quotes}: host = \"…\"")),
            ("host = mail.example.com # x\n", format!("1:8: error: {quotes}: host = \"…\"")),
            ("timeout = 5s\n", format!("1:11: error: {quotes}: timeout = \"…\"")),
            ("to = [ 1, +1-303 ]\n", format!("1:11: error: {quotes}")),
            ("x = { secret = hunter2 }\n", format!("1:16: error: {quotes}: secret = \"…\"")),
            ("a =\nb = 1\n", "1:4: error: not TOML: there is no value after the `=`".to_owned()),
            ("a: 5\n", "1:2: error: not TOML: write `=` between a key and its value, not `:`".to_owned()),
            (
                "+1303 = 'x'\n",
                "1:1: error: not TOML: a key with characters other than letters, digits, `-` and `_` needs quotes \
                 around it"
                    .to_owned(),
            ),
        ] {
            let expected = if expected.is_empty() { expected } else { format!("c.toml:{expected}") };
            assert_eq!(reported(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_second_definition_names_the_first() {
        for (text, expected) in [
            (
                "[d.ops]\nkind = 1\nx = 2\n[d.b]\n[d.'ops']\nkind = 1\nx = 2\n",
                "5:4: error: d.ops: is already defined at c.toml:1",
            ),
            (
                "[a]\nb = 1\n[c]\nb = 2\nx = 3\nb = 4\n",
                "6:1: error: c.b: is already defined at c.toml:4",
            ),
            (
                "x = { b = 1, b = 2 }\n",
                "1:14: error: x.b: is already defined at c.toml:1",
            ),
            (
                "[route]\na = 1\n[route]\na = 2\n",
                "3:2: error: route: is already defined at c.toml:1; a route begins with [[route]], in double brackets",
            ),
            (
                "[[r]]\na = 1\n[r]\nb = 2\n",
                "3:2: error: r: is already defined at c.toml:1; write either [r] once or [[r]] each time",
            ),
        ] {
            assert_eq!(reported(text), format!("c.toml:{expected}"), "{text:?}");
        }
    }
}
