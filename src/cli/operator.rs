//! `smsbridge operator`: the destinations to which problems are reported.

use clap::Subcommand;
use serde_json::json;

use super::client::Daemon;
use super::{CommandError, Exit, Global, complain, destination, print};
use crate::control::view::Noticed;

/// The actions on notices.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Send a marked notice to each destination of `[operator] notify` and print the results
    Test,
}

pub(super) fn run(global: &Global, action: &Action) -> Result<Exit, CommandError> {
    let Action::Test = action;
    let answer = Daemon::find(global)?.post("/operator/test", &json!({}))?;
    let all: Vec<Noticed> = answer.read()?;
    if all.is_empty() {
        complain("problems are reported to no destination: add `notify` to [operator] in the configuration");
        return Ok(Exit::Wrong);
    }
    if global.json {
        print::document(answer.raw())?;
    } else {
        let lines = all
            .iter()
            .map(|noticed| destination::outcome(&noticed.destination, &noticed.tested));
        print::text(&lines.collect::<String>())?;
    }
    Ok(destination::exit(&all))
}
