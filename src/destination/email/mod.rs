//! `kind = "email"`: sends each message as an e-mail through a mail server of `[smtp.NAME]`.
//!
//! The server responds for each recipient. A recipient that does not accept a message while others do gets its own
//! delivery, so that the others do not wait for it. The Message-ID is the same for all recipients and attempts, so a
//! mail program can detect a duplicate after a lost response.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use deserr::Deserr;
use lettre::Address;

use self::classes::{Class, Quote, class};
use self::compose::Composer;
pub use self::mailbox::{Mailbox, MailboxError};
use self::reply::Step;
pub use self::server::Server;
pub use self::smtp::{Auth, Security, SmtpConfig};
use self::transaction::{Envelope, Receipt};
use super::{
    BuildContext, Delivered, Destination, Failure, Fate, Kind, Other, OutboundMessage, Permit, Recipients,
};
use crate::mask::Reason;
use crate::model::message::Name;
use crate::model::setting::Errors;
use crate::template::Template;

mod classes;
mod compose;
#[cfg(test)]
mod golden;
mod mailbox;
mod reply;
mod server;
mod session;
mod smtp;
mod tls;
mod token;
mod transaction;
mod wire;

/// Upper bound of the recipients of one destination.
const RECIPIENTS_MAX: usize = 50;

/// `[destination.NAME]` with `kind = "email"`.
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The `[smtp.NAME]` to send with.
    pub smtp: Name,
    /// The sender; its domain is also used in the Message-ID.
    pub from: Mailbox,
    /// The recipients.
    pub to: Vec<Mailbox>,
    /// Additional recipients.
    #[deserr(default)]
    pub cc: Vec<Mailbox>,
    /// The address for replies, if different from `from`.
    #[deserr(default)]
    pub reply_to: Option<Mailbox>,
    /// A template for the subject.
    #[deserr(default)]
    pub subject: Option<String>,
    /// A template for the body; the same as `template`.
    #[deserr(default)]
    pub body: Option<String>,
    /// Whether to add an HTML part.
    #[deserr(default = yes())]
    pub html: bool,
    /// Whether the messages of a conversation form a thread.
    #[deserr(default = yes())]
    pub threads: bool,
}

impl Kind for Config {
    fn smtp(&self) -> Option<&str> {
        Some(self.smtp.as_str())
    }

    fn build(&self, context: BuildContext<'_>) -> Result<Box<dyn Destination>, String> {
        Ok(Box::new(Email::build(self, context)?))
    }
}

fn yes() -> bool {
    true
}

/// An e-mail destination.
#[derive(Debug)]
pub struct Email {
    composer: Composer,
    recipients: Vec<Address>,
    /// The recipients as strings, as deliveries name them.
    names: Vec<String>,
    server: Arc<Server>,
    timeout: Duration,
    max_connections: usize,
}

