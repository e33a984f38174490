//! `smsbridge intelepeer token`: verifies the account's credentials.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::account::{Account, Which};
use crate::cli::{CommandError, Exit, Global, client, print, time};

/// The validity of a token according to the provider.
const LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// The arguments of `intelepeer token`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Print only the token; anyone who has it can manage the account
    #[arg(long)]
    show: bool,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<Exit, CommandError> {
    let account = Account::open(global, &arguments.which)?;
    let client = account.client()?;
    let asked = time::now();
    let token = client::runtime()?
        .block_on(client.token())
        .map_err(|error| CommandError::failed(error.reason().shown()))?;
    let configured = account.api.token.is_some();
    let until = (!configured).then(|| asked.after(LIFE));
    let shown = arguments.show.then(|| token.reveal());
    if global.json {
        print::json(&json!({ "configured": configured, "expires_at": until, "token": shown }))?;
    } else if let Some(token) = shown {
        print::text(&format!("{token}\n"))?;
    } else {
        print::text(&match until {
            Some(until) => format!(
                "the provider gave a token, valid until {}\n",
                time::exact(until, asked)
            ),
            None => {
                "the configured token is used; `smsbridge intelepeer webhook get` shows whether it is valid\n"
                    .to_owned()
            }
        })?;
    }
    Ok(Exit::Done)
}
