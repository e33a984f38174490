//! The report about numbers: one row each, for people and for scripts.

use anstyle::Style;
use serde::Serialize;

use crate::cli::table::Table;
use crate::cli::{CommandError, Exit, Global, print, style};
use crate::mask::Reason;
use crate::model::secret::Secret;
use crate::source::intelepeer::api::{self, Outcome, Row, State};

/// The result for a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Action {
    /// It was queried.
    Seen,
    /// It already has the right webhook.
    Unchanged,
    /// It would be set.
    WouldSet,
    /// It was set.
    Set,
    /// The query or the change failed.
    Failed,
}

/// One number. Its URLs contain no credentials.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    #[serde(flatten)]
    pub(super) row: Row,
    pub(super) action: Action,
}

impl Line {
    /// The result of querying a number.
    pub(super) fn seen(row: Row) -> Self {
        let action = if row.problem.is_some() {
            Action::Failed
        } else {
            Action::Seen
        };
        Self { row, action }
    }

    /// The result of setting a number. The provider is not obliged to repeat the URL.
    pub(super) fn set(row: Row) -> Self {
        let refused = row.problem.is_some() || (row.now.is_some() && !row.ours);
        let action = if refused { Action::Failed } else { Action::Set };
        Self { row, action }
    }

    /// The result some time after setting a number: until the provider has finished, it may still show the previous
    /// URL.
    pub(super) fn watched(row: Row) -> Self {
        let done = row.state.as_ref().is_none_or(State::is_final);
        let refused = row.problem.is_some() || (done && !row.ours);
        let action = if refused { Action::Failed } else { Action::Set };
        Self { row, action }
    }
}

/// Rows for these results. If `wanted` is unknown, no number is known to be ours.
pub(super) fn rows(wanted: Option<&Secret>, outcomes: Vec<(String, Outcome)>) -> Vec<Row> {
    let nothing = Secret::new("");
    api::compare(wanted.unwrap_or(&nothing), outcomes)
}

/// Prints the table. Fails if any number failed.
pub(super) fn print(
    global: &Global,
    lines: &[Line],
    table: fn(&[Line]) -> Table,
) -> Result<Exit, CommandError> {
    if global.json {
        print::json(&serde_json::json!({ "numbers": lines }))?;
    } else {
        table(lines).print("No numbers")?;
    }
    match lines.iter().filter(|line| line.action == Action::Failed).count() {
        0 => Ok(Exit::Done),
        _ if global.json => Ok(Exit::Failed),
        failed => Err(CommandError::failed(format!(
            "{failed} of {} numbers failed",
            lines.len()
        ))),
    }
}

/// A table of the current webhooks.
pub(super) fn found(lines: &[Line]) -> Table {
    let mut table = Table::new(&["NUMBER", "WEBHOOK", "STATE", "OURS", "PROBLEM"]);
    for Line { row, action } in lines {
        let ours = match (row.wanted.as_str(), row.ours) {
            ("", _) => "?",
            (_, true) => "yes",
            (_, false) => "no",
        };
        table.row(
            style(*action),
            [
                row.number.clone(),
                or_dash(row.now.as_deref()),
                or_dash(row.state.as_ref().map(State::as_str)),
                ours.to_owned(),
                row.problem.as_ref().map_or("", Reason::shown).to_owned(),
            ],
        );
    }
    table
}

/// A table of the current and the wanted webhooks, and the changes.
pub(super) fn changed(lines: &[Line]) -> Table {
    let mut table = Table::new(&["NUMBER", "NOW", "WANTED", "STATE", "ACTION", "PROBLEM"]);
    for Line { row, action } in lines {
        table.row(
            style(*action),
            [
                row.number.clone(),
                or_dash(row.now.as_deref()),
                row.wanted.clone(),
                or_dash(row.state.as_ref().map(State::as_str)),
                word(*action).to_owned(),
                row.problem.as_ref().map_or("", Reason::shown).to_owned(),
            ],
        );
    }
    table
}

fn style(action: Action) -> Style {
    match action {
        Action::Failed => style::ERROR,
        Action::WouldSet => style::WARNING,
        Action::Set => style::SUCCESS,
        Action::Seen | Action::Unchanged => Style::new(),
    }
}

fn or_dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Seen => "seen",
        Action::Unchanged => "unchanged",
        Action::WouldSet => "would set",
        Action::Set => "set",
        Action::Failed => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::intelepeer::api::Webhook;

    fn known(url: Option<&str>, state: State) -> Vec<Row> {
        let webhook = Webhook {
            url: url.map(str::to_owned),
            state: Some(state),
        };
        let wanted = Secret::new("https://u:p@sms.example.com/in");
        rows(
            Some(&wanted),
            vec![("+12161112222".to_owned(), Outcome::Known(webhook))],
        )
    }

    #[test]
    fn a_number_was_set_unless_the_answer_says_otherwise() {
        for (url, state, action) in [
            (
                Some("https://u:p@sms.example.com/in"),
                State::Requested,
                Action::Set,
            ),
            (None, State::Requested, Action::Set),
            (
                Some("https://other.example.com/"),
                State::Requested,
                Action::Failed,
            ),
            (
                Some("https://u:p@sms.example.com/in"),
                State::Error,
                Action::Failed,
            ),
        ] {
            let line = known(url, state).pop().map(Line::set);
            assert_eq!(line.map(|line| line.action), Some(action), "{url:?}");
        }
    }

    #[test]
    fn no_password_is_shown() {
        let lines: Vec<Line> = known(Some("https://u:p@other.example.com/?k=p"), State::Provisioned)
            .into_iter()
            .map(Line::seen)
            .collect();
        let shown = found(&lines).render(None)
            + &changed(&lines).render(None)
            + &serde_json::to_string(&lines).unwrap();
        assert!(shown.contains("https://***@other.example.com/?***"), "{shown}");
        assert!(!shown.contains("u:p"), "{shown}");
    }
}
