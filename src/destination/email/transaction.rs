//! One message over an open connection: `MAIL`, `RCPT` for each recipient, `DATA`, and the content.
//!
//! Where the server offers PIPELINING ([RFC 2920](https://www.rfc-editor.org/rfc/rfc2920)), all up to `DATA`
//! goes out in one write: two round trips instead of four or more. Every answer is judged at its own step all
//! the same. The content never goes ahead of the answer to `DATA`, so that whatever fails before it has
//! delivered nothing to anybody.

use std::time::Duration;

use lettre::Address;
use tokio::time::Instant;

use super::classes::{Cause, Reply, Step, Trouble};
use super::session::{DONE, GO_ON, Session};

/// One message and whom it is for.
#[derive(Clone, Debug)]
pub(super) struct Envelope<'a> {
    pub(super) sender: &'a Address,
    pub(super) recipients: Vec<&'a Address>,
    /// The whole e-mail, with CRLF line ends.
    pub(super) content: &'a str,
}

/// What became of a message, for each recipient.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Receipt {
    pub(super) accepted: Vec<String>,
    pub(super) refused: Vec<(String, Reply)>,
    /// The final answer; none when nobody accepted and so nothing was sent.
    pub(super) answer: Option<Reply>,
}

impl Session {
    /// Sends one message to all its recipients that the server accepts. After an error the session is of no
    /// further use: with pipelining it may owe answers, or await content that must not come.
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

    /// What to write before each of the answers up to that to `DATA`: one command each, or all of them
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

    /// What `MAIL FROM` has to announce. Only international addresses make a message other than ASCII.
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

    /// Ends the transaction of a message that nobody accepted. With pipelining `DATA` has gone out already,
    /// and is refused by nearly every server. One that asks for the content gets nothing more, and the
    /// connection is dropped: RFC 2920 proposes a lone dot, but that completes an empty message, and only
    /// the server's goodness would keep it from being delivered. Without the dot there is no message.
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

/// The message as `DATA` wants it: a dot that begins a line doubled, and the line with the final dot.
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
    fn a_dot_that_begins_a_line_is_doubled() {
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
