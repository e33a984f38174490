//! `memory` and `search`: the cost of many pending messages, how soon the bridge is ready again with them, and how
//! soon an operator finds one.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Run, fresh};
use crate::daemon::{Daemon, store_path};
use crate::disk;
use crate::fill::Fill;
use crate::load::Load;
use crate::report::{Report, Target};

/// One destination that refuses connections.
const DOWN: &str = "[destination.desk]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:9/\"\n\
    [[route]]\nname = \"all\"\ndeliver = [\"desk\"]\n[routing]\nunmatched = [\"desk\"]";

/// Delay before memory is read, so that memory used only during the start is not counted.
const SETTLE: Duration = Duration::from_secs(1);

/// The size of a backlog, and its limits.
struct Size {
    messages: u64,
    memory_max: f64,
    ready_max: f64,
}

const SMALL: Size = Size {
    messages: 100_000,
    memory_max: 96.0,
    ready_max: 2.0,
};
const LARGE: Size = Size {
    messages: 1_000_000,
    memory_max: 256.0,
    ready_max: 15.0,
};

/// Measures the idle bridge, the flooded one, and backlogs.
pub fn measure(run: &Run, report: &mut Report) -> Result<()> {
    idle_and_flood(run, report)?;
    let sizes: &[Size] = if run.full { &[SMALL, LARGE] } else { &[SMALL] };
    for size in sizes {
        pending(run, size, report)?;
    }
    Ok(())
}

fn idle_and_flood(run: &Run, report: &mut Report) -> Result<()> {
    let folder = fresh(&run.folder, "flood")?;
    let daemon = Daemon::start(&folder, DOWN)?;
    std::thread::sleep(SETTLE);
    add_memory(report, "resident, idle", &daemon, 20.0, "")?;
    let flood = Load {
        connections: 1000,
        ..Load::flat_out(daemon.public, 2.0 * run.seconds)
    };
    let posted = flood.run()?;
    let detail = format!(
        "1 000 connections, {} accepted and {} refused in {:.1} s",
        posted.accepted, posted.refused, posted.seconds
    );
    add_memory(report, "resident, flooded", &daemon, 128.0, &detail)
}

/// Reports the peak memory, because a memory limit applies to the peak.
fn add_memory(report: &mut Report, what: &str, daemon: &Daemon, most: f64, more: &str) -> Result<()> {
    let (now, peak) = daemon.memory()?;
    let detail = format!("{now:.1} MiB at the end {more}");
    report.add("memory", what, (peak, "MiB"), Target::AtMost(most), detail);
    Ok(())
}

fn pending(run: &Run, size: &Size, report: &mut Report) -> Result<()> {
    let messages = size.messages;
    let folder = fresh(&run.folder, "waiting")?;
    let fill = Fill {
        store: store_path(&folder),
        messages,
        purge: false,
    };
    let filled = fill.run()?;
    report.note(
        "memory",
        format!("{messages} pending, on disk"),
        (filled.mebibytes_full, "MiB"),
        format!("filled in {:.1} s", filled.seconds),
    );
    let clean = Daemon::start(&folder, DOWN)?;
    let after_stop = clean.ready_after;
    let posted = Load::flat_out(clean.public, run.seconds).run()?;
    ensure!(posted.accepted > 0, "nothing was accepted");
    add_memory(
        report,
        &format!("resident, {messages} pending"),
        &clean,
        size.memory_max,
        &format!("and {} more accepted", posted.accepted),
    )?;
    clean.kill()?;
    let again = Daemon::start(&folder, DOWN)?;
    report.add(
        "memory",
        format!("ready after kill -9 with {messages} pending"),
        (again.ready_after.as_secs_f64(), "s"),
        Target::AtMost(size.ready_max),
        format!("{:.2} s after an ordinary stop", after_stop.as_secs_f64()),
    );
    search(report, &again, messages, &folder)
}

/// Each filter with a value that exists and with one that does not, which takes longer.
const SEARCHES: [(&str, &str, &str); 6] = [
    ("from", "from=%2B13030000007", "from=%2B13039999999"),
    ("to", "to=%2B13038670000", "to=%2B1999*"),
    ("text", "text=number+77+of", "text=no+such+words"),
    ("source", "source=carrier", "source=other"),
    ("state", "state=pending", "state=dead"),
    (
        "since",
        "since=2020-01-01T00:00:00Z",
        "since=2099-01-01T00:00:00Z",
    ),
];

fn search(report: &mut Report, daemon: &Daemon, messages: u64, folder: &Path) -> Result<()> {
    for (filter, there, absent) in SEARCHES {
        let (found, first) = page(daemon, there)?;
        let (none, second) = page(daemon, absent)?;
        report.add(
            "search",
            format!("first page among {messages} by `{filter}`, the slower of two"),
            (first.max(second), "ms"),
            Target::AtMost(200.0),
            format!("there: {found} in {first:.1} ms; absent: {none} in {second:.1} ms"),
        );
    }
    let (_, peak) = daemon.memory()?;
    report.note(
        "search",
        format!("resident after searching among {messages}"),
        (peak, "MiB"),
        format!("{:.0} MiB on disk", disk::mebibytes(&store_path(folder))?),
    );
    Ok(())
}

/// The number of messages on a first page, with a `+` if there is a cursor, and the time in milliseconds.
fn page(daemon: &Daemon, query: &str) -> Result<(String, f64)> {
    let began = Instant::now();
    let body = daemon.get(&format!("/api/v1/messages?limit=50&{query}"))?;
    let took = began.elapsed().as_secs_f64() * 1000.0;
    let page: serde_json::Value = serde_json::from_str(&body)?;
    let items = page
        .as_object()
        .and_then(|page| page.values().find_map(serde_json::Value::as_array))
        .map_or(0, Vec::len);
    let more = page.get("next").is_some_and(|next| !next.is_null());
    Ok((format!("{items}{}", if more { "+" } else { "" }), took))
}
