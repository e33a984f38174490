//! `smsbridge destination`: lists, tests, pauses and resumes destinations.

use anstyle::Style;
use clap::Subcommand;
use serde_json::json;

use super::client::Daemon;
use super::table::{Table, terminal_width, wrapped};
use super::{CommandError, Exit, Global, listing, print, style, time};
use crate::control::view::{DestinationView, Noticed, Tested};
use crate::model::delivery::{Attempt, Verdict};
use crate::model::destination_state::DestinationState;
use crate::model::message::{Name, Timestamp};
use crate::template::one_line;

/// The actions on destinations.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// List destinations: state, pending deliveries, the age of the oldest, the last error
    List,
    /// Send a marked test message to a destination, or to all, and print the result
    Test {
        /// Name of the destination
        #[arg(required_unless_present = "all")]
        name: Option<Name>,
        /// Test every configured destination, one after the other
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Pause a destination: its deliveries stay pending, also over restarts
    Pause {
        /// Name of the destination
        name: Name,
    },
    /// Resume a paused destination
    Resume {
        /// Name of the destination
        name: Name,
    },
}

pub(super) fn run(global: &Global, action: &Action) -> Result<Exit, CommandError> {
    let daemon = Daemon::find(global)?;
    match action {
        Action::List => list(global, &daemon),
        Action::Test { name: Some(name), .. } => test(global, &daemon, name),
        Action::Test { name: None, .. } => test_all(global, &daemon),
        Action::Pause { name } => switch(global, &daemon, name, "pause"),
        Action::Resume { name } => switch(global, &daemon, name, "resume"),
    }
}

/// The destinations as a table.
pub(super) fn table(destinations: &[DestinationView], now: Timestamp) -> Table {
    let header = [
        "DESTINATION",
        "STATE",
        "NEXT",
        "PENDING",
        "OLDEST",
        "DEAD",
        "DELIVERED",
        "REASON",
    ];
    if destinations.iter().any(|destination| destination.node.is_some()) {
        return table_with_nodes(header, destinations, now);
    }
    let mut table = Table::new(&header)
        .right(&[3, 5])
        .whole(&[1])
        .optional(&[6, 4, 2, 7]);
    for destination in destinations {
        table.row(style(destination), cells(destination, now));
    }
    table
}

/// The same with the node that serves each destination, and since when.
fn table_with_nodes(header: [&str; 8], destinations: &[DestinationView], now: Timestamp) -> Table {
    let [name, state, rest @ ..] = header;
    let mut with_node = vec![name, state, "NODE", "SINCE"];
    with_node.extend(rest);
    let mut table = Table::new(&with_node)
        .right(&[5, 7])
        .whole(&[1, 2])
        .optional(&[8, 6, 4, 9]);
    for destination in destinations {
        let [name, state, next, pending, oldest, dead, delivered, reason] = cells(destination, now);
        let node = destination.node.clone().unwrap_or_else(|| "none".to_owned());
        let since = ago(destination.node_since, now);
        table.row(
            style(destination),
            [
                name, state, node, since, next, pending, oldest, dead, delivered, reason,
            ],
        );
    }
    table
}

fn ago(time: Option<Timestamp>, now: Timestamp) -> String {
    time.map_or_else(|| "-".to_owned(), |at| time::relative(at, now))
}

fn cells(destination: &DestinationView, now: Timestamp) -> [String; 8] {
    [
        destination.name.to_string(),
        destination.state.to_string(),
        next(destination, now),
        destination.pending.to_string(),
        ago(destination.oldest, now),
        destination.dead.to_string(),
        ago(destination.delivered_at, now),
        reason(destination).unwrap_or_default(),
    ]
}

/// Why it is not up, or why its last attempt failed although it is.
fn reason(destination: &DestinationView) -> Option<String> {
    let failed = failed_last(destination).map(|last| format!("last attempt failed: {}", last.detail));
    destination.reason.clone().or(failed)
}

/// The last attempt, if it failed.
pub(super) fn failed_last(destination: &DestinationView) -> Option<&Attempt> {
    let last = destination.last_attempt.as_ref();
    last.filter(|last| last.verdict != Verdict::Delivered)
}

/// When the next attempt starts.
fn next(destination: &DestinationView, now: Timestamp) -> String {
    let until = destination
        .until
        .filter(|&until| until > now && destination.state != DestinationState::Paused);
    until.map_or_else(|| "-".to_owned(), |until| time::relative(until, now))
}

fn style(destination: &DestinationView) -> Style {
    match destination.state {
        DestinationState::Down | DestinationState::Parked | DestinationState::Removed => style::ERROR,
        DestinationState::Limited | DestinationState::Paused => style::WARNING,
        _ if destination.dead > 0 || failed_last(destination).is_some() => style::WARNING,
        _ => Style::new(),
    }
}

