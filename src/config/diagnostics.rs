//! Errors and warnings about a configuration, with their file, line and key.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Serialize, Serializer};

/// How severe a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// The configuration can be used, but this is probably a mistake.
    Warning,
}

/// An error or a warning about one place of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Error or warning.
    pub severity: Severity,
    /// The file that contains it.
    pub file: PathBuf,
    /// Line number, counted from 1; 0 when the problem concerns the file as a whole.
    pub line: usize,
    /// Column in characters, counted from 1; 0 when the problem concerns the file as a whole.
    pub column: usize,
    /// The path of the key: `destination.desk.retry.initial`, `route.urgent.deliver`.
    pub key: String,
    /// A sentence without a full stop. It never contains a secret.
    pub message: String,
}

/// Upper bound of the listed problems per severity. Further ones are only counted.
const LISTED_MAX: usize = 100;

/// Upper bound of the length of a key or a message, in bytes.
const TEXT_BYTES_MAX: usize = 1000;

/// The problems of a configuration, in the order of its files.
#[derive(Clone, Debug)]
pub struct Problems {
    file: Arc<Path>,
    problems: Vec<Problem>,
    /// The byte range of each problem, parallel to `all`.
    places: Vec<usize>,
    errors: Count,
    warnings: Count,
    texts: Vec<Arc<Text>>,
}

/// Number of problems of one severity, and how many of them are listed.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    total: usize,
    listed: usize,
}

/// One file of the configuration; a place is an offset into all files together.
#[derive(Clone, Debug, Default)]
struct Text {
    file: PathBuf,
    /// The offset of its first byte.
    start: usize,
    text: String,
    /// The byte at which each line but the first begins.
    lines: Vec<usize>,
}

impl Problems {
    /// An empty list of problems for this file.
    #[must_use]
    pub fn none(file: &Path, text: &str) -> Self {
        Self {
            file: file.into(),
            problems: Vec::new(),
            places: Vec::new(),
            errors: Count::default(),
            warnings: Count::default(),
            texts: vec![Arc::new(Text::of(file, 0, text))],
        }
    }

    /// Adds another file of the configuration. Returns the offset of its first byte, after those of the previous
    /// files.
    pub(super) fn add_file(&mut self, file: &Path, text: &str) -> usize {
        let start = self
            .texts
            .last()
            .map_or(0, |last| last.start + last.text.len() + 1);
        self.texts.push(Arc::new(Text::of(file, start, text)));
        start
    }

    /// The folder that relative paths at this place refer to: that of the file that contains the place.
    pub(super) fn folder(&self, place: &Range<usize>) -> PathBuf {
        let file = self.text(place.start).map_or(&*self.file, |text| &text.file);
        file.parent().unwrap_or(Path::new("")).to_owned()
    }

    fn text(&self, at: usize) -> Option<&Text> {
        let after = self.texts.partition_point(|text| text.start <= at);
        self.texts.get(after.checked_sub(1)?).map(AsRef::as_ref)
    }

    /// A list with the single problem of a file that could not be read.
    #[must_use]
    pub fn unreadable(file: &Path, message: String) -> Self {
        let problem = Problem {
            severity: Severity::Error,
            file: file.to_owned(),
            line: 0,
            column: 0,
            key: String::new(),
            message,
        };
        Self {
            file: file.into(),
            problems: vec![problem],
            places: vec![0],
            errors: Count { total: 1, listed: 1 },
            warnings: Count::default(),
            texts: Vec::new(),
        }
    }

    /// Frees the content of the files. No problem can be added afterwards.
    #[must_use]
    pub fn complete(self) -> Self {
        Self {
            texts: Vec::new(),
            ..self
        }
    }

    /// Adds an error at this place.
    pub fn error(&mut self, place: &Range<usize>, key: impl Into<String>, message: impl Into<String>) {
        self.note(Severity::Error, place, key.into(), message.into());
    }

    /// Like `error`, but builds the message only if the error will be listed.
    pub fn error_with(
        &mut self,
        place: &Range<usize>,
        key: impl Into<String>,
        message: impl FnOnce() -> String,
    ) {
        let message = if self.is_full() { String::new() } else { message() };
        self.error(place, key, message);
    }

