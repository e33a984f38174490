//! `smsbridge delivery`: lists, shows, retries, discards and acknowledges deliveries.

use clap::{ArgGroup, Args, Subcommand};
use serde_json::json;

use super::client::Daemon;
use super::listing::{self, ID, Paging, count};
use super::progress::Progress;
use super::table::{terminal_width, wrapped};
use super::{CommandError, Exit, Global, examples, print, prompt, time};
use crate::control::DEAD_ALREADY;
use crate::control::view::{DestinationView, Retried, RetryOutcome, RetryView};
use crate::model::message::{Name, Timestamp};

mod show;

pub(super) use show::brief;

/// The actions on deliveries.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// List deliveries, newest first
    #[command(after_help = examples::DELIVERY_LIST)]
    List(List),
    /// Show a delivery in full, with all stored attempts
    #[command(after_help = examples::DELIVERY_SHOW)]
    Show {
        #[arg(help = ID, value_parser = listing::id)]
        id: String,
    },
    /// Attempt dead or pending deliveries again now, except where the destination is paused or asked for a pause
    #[command(after_help = examples::DELIVERY_RETRY)]
    Retry(Which),
    /// Give up pending deliveries: they become dead, and `retry` makes them pending again
    #[command(after_help = examples::DELIVERY_DISCARD)]
    Discard(Which),
    /// Acknowledge dead deliveries: they are no longer reported as a problem and stay listed
    Acknowledge(Acknowledge),
}

/// The deliveries to list.
#[derive(Debug, Args)]
pub struct List {
    /// Only deliveries to this destination
    #[arg(long, value_name = "NAME")]
    destination: Option<Name>,
    /// Only deliveries in this state
    #[arg(long, value_parser = ["pending", "delivered", "dead"])]
    state: Option<String>,
    #[command(flatten)]
    paging: Paging,
}

/// The deliveries to change: some by id, or all of a destination.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).args(["ids", "destination"])))]
pub struct Which {
    /// Delivery ids: in full, the first 6 or more digits and `-N`, or `latest`
    #[arg(value_name = "ID", value_parser = listing::id)]
    ids: Vec<String>,
    /// All deliveries to this destination
    #[arg(long, value_name = "NAME")]
    destination: Option<Name>,
    /// Only deliveries in this state [default: pending for `discard`, else dead]
    #[arg(long, requires = "destination", value_parser = ["dead", "pending"])]
    state: Option<String>,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
}

/// The deliveries to acknowledge.
#[derive(Debug, Args)]
pub struct Acknowledge {
    #[command(flatten)]
    which: Which,
    /// Given up at or after this: RFC 3339, or how long ago (2h, 3d)
    #[arg(long, value_name = "WHEN", requires = "destination", value_parser = time::parse)]
    since: Option<Timestamp>,
}

/// An action on many deliveries.
#[derive(Clone, Copy)]
struct Change {
    /// Its name in the API.
    verb: &'static str,
    /// The label of its progress display.
    doing: &'static str,
    /// The action, for the summary.
    done: &'static str,
    /// The state of the selected deliveries by default.
    state: &'static str,
    /// Why a given delivery may remain unchanged.
    unchanged: &'static str,
}

const RETRY: Change = Change {
    verb: "retry",
    doing: "retrying",
    done: "due now",
    state: "dead",
    unchanged: "unknown, delivered already, or in progress",
};

const DISCARD: Change = Change {
    verb: "discard",
    doing: "discarding",
    done: "discarded",
    state: "pending",
    unchanged: "unknown, already ended, or in progress",
};

const ACKNOWLEDGE: Change = Change {
    verb: "acknowledge",
    doing: "acknowledging",
    done: "acknowledged",
    state: "dead",
    unchanged: "unknown, not dead, or acknowledged already",
};

pub(super) fn run(global: &Global, action: &Action) -> Result<Exit, CommandError> {
    let daemon = Daemon::find(global)?;
    match action {
        Action::List(list) => show::list(global, &daemon, list),
        Action::Show { id } => show::one(global, &daemon, id),
        Action::Retry(which) => change(global, &daemon, RETRY, which, None),
        Action::Acknowledge(Acknowledge { which, .. }) if which.state.as_deref() == Some("pending") => Err(
            CommandError::wrong("`--state`: only dead deliveries can be acknowledged"),
        ),
        Action::Acknowledge(Acknowledge { which, since }) => {
            change(global, &daemon, ACKNOWLEDGE, which, *since)
        }
        // The daemon would refuse this too, but only after the confirmation.
        Action::Discard(which) if which.state.as_deref() == Some("dead") => {
            Err(CommandError::wrong(DEAD_ALREADY))
        }
        Action::Discard(which) => change(global, &daemon, DISCARD, which, None),
    }
}

