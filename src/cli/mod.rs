//! The command line: arguments, output and exit status.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgAction, Args, Parser, Subcommand};

mod backup;
mod check;
mod client;
mod delivery;
mod destination;
mod error;
mod examples;
mod generate;
mod intelepeer;
mod listing;
mod message;
mod operator;
mod pinned_tls;
mod print;
mod problems;
mod progress;
mod prompt;
mod reload;
mod restore;
mod route;
mod serve;
mod service;
mod simulate;
mod status;
mod store;
mod style;
mod table;
mod time;

use error::CommandError;

/// Self-hosted bridge from SMS webhooks to e-mail, Slack, Matrix and any HTTP API.
#[derive(Debug, Parser)]
#[command(
    name = "smsbridge",
    version,
    max_term_width = 110,
    arg_required_else_help = true,
    after_help = examples::ALL
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// The options of all commands.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Configuration file [default: $SMSBRIDGE_CONFIG, else ./config.toml if it exists, else /etc/smsbridge/config.toml]
    #[arg(short, long, global = true, value_name = "PATH", display_order = 1000)]
    config: Option<PathBuf>,
    /// Print data as JSON
    #[arg(long, global = true, display_order = 1001)]
    json: bool,
    /// Log more; twice for even more
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = 1002)]
    verbose: u8,
    /// Log less; twice for even less. Commands show no progress
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = 1003)]
    quiet: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground
    Serve,
    /// Read the configuration and report every problem in it
    #[command(after_help = examples::CHECK)]
    Check(check::Arguments),
    /// List the routes, or show where a message would go and why; needs no daemon
    #[command(after_help = examples::ROUTE)]
    Route(route::Arguments),
    /// Post a webhook to the running daemon as the carrier would
    #[command(after_help = examples::SIMULATE)]
    Simulate(simulate::Arguments),
    /// List, show or resend messages
    #[command(subcommand)]
    Message(message::Action),
    /// List, show, retry, discard or acknowledge deliveries
    #[command(subcommand)]
    Delivery(delivery::Action),
    /// List, test, pause or resume destinations
    #[command(subcommand)]
    Destination(destination::Action),
    /// Test the notices to the operator
    #[command(subcommand)]
    Operator(operator::Action),
    /// Show the state of the daemon on one screen, problems first
    Status(status::Arguments),
    /// Make the daemon read its configuration again, as SIGHUP does
    Reload,
    /// Manage an IntelePeer account: the webhooks of its numbers, the token, the signature
    #[command(subcommand)]
    Intelepeer(intelepeer::Action),
    /// Print a shell's completion script
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print a manual page
    Man {
        /// Which: smsbridge(1), or smsbridge.toml(5) about the configuration
        #[arg(value_enum, default_value = "smsbridge")]
        page: generate::Page,
        /// Write them all into this folder instead, with a page for each command
        #[arg(long, value_name = "DIR", conflicts_with = "page")]
        out: Option<PathBuf>,
    },
    /// Copy everything the running daemon keeps into a file
    #[command(after_help = examples::BACKUP)]
    Backup(backup::Arguments),
    /// Read a backup into an empty store; the daemon must not run
    Restore(restore::Arguments),
    /// Create, migrate or show the database of the store
    #[command(subcommand)]
    Store(store::Action),
}

/// Makes all files that this process creates readable only by their owner, independent of the umask: they contain
/// messages and secrets.
fn keep_files_private() {
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

/// The exit status of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0
    Done,
    /// 1: failed at run time.
    Failed,
    /// 2: wrong usage or wrong configuration.
    Wrong,
    /// 3: refused by the daemon, or it is not running.
    Refused,
    /// 74 (`EX_IOERR`): the store failed and the daemon stopped itself.
    StoreFailed,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Wrong => 2,
            Exit::Refused => 3,
            Exit::StoreFailed => 74,
        })
    }
}

impl Global {
    fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    fn louder(&self) -> i8 {
        i8::try_from(self.verbose)
            .unwrap_or(i8::MAX)
            .saturating_sub(i8::try_from(self.quiet).unwrap_or(i8::MAX))
    }
}

/// Parses the command line, runs the command, and returns the exit status.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misunderstood(&error),
    };
    match run(&cli.global, &cli.command) {
        Ok(exit) => exit.into(),
        Err(error) => error.print().into(),
    }
}

/// Prints the requested help, or an error about the arguments. An error may quote them, so it is made safe to print.
fn misunderstood(error: &clap::Error) -> ExitCode {
    let plain = error.render().to_string();
    let shown = print::harmless(&plain);
    if shown == plain {
        error.exit();
    }
    eprint!("{shown}");
    Exit::Wrong.into()
}

fn run(global: &Global, command: &Command) -> Result<Exit, CommandError> {
    match command {
        Command::Serve => Ok(serve::run(global)?),
        Command::Check(arguments) => check::run(global, arguments),
        Command::Route(arguments) => Ok(route::run(global, arguments)?),
        Command::Simulate(arguments) => Ok(simulate::run(global, arguments)?),
        Command::Message(action) => message::run(global, action),
        Command::Delivery(action) => delivery::run(global, action),
        Command::Destination(action) => destination::run(global, action),
        Command::Operator(action) => operator::run(global, action),
        Command::Status(arguments) => status::run(global, arguments),
        Command::Reload => reload::run(global),
        Command::Intelepeer(action) => intelepeer::run(global, action),
        Command::Backup(arguments) => backup::run(global, arguments),
        Command::Restore(arguments) => restore::run(global, arguments),
        Command::Store(action) => store::run(global, action),
        Command::Completions { shell } => generate::completions(*shell),
        Command::Man { page, out } => generate::man(*page, out.as_deref()),
    }
}

/// Prints an error on standard error.
fn complain(error: &str) {
    print::remark(&format!("{}: {error}", style::on_stderr(style::ERROR, "error")));
}