fn list(global: &Global, daemon: &Daemon) -> Result<Exit, CommandError> {
    let answer = daemon.get("/destinations", &[])?;
    if global.json {
        print::document(answer.raw())?;
    } else {
        let destinations: Vec<DestinationView> = answer.read()?;
        table(&destinations, time::now()).print("no destination is configured")?;
    }
    Ok(Exit::Done)
}

fn test(global: &Global, daemon: &Daemon, name: &Name) -> Result<Exit, CommandError> {
    let answer = daemon.post(&format!("/destinations/{name}/test"), &json!({}))?;
    let tested: Tested = answer.read()?;
    if global.json {
        print::document(answer.raw())?;
    } else {
        print::text(&outcome(name, &tested))?;
    }
    Ok(if tested.delivered {
        Exit::Done
    } else {
        Exit::Failed
    })
}

fn test_all(global: &Global, daemon: &Daemon) -> Result<Exit, CommandError> {
    let destinations: Vec<DestinationView> = daemon.get("/destinations", &[])?.read()?;
    let configured = destinations.into_iter().filter(|view| view.kind.is_some());
    let mut all = Vec::new();
    for DestinationView {
        name: destination, ..
    } in configured
    {
        let answer = daemon.post(&format!("/destinations/{destination}/test"), &json!({}))?;
        let noticed = Noticed {
            tested: answer.read()?,
            destination,
        };
        if !global.json {
            print::text(&outcome(&noticed.destination, &noticed.tested))?;
        }
        all.push(noticed);
    }
    if global.json {
        print::json(&all)?;
    }
    Ok(exit(&all))
}

/// Failed if one of the destinations did not accept its message.
pub(super) fn exit(all: &[Noticed]) -> Exit {
    match all.iter().all(|noticed| noticed.tested.delivered) {
        true => Exit::Done,
        false => Exit::Failed,
    }
}

/// One line with the result of a test.
pub(super) fn outcome(name: &Name, tested: &Tested) -> String {
    let (word, style) = if tested.delivered {
        ("delivered", style::SUCCESS)
    } else {
        ("not delivered", style::ERROR)
    };
    let kind = tested
        .failure
        .as_deref()
        .map(|kind| format!(", {}", meaning(kind)));
    let from = tested.node.as_ref();
    let from = from.map(|node| format!(" from node {}", one_line(node)));
    let line = format!(
        "{word} to {name}{} in {} ms{}: {}",
        from.unwrap_or_default(),
        tested.took_ms,
        kind.unwrap_or_default(),
        one_line(&tested.detail)
    );
    let line = wrapped(&line, 4, terminal_width());
    line.replacen(word, &style::on_stdout(style, word), 1) + "\n"
}

/// The consequence of this kind of failure for a real message.
fn meaning(failure: &str) -> &str {
    match failure {
        "transient" => "transient (a message would be retried)",
        "permanent" => "permanent (a message would not be sent again, and be listed as dead)",
        "parked" => "parked (messages would stay pending until the configuration is fixed)",
        other => other,
    }
}

fn switch(global: &Global, daemon: &Daemon, name: &Name, action: &str) -> Result<Exit, CommandError> {
    let answer = daemon.post(&format!("/destinations/{name}/{action}"), &json!({}))?;
    if global.json {
        print::document(answer.raw())?;
        return Ok(Exit::Done);
    }
    let destination: DestinationView = answer.read()?;
    let waiting = listing::count(destination.pending);
    print::text(&format!("{name} is {}, {waiting} pending\n", destination.state))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_fits_eighty_columns() {
        let destination: DestinationView = serde_json::from_value(json!({
            "name": "front-desk", "kind": "webhook", "state": "limited", "since": "2026-11-22T03:00:00Z",
            "until": "2026-11-22T03:05:20Z", "reason": "HTTP 429 Too Many Requests: come back in twenty seconds",
            "pending": 123_456, "dead": 1_264, "oldest": "2026-11-22T02:00:00Z",
            "delivered_at": "2026-11-22T03:00:00Z", "fallback": null,
        }))
        .unwrap();
        let now = "2026-11-22T03:05:00Z".parse().unwrap();
        let narrow = table(std::slice::from_ref(&destination), now).render(Some(60));
        assert!(narrow.lines().all(|line| line.chars().count() <= 60), "{narrow}");
        let shown = table(&[destination], now).render(Some(80));
        for line in shown.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(
            shown.contains("\nfront-desk   limited  in 20s   123456  1h ago  1264  5m ago     HTTP 429"),
            "{shown}"
        );
    }
}
