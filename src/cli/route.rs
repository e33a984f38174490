//! `smsbridge route`: where a text would go and why, without a daemon.

use clap::Args;

use super::{Exit, Global, Stop, check, complain, print};
use crate::config::Purpose;
use crate::message::{Name, Timestamp};
use crate::number::Number;
use crate::plan::{DryRun, Plan};

/// What `route` takes.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Sender
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, value_parser = Number::parse)]
    from: Number,
    /// The company's number
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, value_parser = Number::parse)]
    to: Number,
    /// The text
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    message: String,
    /// The source it comes from [default: the first in the configuration]
    #[arg(long, value_name = "NAME")]
    source: Option<Name>,
    /// When it was received [default: now]
    #[arg(long, value_name = "RFC3339")]
    at: Option<Timestamp>,
    /// Show exactly what each destination would be sent
    #[arg(long)]
    render: bool,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<Exit, Stop> {
    let plan = match check::load(global, Purpose::Route) {
        Ok(loaded) => loaded.plan,
        Err(exit) => return Ok(exit),
    };
    let Some(source) = source(&plan, arguments) else {
        return Ok(Exit::Wrong);
    };
    let explanation = plan.explain(&DryRun {
        source: &source,
        from: &arguments.from,
        to: &arguments.to,
        text: &arguments.message,
        at: arguments
            .at
            .unwrap_or_else(|| crate::clock::Clock::system().wall()),
        render: arguments.render,
    });
    if global.json {
        print::json(&explanation)?;
    } else {
        print::text(&explanation.to_text())?;
    }
    Ok(Exit::Done)
}

fn source(plan: &Plan, arguments: &Arguments) -> Option<Name> {
    match &arguments.source {
        Some(name) if plan.sources.contains_key(name) => Some(name.clone()),
        Some(name) => {
            let known: Vec<&str> = plan.sources.keys().map(Name::as_str).collect();
            complain(&format!(
                "no source `{name}` in the configuration; there is: {}",
                known.join(", ")
            ));
            None
        }
        None => {
            let first = plan.sources.keys().next().cloned();
            if first.is_none() {
                complain(
                    "the configuration has no source; say which to assume with --source after adding one",
                );
            }
            first
        }
    }
}
