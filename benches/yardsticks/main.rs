//! The yardsticks: `cargo bench -- [YARDSTICK…] [--full]`. See `README.md` beside this folder.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde::de::DeserializeOwned;

mod accept;
mod ask;
mod backlog;
mod bare;
mod daemon;
mod deliver;
mod disk;
mod email;
mod fill;
mod footprint;
mod load;
mod mail_sink;
mod path;
mod process;
mod reference;
mod report;
mod routes;
mod sink;

use report::Report;

/// All benchmarks, in the order in which they run; `purge` runs only when it is named or with `--full`.
const YARDSTICKS: [&str; 8] = [
    "size", "routes", "accept", "deliver", "path", "email", "memory", "purge",
];

/// The settings of this run.
pub struct Run {
    /// The folder for stores and files, on the disk that is measured.
    pub folder: PathBuf,
    /// The number of rounds of each comparison; the median is reported.
    pub rounds: usize,
    /// The duration of each load.
    pub seconds: f64,
    /// Whether to measure with a million messages.
    pub full: bool,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [role, name, settings] if role == process::ROLE => play(name, settings),
        arguments => measure(arguments),
    }
}

fn play(name: &str, settings: &str) -> Result<()> {
    match name {
        load::ROLE => load::play(read(settings)?),
        bare::ROLE => bare::play(read(settings)?),
        reference::ROLE => reference::play(read(settings)?),
        sink::ROLE => sink::play(),
        mail_sink::ROLE => mail_sink::play(),
        mail_sink::BARE_ROLE => mail_sink::play_bare(read(settings)?),
        fill::ROLE => fill::play(read(settings)?),
        _ => bail!("there is no role {name}"),
    }
}

fn read<T: DeserializeOwned>(settings: &str) -> Result<T> {
    serde_json::from_str(settings).context("the role's settings")
}

fn measure(arguments: &[String]) -> Result<()> {
    // Cargo adds `--bench`.
    let full = arguments.iter().any(|argument| argument == "--full");
    let mut named: Vec<&str> = Vec::new();
    for argument in arguments.iter().filter(|argument| !argument.starts_with("--")) {
        // Searches need the same backlog.
        let name = if argument == "search" { "memory" } else { argument };
        ensure!(
            YARDSTICKS.contains(&name),
            "there is no yardstick {name}; there are {} and search",
            YARDSTICKS.join(", ")
        );
        named.push(name);
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
    let run = Run {
        folder: target.join("work"),
        rounds: 3,
        seconds: 3.0,
        full,
    };
    let mut report = Report::default();
    for name in YARDSTICKS {
        let wanted = if named.is_empty() {
            name != "purge" || full
        } else {
            named.contains(&name)
        };
        if wanted {
            one(name, &run, &mut report).with_context(|| format!("yardstick {name}"))?;
            std::fs::remove_dir_all(&run.folder).or_else(missing_is_fine)?;
        }
    }
    report.finish(&target.join("results.json"))
}

fn one(name: &str, run: &Run, report: &mut Report) -> Result<()> {
    match name {
        "size" => footprint::size(report),
        "routes" => routes::measure(report),
        "accept" => accept::measure(run, report),
        "deliver" => deliver::measure(run, report),
        "path" => path::measure(run, report),
        "email" => email::measure(run, report),
        "memory" => backlog::measure(run, report),
        "purge" => footprint::purge(run, report),
        _ => bail!("there is no yardstick {name}"),
    }
}

/// An empty folder of this name.
fn fresh(parent: &Path, name: &str) -> Result<PathBuf> {
    let folder = parent.join(name);
    std::fs::remove_dir_all(&folder).or_else(missing_is_fine)?;
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn missing_is_fine(error: std::io::Error) -> std::io::Result<()> {
    match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}