    /// Adds a warning at this place.
    pub fn warning(&mut self, place: &Range<usize>, key: impl Into<String>, message: impl Into<String>) {
        self.note(Severity::Warning, place, key.into(), message.into());
    }

    /// The file and line of this place, for a message about another place: `config.toml:12`. The file name is
    /// relative to the folder of the main file.
    #[must_use]
    pub fn location(&self, place: &Range<usize>) -> String {
        let Some(text) = self.text(place.start) else {
            return self.file.display().to_string();
        };
        let folder = self.file.parent().unwrap_or(Path::new(""));
        let shown = text.file.strip_prefix(folder).unwrap_or(&text.file);
        format!("{}:{}", shown.display(), text.position(place.start).0)
    }

    /// Returns true if the configuration cannot be used.
    #[must_use]
    pub fn any_error(&self) -> bool {
        self.errors.total > 0
    }

    /// Returns true if further errors are only counted, so that their messages need not be built.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.errors.listed == LISTED_MAX
    }

    /// The listed problems.
    #[must_use]
    pub fn all(&self) -> &[Problem] {
        &self.problems
    }

    /// The number of errors in words: `1 error`.
    #[must_use]
    pub fn error_count(&self) -> String {
        counted(self.errors.total, "error")
    }

    /// The number of warnings in words: `2 warnings`.
    #[must_use]
    pub fn warning_count(&self) -> String {
        counted(self.warnings.total, "warning")
    }

    /// The number of problems that are not listed: `at least 400 more errors not listed`.
    #[must_use]
    pub fn unlisted(&self) -> Option<String> {
        let more = |count: Count, what| match count.total - count.listed {
            0 => None,
            more => Some(counted(more, what)),
        };
        let (errors, warnings) = (
            more(self.errors, "more error"),
            more(self.warnings, "more warning"),
        );
        let what = [errors, warnings].into_iter().flatten().collect::<Vec<_>>();
        // A lower bound, because some checks are skipped once the list is full.
        (!what.is_empty()).then(|| format!("at least {} not listed", what.join(" and ")))
    }

    /// The main file. Each problem names the file that contains it.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// A problem as one line for a terminal or a log: `config.toml:12:3: error: route.ops.deliver: unknown
    /// destination …`.
    #[must_use]
    pub fn line(&self, problem: &Problem) -> String {
        let file = problem.file.display();
        let place = if problem.line == 0 {
            String::new()
        } else {
            format!(":{}:{}", problem.line, problem.column)
        };
        let severity = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let key = if problem.key.is_empty() {
            String::new()
        } else {
            format!("{}: ", problem.key)
        };
        format!("{file}{place}: {severity}: {key}{}", problem.message)
    }

    /// Like `line`, without the severity, for a log line that has its own level: `config.toml:12:3:
    /// route.ops.deliver: …`.
    #[must_use]
    pub fn place(&self, problem: &Problem) -> String {
        self.line(problem)
            .replacen(": error: ", ": ", 1)
            .replacen(": warning: ", ": ", 1)
    }

    fn count(&mut self, severity: Severity) -> &mut Count {
        match severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        }
    }

    fn note(&mut self, severity: Severity, place: &Range<usize>, key: String, message: String) {
        if self.count(severity).listed == LISTED_MAX {
            self.count(severity).total += 1;
            return;
        }
        let text = self.text(place.start);
        let (line, column) = text.map_or((0, 0), |text| text.position(place.start));
        let problem = Problem {
            severity,
            file: text.map_or_else(|| self.file.to_path_buf(), |text| text.file.clone()),
            line,
            column,
            key: shortened(key),
            message: shortened(message),
        };
        if self.problems.contains(&problem) {
            return;
        }
        let count = self.count(severity);
        count.total += 1;
        count.listed += 1;
        let at = self.places.partition_point(|other| *other <= place.start);
        self.places.insert(at, place.start);
        self.problems.insert(at, problem);
    }
}

/// Limits the length of a key or message, because it may quote a value of any length.
fn shortened(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text.push('…');
    }
    text
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// One problem per line, in the order of the files.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = self.problems.iter().map(|problem| self.line(problem));
        let lines: Vec<String> = listed.chain(self.unlisted()).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Problems {}

