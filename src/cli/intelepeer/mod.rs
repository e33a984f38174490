//! `smsbridge intelepeer`: manages the account at the provider. Needs no daemon.

use clap::Subcommand;

use super::{CommandError, Exit, Global};

mod account;
mod report;
mod signature;
mod token;
mod webhook;

/// The actions on an IntelePeer account.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Show or set the webhooks of the account's numbers
    #[command(subcommand)]
    Webhook(webhook::Action),
    /// Get a token for the management API to check the account's credentials
    Token(token::Arguments),
    /// Find out how the account signs its webhooks, from one captured body
    DetectSignature(signature::Arguments),
}

pub(super) fn run(global: &Global, action: &Action) -> Result<Exit, CommandError> {
    match action {
        Action::Webhook(action) => webhook::run(global, action),
        Action::Token(arguments) => token::run(global, arguments),
        Action::DetectSignature(arguments) => signature::run(global, arguments),
    }
}
