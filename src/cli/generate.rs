//! `smsbridge completions` and `smsbridge man`, generated from the definition of the command line; the manual page of the
//! configuration is a file.

use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, CommandError, Exit, print};

/// smsbridge.toml(5) without its first line. A test compares it with `docs/configuration.md`.
const CONFIGURATION: &str = include_str!("../../docs/smsbridge.toml.5");

/// The manual pages that can be printed by name.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum Page {
    /// smsbridge(1)
    Smsbridge,
    /// smsbridge.toml(5)
    #[value(name = "smsbridge.toml")]
    Configuration,
}

pub(super) fn completions(shell: Shell) -> Result<Exit, CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "smsbridge", &mut script);
    print::bytes(&script)?;
    Ok(Exit::Done)
}

pub(super) fn man(page: Page, out: Option<&Path>) -> Result<Exit, CommandError> {
    match (out, page) {
        (Some(folder), _) => write_all(folder)?,
        (None, Page::Smsbridge) => print_commands()?,
        (None, Page::Configuration) => print::text(&configuration())?,
    }
    Ok(Exit::Done)
}

fn print_commands() -> Result<(), CommandError> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command())
        .render(&mut page)
        .map_err(|error| CommandError::failed(format!("the manual page cannot be made: {error}")))?;
    print::bytes(&page)
}

/// `smsbridge.1`, `smsbridge-message.1`, `smsbridge-message-list.1` …, `smsbridge.toml.5`.
fn write_all(folder: &Path) -> Result<(), CommandError> {
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), folder))
        .and_then(|()| std::fs::write(folder.join("smsbridge.toml.5"), configuration()))
        .map_err(|error| CommandError::failed(format!("cannot write into {}: {error}", folder.display())))
}

/// smsbridge.toml(5).
fn configuration() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(".TH SMSBRIDGE.TOML 5 \"\" \"smsbridge {version}\" \"File formats\"\n{CONFIGURATION}")
}
