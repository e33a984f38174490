//! `kind = "email"`: each text becomes an e-mail through a mail server of `[smtp.NAME]`.
//!
//! Recipients are answered for one by one: who accepted is remembered as the delivery's progress and is not
//! sent to again when the others are retried. The Message-ID is the delivery's id, so a mail program can
//! recognise a repeat after a lost answer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lettre::Address;
use serde::Deserialize;

use self::classes::{Class, Quote, Step, class};
use self::compose::Composer;
pub use self::mailbox::{Mailbox, MailboxError};
pub use self::server::Server;
pub use self::smtp::{Auth, Security, SmtpConfig};
use self::transaction::{Envelope, Receipt};
use super::{Delivered, Destination, Failure, Parcel, Permit, Surroundings};
use crate::mask::Reason;
use crate::message::Name;
use crate::template::Template;

mod classes;
mod compose;
#[cfg(test)]
mod golden;
mod mailbox;
mod server;
mod session;
mod smtp;
mod tls;
mod token;
mod transaction;
mod wire;

/// How many recipients one destination may have.
const RECIPIENTS_MAX: usize = 50;

/// `[destination.NAME]` with `kind = "email"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Which `[smtp.NAME]` sends it.
    pub smtp: Name,
    /// The sender; its domain also makes the Message-ID.
    pub from: Mailbox,
    /// The recipients.
    pub to: Vec<Mailbox>,
    /// More recipients.
    #[serde(default)]
    pub cc: Vec<Mailbox>,
    /// Where replies go, if not to `from`.
    pub reply_to: Option<Mailbox>,
    /// A template for the subject.
    pub subject: Option<String>,
    /// A template for the text; the same as `template`.
    pub body: Option<String>,
    /// Whether there is an HTML part beside the text.
    #[serde(default = "yes")]
    pub html: bool,
    /// Whether the texts of one conversation make one thread.
    #[serde(default = "yes")]
    pub threads: bool,
}

fn yes() -> bool {
    true
}

/// An e-mail destination.
#[derive(Debug)]
pub struct Email {
    composer: Composer,
    recipients: Vec<Address>,
    server: Arc<Server>,
    timeout: Duration,
}

impl Email {
    /// Makes it ready to run; opens no connection.
    ///
    /// # Errors
    /// What is wrong with the configuration, without the destination's name.
    pub fn build(config: &Config, around: Surroundings<'_>) -> Result<Self, String> {
        let smtp = around
            .smtp
            .get(&config.smtp)
            .ok_or_else(|| format!("smtp: there is no [smtp.{}]", config.smtp))?;
        check_mailboxes(config, smtp.smtputf8)?;
        let body = match (around.template, template("body", config.body.as_deref())?) {
            (Some(_), Some(_)) => {
                return Err("give either `body` or `template`, they are the same".to_owned());
            }
            (template, body) => template.or(body),
        };
        Ok(Self {
            recipients: recipients(config),
            server: smtp
                .server(around.http.resolver())
                .map_err(|error| format!("[smtp.{}]: {error}", config.smtp))?,
            timeout: around.timeout,
            composer: Composer {
                name: around.name.clone(),
                from: config.from.clone(),
                to: config.to.clone(),
                cc: config.cc.clone(),
                reply_to: config.reply_to.clone(),
                subject: template("subject", config.subject.as_deref())?,
                body,
                html: config.html,
                threads: config.threads,
            },
        })
    }
}

#[async_trait]
impl Destination for Email {
    async fn deliver(&self, parcel: &Parcel<'_>) -> Result<Delivered, Failure> {
        let content = self.composer.compose(parcel)?;
        let envelope = Envelope {
            sender: &self.composer.from.email,
            recipients: remaining(&self.recipients, parcel.progress),
            content: &content,
        };
        if envelope.recipients.is_empty() {
            return Ok(Delivered {
                detail: "all recipients had accepted it before".to_owned(),
                thread: None,
            });
        }
        let sent = self.server.send(&envelope, self.timeout).await;
        let quote = Quote {
            mask: self.server.mask(),
            message: parcel.message,
        };
        match sent {
            Ok(receipt) => settle(receipt, parcel.progress, &quote),
            Err(trouble) => Err(quote.failure(&trouble)),
        }
    }

