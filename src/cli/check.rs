//! `smsbridge check`: reports all problems of the configuration with their places.

use std::path::Path;

use clap::Args;

use super::service::Places;
use super::{CommandError, Exit, Global, print, problems, style};
use crate::config::{Outside, Problems, Purpose};
use crate::plan::{self, Loaded, Loader};

/// The JSON Schema of the configuration. A test compares it with the parser.
const SCHEMA: &str = include_str!("../../docs/smsbridge.schema.json");

/// The arguments of `check`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print a JSON Schema of the configuration, for editors, and read none
    #[arg(long)]
    schema: bool,
    /// Fail on warnings, too
    #[arg(long)]
    strict: bool,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<Exit, CommandError> {
    if arguments.schema {
        print::document(SCHEMA)?;
        return Ok(Exit::Done);
    }
    let Places {
        config: path,
        outside,
        ..
    } = Places::find(global);
    let result = in_time(&path, Purpose::Check, outside)?;
    let (problems, exit) = match &result {
        Ok(loaded) if arguments.strict && !loaded.warnings.all().is_empty() => {
            (&loaded.warnings, Exit::Wrong)
        }
        Ok(loaded) => (&loaded.warnings, Exit::Done),
        Err(problems) => (problems, Exit::Wrong),
    };
    if global.json {
        print::json(problems)?;
        return Ok(exit);
    }
    problems::print_all(problems);
    match &result {
        Ok(_) if exit == Exit::Wrong => {
            let warnings = problems.warning_count();
            print::remark(&format!("{warnings}; --strict treats warnings as errors"));
        }
        Ok(loaded) => print::text(&format!("{}\n", summary(&path, loaded)))?,
        Err(problems) => print::remark(&verdict(problems)),
    }
    Ok(exit)
}

/// Reads the configuration for a command, or prints its problems.
pub(super) fn load(global: &Global, purpose: Purpose) -> Result<Loaded, Exit> {
    let places = Places::find(global);
    let loaded = in_time(&places.config, purpose, places.outside).map_err(|error| error.print())?;
    loaded.map_err(|problems| {
        problems::print_all(&problems);
        print::remark(&verdict(&problems));
        Exit::Wrong
    })
}

/// Loads the configuration, with a limit on the time to wait for a file that does not respond.
fn in_time(
    path: &Path,
    purpose: Purpose,
    outside: Outside,
) -> Result<Result<Loaded, Problems>, CommandError> {
    let file = path.to_owned();
    let loader = Loader::new(path, move |reading, old| {
        plan::load(&file, purpose, &outside.clone().watched(reading.clone()), old)
    });
    let load = async {
        let mut loading = loader.start(None)?;
        loading.ready().await?;
        loading.loaded()
    };
    Ok(super::client::runtime()?.block_on(load))
}

fn verdict(problems: &Problems) -> String {
    problems.error_count().to_string()
}

fn summary(path: &Path, loaded: &Loaded) -> String {
    let plan = &loaded.plan;
    let warnings = match loaded.warnings.all() {
        [] => String::new(),
        _ => format!(", {}", loaded.warnings.warning_count()),
    };
    format!(
        "{} {}: {}, {}, {}{warnings}",
        style::on_stdout(style::SUCCESS, "ok"),
        path.display(),
        count(plan.sources.len(), "source"),
        count(plan.destinations.len(), "destination"),
        count(plan.routes.all().len(), "route"),
    )
}

fn count(number: usize, what: &str) -> String {
    if number == 1 {
        format!("1 {what}")
    } else {
        format!("{number} {what}s")
    }
}
