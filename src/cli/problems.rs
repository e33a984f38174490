//! Prints the problems of a configuration.

use super::{print, style};
use crate::config::{Problem, Problems, Severity};
use crate::template::one_line;

/// Prints one problem per line on standard error.
pub(super) fn print_all(problems: &Problems) {
    for problem in problems.all() {
        print::remark(&line(problem));
    }
    if let Some(unlisted) = problems.unlisted() {
        print::remark(&unlisted);
    }
}

/// A problem as one line: severity, place and description.
pub(super) fn line(problem: &Problem) -> String {
    let (word, style) = match problem.severity {
        Severity::Error => ("error", style::ERROR),
        Severity::Warning => ("warning", style::WARNING),
    };
    let place = match problem.line {
        0 => problem.file.display().to_string(),
        line => format!("{}:{line}:{}", problem.file.display(), problem.column),
    };
    let key = if problem.key.is_empty() {
        String::new()
    } else {
        format!("{}: ", one_line(&problem.key))
    };
    format!(
        "{}: {place}: {key}{}",
        style::on_stderr(style, word),
        one_line(&problem.message)
    )
}
