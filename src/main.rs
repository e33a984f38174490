//! The `smsbridge` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    smsbridge::cli::main()
}
