//! An error response of a mail server, and the step of the session at which it was received.

use std::fmt;

use crate::template;

/// Upper bound of a server's response that is kept, in characters.
const ANSWER_MAX: usize = 2048;

/// The steps of a mail session, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// DNS, TCP, TLS from the start, greeting and `EHLO`.
    Connect,
    /// `STARTTLS` and the handshake after it.
    StartTls,
    /// `AUTH`.
    Login,
    /// `MAIL FROM`.
    Sender,
    /// `RCPT TO`.
    Recipient,
    /// `DATA`.
    Data,
    /// The message itself.
    Content,
    /// The response to the message.
    Verdict,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connecting",
            Self::StartTls => "STARTTLS",
            Self::Login => "login",
            Self::Sender => "MAIL FROM",
            Self::Recipient => "RCPT TO",
            Self::Data => "DATA",
            Self::Content | Self::Verdict => "sending the message",
        })
    }
}

/// An error response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) code: u16,
    /// The text after the code; begins with the enhanced status code if there is one. Must be masked before it is
    /// shown: it may quote the message or the login.
    pub(super) text: String,
}

impl Reply {
    pub(super) fn new(code: u16, text: &str) -> Self {
        Self {
            code,
            text: template::shorten(&template::one_line(text.trim()), ANSWER_MAX),
        }
    }

    pub(super) fn enhanced(&self) -> &str {
        self.text.split_whitespace().next().unwrap_or_default()
    }
}

/// Only the codes.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        match self.enhanced() {
            enhanced if is_enhanced(enhanced) => write!(f, " {enhanced}"),
            _ => Ok(()),
        }
    }
}

/// Returns true if this is an enhanced status code, such as `5.7.1`.
fn is_enhanced(word: &str) -> bool {
    let is_number =
        |number: &str| matches!(number.len(), 1..=3) && number.bytes().all(|byte| byte.is_ascii_digit());
    word.split('.').count() == 3 && word.split('.').all(is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_short_and_on_one_line() {
        let reply = Reply::new(550, &format!("5.1.1 a\r\nb{}", "x".repeat(5000)));
        assert!(reply.text.chars().count() <= ANSWER_MAX + 1 && !reply.text.contains(['\r', '\n']));
    }
}