    async fn permit(&self) -> Result<Permit, Failure> {
        let permit = self.server.permit().await;
        Ok(Some(permit.map_err(|trouble| Failure::from(&trouble))?))
    }

    fn attempt_max(&self, timeout: Duration) -> Duration {
        timeout + self.server.data_timeout()
    }

    fn render(&self, parcel: &Parcel<'_>) -> Result<String, Failure> {
        self.composer.compose(parcel)
    }
}

/// What the recipients' answers mean for the delivery as a whole: the gravest of them decides.
fn settle(receipt: Receipt, before: &[String], quote: &Quote<'_>) -> Result<Delivered, Failure> {
    if receipt.refused.is_empty() {
        let answer = receipt
            .answer
            .map(|reply| quote.reply(&reply))
            .unwrap_or_default();
        return Ok(Delivered {
            detail: answer.shown().to_owned(),
            thread: None,
        });
    }
    let progress: Vec<String> = before.iter().cloned().chain(receipt.accepted).collect();
    let classes = receipt
        .refused
        .iter()
        .map(|(_, reply)| class(Step::Recipient, reply));
    let mut reason = Reason::from("refused for ");
    for (nth, (address, reply)) in receipt.refused.iter().enumerate() {
        let separator = if nth == 0 { "" } else { "; " };
        reason = reason
            .own(&format!("{separator}{address}: "))
            .and(&quote.reply(reply));
    }
    if progress.is_empty() {
        return Err(classes.max().unwrap_or(Class::LaterMessage).failure(reason, None));
    }
    let reason = reason.own(&format!(
        "; accepted for {} of {}",
        progress.len(),
        progress.len() + receipt.refused.len()
    ));
    let class = classes
        .map(Class::for_some_recipients)
        .max()
        .unwrap_or(Class::LaterMessage);
    Err(class.failure(reason, Some(progress)))
}

fn remaining<'a>(recipients: &'a [Address], done: &[String]) -> Vec<&'a Address> {
    recipients
        .iter()
        .filter(|address| !done.contains(&address.to_string()))
        .collect()
}

/// Everyone in `to` and `cc`, once.
fn recipients(config: &Config) -> Vec<Address> {
    let mut seen = BTreeSet::new();
    let all = config.to.iter().chain(&config.cc).map(|mailbox| &mailbox.email);
    all.filter(|address| seen.insert(address.to_string()))
        .cloned()
        .collect()
}

fn check_mailboxes(config: &Config, international: bool) -> Result<(), String> {
    if config.to.is_empty() {
        return Err("to: at least one recipient is needed".to_owned());
    }
    if config.to.len() + config.cc.len() > RECIPIENTS_MAX {
        return Err(format!(
            "to: at most {RECIPIENTS_MAX} recipients, those of `cc` included; use a mailing list"
        ));
    }
    let mut all = [&config.from]
        .into_iter()
        .chain(&config.to)
        .chain(&config.cc)
        .chain(&config.reply_to);
    match all.find(|mailbox| mailbox.is_international() && !international) {
        None => Ok(()),
        Some(mailbox) => Err(format!(
            "{:?} is not ASCII: write its domain in the `xn--` form, or set `smtputf8 = true` in [smtp.{}] if the \
             server offers that",
            mailbox.email.to_string(),
            config.smtp
        )),
    }
}

fn template(key: &str, source: Option<&str>) -> Result<Option<Template>, String> {
    source
        .map(Template::compile)
        .transpose()
        .map_err(|error| match error.line {
            Some(line) => format!("{key}: line {line}: {error}"),
            None => format!("{key}: {error}"),
        })
}
