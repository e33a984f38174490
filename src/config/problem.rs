//! What is wrong with a configuration, and where.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can, but it probably does not do what was meant.
    Warning,
}

/// One thing that is wrong, or looks so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Counted from 1; 0 when it concerns the file as a whole.
    pub line: usize,
    /// In characters, counted from 1; 0 when it concerns the file as a whole.
    pub column: usize,
    /// The key it is about, as a path: `destination.desk.retry.initial`, `route.urgent.deliver`.
    pub key: String,
    /// A sentence without a full stop, never with a secret in it.
    pub message: String,
}

/// Every problem of one file, in the order of the file.
#[derive(Clone, Debug, Serialize)]
pub struct Problems {
    file: PathBuf,
    problems: Vec<Problem>,
    #[serde(skip)]
    text: String,
}

impl Problems {
    /// No problem yet in this file with this text.
    #[must_use]
    pub fn none(file: &Path, text: &str) -> Self {
        Self {
            file: file.to_owned(),
            problems: Vec::new(),
            text: text.to_owned(),
        }
    }

    /// The one problem of a file that could not be read at all.
    #[must_use]
    pub fn unreadable(file: &Path, message: String) -> Self {
        let problem = Problem {
            severity: Severity::Error,
            line: 0,
            column: 0,
            key: String::new(),
            message,
        };
        Self {
            file: file.to_owned(),
            problems: vec![problem],
            text: String::new(),
        }
    }

    /// Notes an error at this place of the text.
    pub fn error(&mut self, place: &Range<usize>, key: impl Into<String>, message: impl Into<String>) {
        self.note(Severity::Error, place, key.into(), message.into());
    }

    /// Notes a warning at this place of the text.
    pub fn warning(&mut self, place: &Range<usize>, key: impl Into<String>, message: impl Into<String>) {
        self.note(Severity::Warning, place, key.into(), message.into());
    }

    /// Whether the configuration cannot be used.
    #[must_use]
    pub fn any_error(&self) -> bool {
        self.problems
            .iter()
            .any(|problem| problem.severity == Severity::Error)
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Problem] {
        &self.problems
    }

    /// The file they are in.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// One line for a terminal or a log: `config.toml:12:3: error: route.ops.deliver: unknown destination …`.
    #[must_use]
    pub fn line(&self, problem: &Problem) -> String {
        let file = self.file.display();
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

    /// The same without its severity, for a log that has its own: `config.toml:12:3: route.ops.deliver: …`.
    #[must_use]
    pub fn place(&self, problem: &Problem) -> String {
        self.line(problem)
            .replacen(": error: ", ": ", 1)
            .replacen(": warning: ", ": ", 1)
    }

    fn note(&mut self, severity: Severity, place: &Range<usize>, key: String, message: String) {
        let (line, column) = position(&self.text, place.start);
        let problem = Problem {
            severity,
            line,
            column,
            key,
            message,
        };
        if self.problems.contains(&problem) {
            return;
        }
        let at = self
            .problems
            .partition_point(|other| (other.line, other.column) <= (line, column));
        self.problems.insert(at, problem);
    }
}

/// One problem a line, in the order of the file.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.problems.iter().map(|problem| self.line(problem)).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Problems {}

/// Line and column of a byte, both counted from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at.min(text.len())).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
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
        assert_eq!(position("ab\nc", 99), (2, 2));
        assert_eq!(position("", 5), (1, 1));
    }

    #[test]
    fn problems_serialise_for_machines() {
        let mut problems = Problems::none(Path::new("c.toml"), "x");
        problems.error(&(0..1), "x", "no");
        assert_eq!(
            serde_json::to_value(&problems).unwrap(),
            serde_json::json!({"file": "c.toml", "problems": [
                {"severity": "error", "line": 1, "column": 1, "key": "x", "message": "no"}]})
        );
    }
}