/// The file, its problems, and how many are not listed.
impl Serialize for Problems {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let unlisted = self.unlisted();
        let mut fields = serializer.serialize_struct("Problems", 2 + usize::from(unlisted.is_some()))?;
        fields.serialize_field("file", &*self.file)?;
        fields.serialize_field("problems", &self.problems)?;
        if let Some(unlisted) = unlisted {
            fields.serialize_field("unlisted", &unlisted)?;
        }
        fields.end()
    }
}

impl Text {
    fn of(file: &Path, start: usize, text: &str) -> Self {
        Self {
            file: file.to_owned(),
            start,
            text: text.to_owned(),
            lines: text.match_indices('\n').map(|(at, _)| at + 1).collect(),
        }
    }

    /// Line and column of a byte, both counted from 1.
    fn position(&self, at: usize) -> (usize, usize) {
        let at = at.saturating_sub(self.start).min(self.text.len());
        let line = self.lines.partition_point(|start| *start <= at);
        let start = line.checked_sub(1).and_then(|line| self.lines.get(line));
        let before = self.text.get(start.copied().unwrap_or_default()..at);
        (line + 1, before.unwrap_or_default().chars().count() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_shown_in_the_order_of_the_file_with_their_place() {
        let mut problems = Problems::none(Path::new("config.toml"), "a = 1\nbé = 2\n");
        problems.error(&(11..12), "b", "second");
        problems.warning(&(0..1), "a", "first");
        problems.error(&(11..12), "b", "second");
        assert_eq!(
            problems.to_string(),
            "config.toml:1:1: warning: a: first\nconfig.toml:2:5: error: b: second"
        );
        assert!(problems.any_error());
    }

    #[test]
    fn a_place_beyond_the_end_is_the_end() {
        let file = Path::new("c.toml");
        assert_eq!(Text::of(file, 0, "ab\nc").position(99), (2, 2));
        assert_eq!(Text::of(file, 0, "").position(5), (1, 1));
    }

    #[test]
    fn a_problem_names_the_file_that_contains_it() {
        let mut problems = Problems::none(Path::new("/etc/x/config.toml"), "a = 1\n");
        let start = problems.add_file(Path::new("/etc/x/conf.d/b.toml"), "b = 1\nc = 2\n");
        problems.error(&(start + 6..start + 7), "c", "second");
        problems.error(&(0..1), "a", "first");
        assert_eq!(
            problems.to_string(),
            "/etc/x/config.toml:1:1: error: a: first\n/etc/x/conf.d/b.toml:2:1: error: c: second"
        );
        assert_eq!(problems.location(&(start + 6..start + 7)), "conf.d/b.toml:2");
        assert_eq!(problems.folder(&(start..start)), Path::new("/etc/x/conf.d"));
    }

    #[test]
    fn a_long_quotation_is_cut() {
        let mut problems = Problems::none(Path::new("c.toml"), "x");
        problems.error(&(0..1), "é".repeat(2000), "x".repeat(2000));
        let problem = &problems.all()[0];
        assert_eq!(problem.key, format!("{}…", "é".repeat(500)));
        assert_eq!(problem.message, format!("{}…", "x".repeat(1000)));
    }

    #[test]
    fn problems_beyond_the_limit_are_only_counted() {
        let mut problems = Problems::none(Path::new("c.toml"), "x");
        for number in 0..250 {
            problems.error(&(0..1), "x", format!("{number}"));
        }
        problems.warning(&(0..1), "x", "odd");
        assert!(problems.is_full() && problems.all().len() == 101);
        assert_eq!(problems.error_count(), "250 errors");
        assert_eq!(problems.warning_count(), "1 warning");
        assert_eq!(
            problems.unlisted().unwrap(),
            "at least 150 more errors not listed"
        );
        assert!(
            problems
                .to_string()
                .ends_with("\nat least 150 more errors not listed")
        );
    }

    #[test]
    fn problems_serialise_for_machines() {
        let mut problems = Problems::none(Path::new("c.toml"), "x");
        problems.error(&(0..1), "x", "no");
        assert_eq!(
            serde_json::to_value(&problems).unwrap(),
            serde_json::json!({"file": "c.toml", "problems": [
                {"severity": "error", "file": "c.toml", "line": 1, "column": 1, "key": "x", "message": "no"}]})
        );
    }
}
