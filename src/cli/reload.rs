//! `smsbridge reload`: makes the daemon read its configuration again.

use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::client::{Answer, Daemon};
use super::{CommandError, Exit, Global, print, style};
use crate::template::one_line;

/// The response of the API to a successful reload.
#[derive(Deserialize)]
struct Reloaded {
    changes: Vec<Changed>,
    warnings: Vec<Found>,
    unlisted: Option<String>,
    /// The node that was reloaded, if the store is shared, and the others.
    #[serde(default)]
    node: Option<String>,
    #[serde(default)]
    others: Vec<String>,
}

#[derive(Deserialize)]
struct Changed {
    key: String,
    what: String,
    needs_restart: bool,
}

/// The response of the API if the configuration has errors.
#[derive(Deserialize)]
struct Unusable {
    problems: Vec<Found>,
    unlisted: Option<String>,
}

#[derive(Deserialize)]
struct Found {
    severity: String,
    file: String,
    line: usize,
    column: usize,
    key: String,
    message: String,
}

pub(super) fn run(global: &Global) -> Result<Exit, CommandError> {
    let answer = Daemon::find(global)?.try_post("/reload", &json!({}))?;
    match answer.status {
        StatusCode::UNPROCESSABLE_ENTITY => refuse(global, &answer),
        _ => report(global, &answer.good()?),
    }
}

fn report(global: &Global, answer: &Answer) -> Result<Exit, CommandError> {
    if global.json {
        print::document(answer.raw())?;
        return Ok(Exit::Done);
    }
    let reloaded: Reloaded = answer.read()?;
    list(&reloaded.warnings, reloaded.unlisted.as_deref());
    let lines: String = reloaded.changes.iter().map(line).collect();
    if lines.is_empty() {
        print::text("reloaded: nothing changed\n")?;
    } else {
        print::text(&format!("reloaded:\n{lines}"))?;
    }
    if let (Some(node), false) = (&reloaded.node, reloaded.others.is_empty()) {
        print::text(&one_node(node, &reloaded.others))?;
    }
    Ok(Exit::Done)
}

fn one_node(node: &str, others: &[String]) -> String {
    let others: Vec<String> = others.iter().map(|other| one_line(other)).collect();
    format!(
        "only node {} was reloaded; reload the others as well: {}\n",
        one_line(node),
        others.join(", ")
    )
}

fn line(change: &Changed) -> String {
    let restart = if change.needs_restart {
        style::on_stdout(style::WARNING, ", which needs a restart")
    } else {
        String::new()
    };
    format!(
        "  {} {}{restart}\n",
        one_line(&change.key),
        one_line(&change.what)
    )
}

fn refuse(global: &Global, answer: &Answer) -> Result<Exit, CommandError> {
    if global.json {
        print::document(answer.raw())?;
        return Ok(Exit::Wrong);
    }
    let unusable: Unusable = answer.read()?;
    list(&unusable.problems, unusable.unlisted.as_deref());
    Err(CommandError::wrong(
        "the configuration has errors; nothing was changed",
    ))
}

/// Prints one problem per line on standard error.
fn list(problems: &[Found], unlisted: Option<&str>) {
    for found in problems {
        print::remark(&problem(found));
    }
    if let Some(unlisted) = unlisted {
        print::remark(&one_line(unlisted));
    }
}

fn problem(found: &Found) -> String {
    let style = if found.severity == "error" {
        style::ERROR
    } else {
        style::WARNING
    };
    let place = match found.line {
        0 => one_line(&found.file),
        line => format!("{}:{line}:{}", one_line(&found.file), found.column),
    };
    let key = match found.key.as_str() {
        "" => String::new(),
        key => format!("{}: ", one_line(key)),
    };
    format!(
        "{}: {place}: {key}{}",
        style::on_stderr(style, &one_line(&found.severity)),
        one_line(&found.message)
    )
}
