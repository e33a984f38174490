//! Sends one message over an open connection: `MAIL`, `RCPT` for each recipient, `DATA`, and the content.
//!
//! With PIPELINING ([RFC 2920](https://www.rfc-editor.org/rfc/rfc2920)) all commands up to `DATA` are sent in one
//! write: two round trips instead of four or more. Each response is still assigned to its own step. The content is
//! only sent after the response to `DATA`, so a failure before that has delivered nothing.

use std::time::Duration;

use lettre::Address;
use tokio::time::Instant;

use super::classes::{Cause, Trouble};
use super::reply::{Reply, Step};
use super::session::{DONE, GO_ON, Session};

/// A message and its recipients.
#[derive(Clone, Debug)]
pub(super) struct Envelope<'a> {
    pub(super) sender: &'a Address,
    pub(super) recipients: Vec<&'a Address>,
    /// The complete e-mail, with CRLF line ends.
    pub(super) content: &'a str,
}

/// The result of a message, for each recipient.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Receipt {
    pub(super) accepted: Vec<String>,
    pub(super) refused: Vec<(String, Reply)>,
    /// The final response; `None` if no recipient was accepted and so nothing was sent.
    pub(super) answer: Option<Reply>,
}

impl Session {
    /// Sends one message to all recipients that the server accepts. After an error the session must not be used any
    /// more: with pipelining, responses may be outstanding, or the server may wait for content that must not be sent.
    pub(super) async fn send(
        &mut self,
        envelope: &Envelope<'_>,
        deadline: Instant,
        data_timeout: Duration,
    ) -> Result<Receipt, Trouble> {
        let mut commands = self.commands(envelope)?.into_iter();
        self.ask(deadline, Step::Sender, commands.next(), &[DONE]).await?;
        let mut receipt = Receipt::default();
        for recipient in &envelope.recipients {
            let answer = self.ask(deadline, Step::Recipient, commands.next(), &[DONE]);
            match answer.await {
                Ok(_) => receipt.accepted.push(recipient.to_string()),
                Err(trouble) => receipt
                    .refused
                    .push((recipient.to_string(), trouble.into_refusal()?)),
            }
        }
        if receipt.accepted.is_empty() {
            self.withdraw(deadline).await?;
            return Ok(receipt);
        }
        self.ask(deadline, Step::Data, commands.next(), &[GO_ON]).await?;
        if !self.is_usable() {
            return Err(Trouble {
                step: Step::Data,
                cause: Cause::Lost("the server sent more replies than commands".to_owned()),
            });
        }
        let answer = self
            .submit(&dotted(envelope.content), deadline, data_timeout)
            .await?;
        receipt.answer = Some(answer.reply());
        Ok(receipt)
    }

    /// The commands to write before reading each of the responses up to that of `DATA`: one command each, or all commands
    /// before the first.
    fn commands(&self, envelope: &Envelope<'_>) -> Result<Vec<String>, Trouble> {
        let parameters = self.mail_parameters(envelope)?;
        let mut commands = vec![format!("MAIL FROM:<{}>{parameters}\r\n", envelope.sender)];
        for recipient in &envelope.recipients {
            commands.push(format!("RCPT TO:<{recipient}>\r\n"));
        }
        commands.push("DATA\r\n".to_owned());
        if self.pipelines() {
            commands = vec![commands.concat()];
        }
        Ok(commands)
    }

    /// The parameters of `MAIL FROM`. Only international addresses need SMTPUTF8.
    fn mail_parameters(&self, envelope: &Envelope<'_>) -> Result<&'static str, Trouble> {
        if envelope.content.is_ascii() {
            return Ok("");
        }
        if !self.offers("SMTPUTF8") {
            let what = "an address is not ASCII and the server does not offer SMTPUTF8: use ASCII addresses";
            return Err(Trouble {
                step: Step::Sender,
                cause: Cause::Withheld(what),
            });
        }
        Ok(" BODY=8BITMIME SMTPUTF8")
    }

    /// Ends a transaction without an accepted recipient. With pipelining `DATA` was sent already; nearly every server
    /// rejects it. If a server asks for the content, the connection is closed: RFC 2920 proposes to send a lone dot,
    /// but that completes an empty message which the server might deliver. Without the dot there is no message.
    async fn withdraw(&mut self, deadline: Instant) -> Result<(), Trouble> {
        if self.pipelines() {
            match self.ask(deadline, Step::Data, None, &[GO_ON]).await {
                Ok(_) => {
                    self.give_up();
                    return Ok(());
                }
                Err(trouble) => trouble.into_refusal()?,
            };
        }
        let reset = Some("RSET\r\n".to_owned());
        self.ask(deadline, Step::Recipient, reset, &[DONE])
            .await
            .map(drop)
    }
}

/// The content for `DATA`: doubles the dot at the beginning of a line and appends the line with the final dot.
fn dotted(content: &str) -> String {
    let mut dotted = content.replace("\r\n.", "\r\n..");
    if dotted.starts_with('.') {
        dotted.insert(0, '.');
    }
    if !dotted.ends_with("\r\n") {
        dotted.push_str("\r\n");
    }
    dotted.push_str(".\r\n");
    dotted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_at_the_beginning_of_a_line_is_doubled() {
        for (content, expected) in [
            ("a\r\n", "a\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            (".\r\n", "..\r\n.\r\n"),
            ("a\r\n.\r\n.b\r\nc.\r\n", "a\r\n..\r\n..b\r\nc.\r\n.\r\n"),
            ("", "\r\n.\r\n"),
        ] {
            assert_eq!(dotted(content), expected);
        }
    }
}
