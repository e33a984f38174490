//! A mailbox as written in the configuration: `name@example.com` or `Name <name@example.com>`.

use std::ops::Deref;
use std::str::FromStr;

use deserr::{Deserr, IntoValue, Value, ValuePointerRef};

use crate::model::setting::{self, Errors};

/// A mailbox that is safe to use in a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mailbox(lettre::message::Mailbox);

/// The string is not a valid [`Mailbox`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a mailbox: write \"name@example.com\" or \"Name <name@example.com>\"")]
pub struct MailboxError(String);

impl Mailbox {
    /// Returns true if the address needs SMTPUTF8.
    #[must_use]
    pub fn is_international(&self) -> bool {
        !AsRef::<str>::as_ref(&self.0.email).is_ascii()
    }

    /// The mailbox as lettre's headers need it.
    #[must_use]
    pub fn to_lettre(&self) -> lettre::message::Mailbox {
        self.0.clone()
    }
}

impl Deref for Mailbox {
    type Target = lettre::message::Mailbox;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl FromStr for Mailbox {
    type Err = MailboxError;

    fn from_str(text: &str) -> Result<Self, MailboxError> {
        let wrong = || MailboxError(text.to_owned());
        if text.chars().any(char::is_control) {
            return Err(wrong());
        }
        let mailbox: lettre::message::Mailbox = text.trim().parse().map_err(|_| wrong())?;
        // lettre's parser stops at invalid input; the rest must not be ignored silently.
        let is_complete = text
            .trim()
            .trim_end_matches('>')
            .ends_with(AsRef::<str>::as_ref(&mailbox.email));
        if is_complete {
            Ok(Self(mailbox))
        } else {
            Err(wrong())
        }
    }
}

impl Deserr<Errors> for Mailbox {
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef<'_>,
    ) -> Result<Self, Errors> {
        setting::text(value, location, "a string", |text| {
            text.parse().map_err(|error: MailboxError| error.to_string())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mailboxes_are_read_with_and_without_a_name() {
        for (text, name, address) in [
            ("desk@example.com", None, "desk@example.com"),
            (" desk@example.com ", None, "desk@example.com"),
            (
                "SMS bridge <sms@example.com>",
                Some("SMS bridge"),
                "sms@example.com",
            ),
            (
                "\"Desk, night\" <desk@example.com>",
                Some("Desk, night"),
                "desk@example.com",
            ),
            ("<desk@example.com>", None, "desk@example.com"),
            (
                "Jürgen Groß <j@example.com>",
                Some("Jürgen Groß"),
                "j@example.com",
            ),
            ("jürgen@example.com", None, "jürgen@example.com"),
        ] {
            let mailbox: Mailbox = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(
                (mailbox.name.as_deref(), mailbox.email.to_string().as_str()),
                (name, address),
                "{text}"
            );
        }
        assert!(
            "jürgen@example.com"
                .parse::<Mailbox>()
                .unwrap()
                .is_international()
        );
    }

    #[test]
    fn an_invalid_mailbox_is_rejected() {
        for text in [
            "",
            "desk",
            "desk@",
            "@example.com",
            "a@example.com, b@example.com",
            "a@example.com b@example.com",
            "Desk <desk@example.com> x",
            "desk@example.com\r\nBcc: x@example.com",
            "Desk\n <desk@example.com>",
            "desk@exa mple.com",
        ] {
            assert!(text.parse::<Mailbox>().is_err(), "{text:?}");
        }
    }
}