impl Email {
    /// Builds the destination without opening a connection.
    ///
    /// # Errors
    /// A sentence for the operator, without the name of the destination.
    pub fn build(config: &Config, context: BuildContext<'_>) -> Result<Self, String> {
        let smtp = context
            .smtp
            .get(&config.smtp)
            .ok_or_else(|| format!("smtp: there is no [smtp.{}]", config.smtp))?;
        check_mailboxes(config, smtp.smtputf8)?;
        let body = match (context.template, template("body", config.body.as_deref())?) {
            (Some(_), Some(_)) => {
                return Err("give either `body` or `template`, they are the same".to_owned());
            }
            (template, body) => template.or(body),
        };
        let recipients = recipients(config);
        Ok(Self {
            names: recipients.iter().map(Address::to_string).collect(),
            recipients,
            server: smtp
                .server(context.http.resolver())
                .map_err(|error| format!("[smtp.{}]: {error}", config.smtp))?,
            timeout: context.timeout,
            max_connections: smtp.max_connections,
            composer: Composer {
                name: context.name.clone(),
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
    /// More would only wait for a connection.
    fn concurrency_default(&self) -> usize {
        self.max_connections
    }

    fn address(&self) -> Option<String> {
        Some(self.server.address())
    }

    async fn deliver(&self, outbound: &OutboundMessage<'_>) -> Result<Delivered, Failure> {
        let (asked, held) = self.select(&outbound.recipients)?;
        if asked.is_empty() {
            return outcome(&Receipt::default(), &held, false, &self.quote(outbound));
        }
        let content = self.composer.compose(outbound)?;
        let envelope = Envelope {
            sender: &self.composer.from.email,
            recipients: asked,
            content: &content,
        };
        let sent = self.server.send(&envelope, self.timeout).await;
        let quote = self.quote(outbound);
        let receipt = sent.map_err(|trouble| quote.failure(&trouble))?;
        let is_all = outbound.recipients.only.is_some() || envelope.recipients.len() == self.recipients.len();
        outcome(&receipt, &held, is_all, &quote)
    }

    fn recipients(&self) -> &[String] {
        &self.names
    }

    async fn permit(&self) -> Result<Permit, Failure> {
        let permit = self.server.permit().await;
        Ok(Some(permit.map_err(|trouble| Failure::from(&trouble))?))
    }

    fn attempt_max(&self, timeout: Duration) -> Duration {
        timeout + self.server.data_timeout()
    }

    fn render(&self, outbound: &OutboundMessage<'_>) -> Result<String, Failure> {
        self.composer.compose(outbound)
    }
}

impl Email {
    fn quote<'a>(&self, outbound: &OutboundMessage<'a>) -> Quote<'a> {
        Quote {
            mask: self.server.mask(),
            message: outbound.message,
        }
    }

    /// The recipients to send to now, and those that have to wait for an earlier message.
    fn select(&self, recipients: &Recipients<'_>) -> Result<(Vec<&Address>, Vec<String>), Failure> {
        let all = self.recipients.iter().zip(&self.names);
        if let Some(only) = recipients.only {
            if recipients.done.iter().any(|done| done == only) {
                return Ok((Vec::new(), Vec::new()));
            }
            let asked: Vec<&Address> = all
                .filter(|(_, name)| *name == only)
                .map(|(address, _)| address)
                .collect();
            return match asked.is_empty() {
                false => Ok((asked, Vec::new())),
                true => Err(Failure::permanent(format!(
                    "{only} is no longer a recipient of this destination: `smsbridge message resend` sends the message to those that are"
                ))),
            };
        }
        let missing = all.filter(|(_, name)| !recipients.done.contains(name));
        let (held, asked): (Vec<_>, Vec<_>) = missing.partition(|(_, name)| recipients.held.contains(name));
        let held = held.into_iter().map(|(_, name)| name.clone()).collect();
        Ok((asked.into_iter().map(|(address, _)| address).collect(), held))
    }
}

/// The result of the delivery from the results of its recipients. `is_all` is true if all recipients of the delivery
/// were tried.
fn outcome(
    receipt: &Receipt,
    held: &[String],
    is_all: bool,
    quote: &Quote<'_>,
) -> Result<Delivered, Failure> {
    let Receipt {
        accepted,
        refused,
        answer,
    } = receipt;
    let answer = answer.as_ref().map(|reply| quote.reply(reply));
    if refused.is_empty() && held.is_empty() {
        let before = || Reason::from("all recipients had accepted it before");
        return Ok(Delivered {
            detail: answer.unwrap_or_else(before).shown().to_owned(),
            thread: None,
        });
    }
    let classes: Vec<Class> = refused
        .iter()
        .map(|(_, reply)| class(Step::Recipient, reply))
        .collect();
    let refused: Vec<(&String, Reason)> = refused
        .iter()
        .map(|(recipient, reply)| (recipient, quote.reply(reply)))
        .collect();
    let reason = words(answer, accepted, &refused, held);
    let gravest = classes.iter().max().copied().unwrap_or(Class::Never);
    let is_alike = is_all && classes.iter().all(|class| *class == gravest);
    if accepted.is_empty() && (gravest.is_general() || is_alike) {
        return Err(gravest.failure(reason));
    }
    let refused = refused
        .iter()
        .zip(classes)
        .map(|((recipient, reply), class)| Other {
            recipient: (*recipient).clone(),
            fate: class.fate(Reason::from(format!("refused for {recipient}: ")).and(reply)),
        });
    let held = held.iter().map(|recipient| Other {
        recipient: recipient.clone(),
        fate: Fate::Behind,
    });
    Err(Failure::Divided {
        reason,
        accepted: !accepted.is_empty(),
        others: refused.chain(held).collect(),
    })
}

fn words(
    answer: Option<Reason>,
    accepted: &[String],
    refused: &[(&String, Reason)],
    held: &[String],
) -> Reason {
    let mut words = Vec::new();
    if let Some(answer) = answer {
        words.push(answer.own(&format!("; accepted for {}", accepted.join(", "))));
    }
    words.extend(refused.iter().enumerate().map(|(nth, (recipient, reply))| {
        let before = if nth == 0 { "refused for " } else { "" };
        Reason::from(format!("{before}{recipient}: ")).and(reply)
    }));
    if !held.is_empty() {
        words.push(Reason::from(format!(
            "behind an earlier message for {}",
            held.join(", ")
        )));
    }
    let joined = words.into_iter().reduce(|all, next| all.own("; ").and(&next));
    joined.unwrap_or_default()
}

/// All recipients in `to` and `cc`, without duplicates.
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
