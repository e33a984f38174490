//! `smsbridge status`: the state of the daemon on one screen.

use std::time::Duration;

use bytesize::ByteSize;

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::client::Daemon;
use super::table::{Table, fields_within, terminal_width, wrapped};
use super::{CommandError, Exit, Global, destination, print, style, time};
use crate::control::view::{
    CountsView, DestinationView, NodeState, NodesView, RatesView, StatusView, StoreView,
};
use crate::metrics::rates::PerMinute;
use crate::model::destination_state::DestinationState;
use crate::model::message::Timestamp;
use crate::plan::Severity;
use crate::template::one_line;

/// The arguments of `status`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Clear the findings about the store, once read
    #[arg(long)]
    acknowledge: bool,
}

/// The response of the API to an acknowledgement.
#[derive(Deserialize)]
struct Acknowledged {
    acknowledged: u64,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<Exit, CommandError> {
    let daemon = Daemon::find(global)?;
    if arguments.acknowledge {
        return acknowledge(global, &daemon);
    }
    let answer = daemon.get("/status", &[])?;
    if global.json {
        print::document(answer.raw())?;
    } else {
        print::text(&screen(&answer.read()?, terminal_width()))?;
    }
    Ok(Exit::Done)
}

fn acknowledge(global: &Global, daemon: &Daemon) -> Result<Exit, CommandError> {
    let answer = daemon.post("/findings/acknowledge", &json!({}))?;
    if global.json {
        print::document(answer.raw())?;
    } else {
        let count = answer.read::<Acknowledged>()?.acknowledged;
        print::text(&format!("{count} findings of the store acknowledged\n"))?;
    }
    Ok(Exit::Done)
}

fn screen(status: &StatusView, width: Option<u16>) -> String {
    let mut screen = wrapped(&headline(status), 2, width) + "\n";
    for problem in &status.problems {
        let style = match problem.severity {
            Severity::Error => style::ERROR,
            Severity::Warning => style::WARNING,
        };
        screen += &format!(
            "  {} {}\n",
            style::on_stdout(style, "!"),
            wrapped(&one_line(&problem.message), 4, width)
        );
    }
    let facts = [
        ("store", Some(store(&status.store))),
        ("messages", Some(messages(&status.messages))),
        (
            "per minute",
            Some(rates(&status.rates, status.now.since(status.started_at))),
        ),
    ];
    screen += &fields_within(&facts, width);
    if !status.destinations.is_empty() {
        screen += "\n";
        screen += &destination::table(&status.destinations, status.now).render(width);
    }
    if let Some(nodes) = &status.nodes {
        screen += "\n";
        screen += &node_table(nodes, status.now).render(width);
    }
    screen
}

fn headline(status: &StatusView) -> String {
    let ready = match (&status.stopping, status.ready) {
        (Some(what), _) => format!("stopping, {}", one_line(what)),
        (None, true) => "ready".to_owned(),
        (None, false) => "not ready".to_owned(),
    };
    let problems = match status.problems.len() {
        0 => "no problems".to_owned(),
        1 => "1 problem".to_owned(),
        many => format!("{many} problems"),
    };
    let style = match (status.ready, status.problems.is_empty()) {
        (false, _) => style::ERROR,
        (true, true) => style::SUCCESS,
        (true, false) => style::WARNING,
    };
    let ready = format!(
        "{ready}, {problems}{}{}",
        untested(&status.destinations),
        failing(&status.destinations)
    );
    let node = status.nodes.as_ref();
    let node = node.map(|nodes| format!(" on node {}", one_line(&nodes.node)));
    format!(
        "smsbridge {}{}, up for {}: {}",
        one_line(&status.version),
        node.unwrap_or_default(),
        uptime(status.now.since(status.started_at)),
        style::on_stdout(style, &ready)
    )
}

/// The nodes that share the store.
fn node_table(nodes: &NodesView, now: Timestamp) -> Table {
    let header = [
        "NODE",
        "STATE",
        "VERSION",
        "CONFIGURATION",
        "STARTED",
        "SEEN",
        "SERVES",
    ];
    let mut table = Table::new(&header)
        .whole(&[0, 1])
        .right(&[6])
        .optional(&[2, 4, 3]);
    for node in &nodes.nodes {
        let style = match node.state {
            NodeState::Up => anstyle::Style::new(),
            NodeState::Gone => style::WARNING,
        };
        let serves = |lane: &&crate::control::view::LaneView| lane.node.as_deref() == Some(&node.name);
        table.row(
            style,
            [
                node.name.clone(),
                node.state.as_str().to_owned(),
                node.version.clone(),
                node.configuration.clone(),
                time::relative(node.started_at, now),
                time::relative(node.seen_at, now),
                match nodes.lanes.iter().filter(serves).count() {
                    1 => "1 destination".to_owned(),
                    many => format!("{many} destinations"),
                },
            ],
        );
    }
    table
}

/// `; untested: crm, desk`
fn untested(destinations: &[DestinationView]) -> String {
    let untested = destinations
        .iter()
        .filter(|destination| destination.state == DestinationState::Untested);
    let names: Vec<&str> = untested.map(|destination| destination.name.as_str()).collect();
    match names.is_empty() {
        true => String::new(),
        false => format!("; untested: {}", names.join(", ")),
    }
}

/// `; last attempt failed: crm`, of destinations without another problem.
fn failing(destinations: &[DestinationView]) -> String {
    let failing = destinations.iter().filter(|destination| {
        destination.state == DestinationState::Up && destination::failed_last(destination).is_some()
    });
    let names: Vec<&str> = failing.map(|destination| destination.name.as_str()).collect();
    match names.is_empty() {
        true => String::new(),
        false => format!("; last attempt failed: {}", names.join(", ")),
    }
}

/// At most two units: `3days 4h`.
fn uptime(duration: Duration) -> String {
    let whole = humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string();
    whole.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn store(store: &StoreView) -> String {
    let size = |bytes| ByteSize(bytes).display().iec();
    let commit = store
        .commit_ms
        .map(|took| format!(", last commit took {took:.1} ms"));
    let place = match store.free_bytes {
        Some(free) => format!("on disk, {} free", size(free)),
        None => "in the database".to_owned(),
    };
    format!("{} {place}{}", size(store.bytes), commit.unwrap_or_default())
}

fn messages(counts: &CountsView) -> String {
    format!(
        "{} accepted in total, {} removed; deliveries: {} pending, {} delivered, {} dead{}",
        counts.accepted,
        counts.purged,
        counts.pending,
        counts.delivered,
        counts.dead,
        match counts.acknowledged {
            0 => String::new(),
            many => format!(" and {many} dead that need no attention"),
        }
    )
}

/// Averages over the last one, five and fifteen minutes.
/// The longest span that a rate covers.
const RATES: Duration = Duration::from_secs(15 * 60);

/// Rates are not kept over a restart.
fn rates(rates: &RatesView, uptime: Duration) -> String {
    let three = |rate: &PerMinute| {
        let spans = [rate.last_1m, rate.last_5m, rate.last_15m];
        spans.map(|span| format!("{span:.1}")).join(", ")
    };
    let since = if uptime < RATES {
        "; counted since the start"
    } else {
        ""
    };
    format!(
        "{} accepted; {} delivered (over 1, 5, 15 minutes{since})",
        three(&rates.accepted),
        three(&rates.delivered)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uptime_has_two_units() {
        for (seconds, said) in [(0, "0s"), (61, "1m 1s"), (3 * 86_400 + 4 * 3_600 + 5, "3days 4h")] {
            assert_eq!(uptime(Duration::from_secs(seconds)), said);
        }
    }
}