fn change(
    global: &Global,
    daemon: &Daemon,
    change: Change,
    which: &Which,
    since: Option<Timestamp>,
) -> Result<Exit, CommandError> {
    let body = match &which.destination {
        None => json!({ "ids": which.ids }),
        Some(name) => {
            let state = which.state.as_deref().unwrap_or(change.state);
            agree(daemon, change, name, state, which.yes)?;
            match since {
                None => json!({ "destination": name, "state": state }),
                Some(since) => json!({ "destination": name, "state": state, "since": since }),
            }
        }
    };
    let progress = Progress::waiting(global, change.doing);
    let answer = daemon.post(&format!("/deliveries/{}", change.verb), &body)?;
    drop(progress);
    let touched: Retried = answer.read()?;
    let wanted = which.ids.len() as u64;
    if global.json {
        print::document(answer.raw())?;
    } else if !touched.results.is_empty() && which.destination.is_none() {
        print::text(&retried(&touched.results, time::now()))?;
    } else {
        let held_up: String = touched
            .results
            .iter()
            .map(|result| held_up(result, time::now()))
            .collect();
        print::text(&format!("{}\n{held_up}", summary(change, &touched)))?;
    }
    let idle = |result: &&RetryView| {
        use RetryOutcome::{Attempting, Delivered, Unknown};
        matches!(result.outcome, Attempting | Delivered | Unknown)
    };
    let left = match touched.results.is_empty() {
        true => wanted.saturating_sub(touched.deliveries),
        false => touched.results.iter().filter(idle).count() as u64,
    };
    if left > 0 {
        return Err(CommandError::failed(format!(
            "{} not changed: {}; see `smsbridge delivery show`",
            count(left),
            change.unchanged
        )));
    }
    Ok(Exit::Done)
}

/// The result for all selected deliveries of a destination. Zeros are omitted if another part is not zero.
fn summary(change: Change, touched: &Retried) -> String {
    let one_or_many = |number: u64, one: &str, many: &str| {
        let what = if number == 1 { one } else { many };
        (number > 0).then(|| format!("{} {what}", count(number)))
    };
    let parts = [
        one_or_many(touched.deliveries, change.done, change.done),
        one_or_many(touched.already_due, "was due already", "were due already"),
        one_or_many(
            touched.attempting,
            "has an attempt in progress",
            "have an attempt in progress",
        ),
        one_or_many(
            touched.redacted,
            "skipped: the content of its message was removed (store.redact_after)",
            "skipped: the content of their messages was removed (store.redact_after)",
        ),
    ];
    let said: Vec<String> = parts.into_iter().flatten().collect();
    match said.is_empty() {
        true => format!("{} {}", count(0), change.done),
        false => said.join("; "),
    }
}

/// The result for each delivery, one per line.
fn retried(results: &[RetryView], now: Timestamp) -> String {
    results
        .iter()
        .map(|result| retried_one(result, now) + "\n")
        .collect()
}

/// Why some deliveries of a destination are not sent now.
fn held_up(result: &RetryView, now: Timestamp) -> String {
    match &result.pending {
        Some(pending) if result.outcome == RetryOutcome::Probed => {
            format!(
                "{}; one delivery is attempted now as a probe\n",
                show::waits(pending, now)
            )
        }
        Some(pending) => format!("nothing was sent: {}\n", show::waits(pending, now)),
        None => String::new(),
    }
}

fn retried_one(result: &RetryView, now: Timestamp) -> String {
    let waits = result.pending.as_ref().map(|pending| show::waits(pending, now));
    let waits = waits.unwrap_or_default();
    let id = result.id.map(|id| id.to_string()).unwrap_or_default();
    let to = result.destination.as_ref().map(|name| format!(" to {name}"));
    let what = match result.outcome {
        RetryOutcome::Tried => "attempted now".to_owned(),
        RetryOutcome::Probed => format!("its destination is probed now with another delivery: {waits}"),
        RetryOutcome::Waiting => format!("nothing was sent: {waits}"),
        RetryOutcome::Attempting => "an attempt is in progress already".to_owned(),
        RetryOutcome::Delivered => "delivered already".to_owned(),
        RetryOutcome::Unknown => "no such delivery".to_owned(),
    };
    let line = format!("{id}{}: {what}", to.unwrap_or_default());
    wrapped(&line, 4, terminal_width())
}

/// Asks for confirmation, with the number of deliveries.
fn agree(daemon: &Daemon, change: Change, name: &Name, state: &str, yes: bool) -> Result<(), CommandError> {
    let destinations: Vec<DestinationView> = daemon.get("/destinations", &[])?.read()?;
    let found = destinations.iter().find(|destination| destination.name == *name);
    let destination = found.ok_or_else(|| {
        CommandError::failed(format!(
            "no destination `{name}` is configured, and no delivery is pending for that name"
        ))
    })?;
    let (number, others) = match state {
        "dead" => (destination.dead, destination.acknowledged),
        _ => (destination.pending, 0),
    };
    let many = match number {
        1 => format!("1 {state} delivery"),
        many => format!("{many} {state} deliveries"),
    };
    let others = match others {
        0 => String::new(),
        1 => " (1 other needs no attention)".to_owned(),
        many => format!(" ({many} others need no attention)"),
    };
    prompt::confirm(
        &format!("{} {many} of {name}{others}?", capital(change.verb)),
        yes,
    )
}

fn capital(verb: &str) -> String {
    let mut letters = verb.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().collect::<String>() + letters.as_str()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_reports_the_result_for_all_selected_deliveries() {
        let said = |deliveries, already_due, attempting, redacted| {
            let touched = Retried {
                deliveries,
                already_due,
                attempting,
                redacted,
                results: Vec::new(),
            };
            summary(RETRY, &touched)
        };
        assert_eq!(said(0, 0, 0, 0), "0 deliveries due now");
        assert_eq!(said(12, 0, 0, 0), "12 deliveries due now");
        assert_eq!(said(0, 3, 0, 0), "3 deliveries were due already");
        assert_eq!(
            said(2, 1, 1, 1),
            "2 deliveries due now; 1 delivery was due already; 1 delivery has an attempt in progress; 1 delivery skipped: the \
             content of its message was removed (store.redact_after)"
        );
    }
}
