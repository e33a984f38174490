//! `smsbridge completions` and `smsbridge man`: made from the command line's own description.

use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, Exit, Stop, print};

pub(super) fn completions(shell: Shell) -> Result<Exit, Stop> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "smsbridge", &mut script);
    print::bytes(&script)?;
    Ok(Exit::Done)
}

pub(super) fn man(out: Option<&Path>) -> Result<Exit, Stop> {
    match out {
        Some(folder) => write_all(folder)?,
        None => print_one()?,
    }
    Ok(Exit::Done)
}

fn print_one() -> Result<(), Stop> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command())
        .render(&mut page)
        .map_err(|error| Stop::failed(format!("the manual page cannot be made: {error}")))?;
    print::bytes(&page)
}

/// `smsbridge.1`, `smsbridge-message.1`, `smsbridge-message-list.1` …
fn write_all(folder: &Path) -> Result<(), Stop> {
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), folder))
        .map_err(|error| Stop::failed(format!("cannot write into {}: {error}", folder.display())))
}
