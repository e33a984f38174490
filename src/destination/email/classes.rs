//! Classifies the responses of a mail server: retry later, never, or park the destination.
//!
//! | answer | at | class |
//! |---|---|---|
//! | 421, a lost connection, a timeout, DNS, an untrusted certificate | any step | later, the whole destination |
//! | no free connection for minutes | | later, the whole destination |
//! | 5.4.5, 5.1.90 (daily quota) | any step | in an hour, the whole destination |
//! | 530, 534, 535, 538, 5.7.8, 5.7.9, 5.7.30, 5.7.57, 5.7.60 (login) | any step | parked |
//! | STARTTLS, a login mechanism or SMTPUTF8 is not offered | greeting | parked |
//! | 4yz | up to `MAIL FROM` | later, the whole destination |
//! | 4yz | from `RCPT TO` on | later, this message |
//! | 5yz | greeting, `EHLO`, `STARTTLS` | later, the whole destination: no message is at fault |
//! | 5yz | `AUTH`, `MAIL FROM` | parked |
//! | 5yz | from `RCPT TO` on | never, this message |
//!
//! At `RCPT TO`, "this message" means this recipient, unless all recipients get the same response.
//!
//! An untrusted certificate is "later" and not "parked", because it is usually fixed without the operator of
//! smsbridge: the server renews it, or the clock is corrected.

use std::fmt;
use std::time::Duration;

use super::reply::{Reply, Step};
use crate::destination::{Failure, Fate, Scope};
use crate::mask::{Mask, Reason};
use crate::model::message::Message;
use crate::template;

/// The pause after the daily quota is exhausted.
const QUOTA_PAUSE: Duration = Duration::from_secs(3600);

/// Upper bound of the reason why a certificate is not trusted, in characters: it quotes names from the certificate.
const UNTRUSTED_MAX: usize = 160;

/// Formats a server's response to one message.
pub(super) struct Quote<'a> {
    pub(super) mask: Mask,
    pub(super) message: &'a Message,
}

impl Quote<'_> {
    /// The codes, followed by the masked text of the server.
    pub(super) fn reply(&self, reply: &Reply) -> Reason {
        let codes = reply.to_string();
        let words = reply
            .text
            .strip_prefix(reply.enhanced())
            .filter(|_| codes.contains(' '));
        let words = words.unwrap_or(&reply.text).trim_start();
        Reason::from(codes).quote(" ", &self.mask.excerpt(words, Some(self.message)))
    }

    /// The resulting failure of the delivery.
    pub(super) fn failure(&self, trouble: &Trouble) -> Failure {
        let Cause::Reply(reply) = &trouble.cause else {
            return Failure::from(trouble);
        };
        let reason = Reason::from(format!("{}: ", trouble.step)).and(&self.reply(reply));
        let reason = reason.own(advice(trouble.step, reply));
        class(trouble.step, reply).failure(reason)
    }
}

/// Why a session, or one message in it, failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) step: Step,
    pub(super) cause: Cause,
}

/// The cause of a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The server responded with an error.
    Reply(Reply),
    /// The connection could not be opened, was closed, or the server does not speak SMTP.
    Lost(String),
    /// No response before the deadline of the delivery.
    Late,
    /// The certificate is not trusted.
    Untrusted(String),
    /// The server does not offer what the configuration requires.
    Withheld(&'static str),
    /// No token for the login is available.
    NoToken(String),
    /// Other deliveries have used all connections for this long.
    Busy(Duration),
}

impl Trouble {
    /// Returns true if an idle connection was closed by the server: nothing of the message was sent, so a new
    /// connection can be tried.
    pub(super) fn is_stale_connection(&self) -> bool {
        let gone = match &self.cause {
            Cause::Reply(reply) => reply.code == 421,
            Cause::Lost(_) => true,
            Cause::Late | Cause::Untrusted(_) | Cause::Withheld(_) | Cause::NoToken(_) | Cause::Busy(_) => {
                false
            }
        };
        gone && self.step < Step::Content
    }

    /// The server's response if the session remains usable after it; otherwise the failure.
    pub(super) fn into_refusal(self) -> Result<Reply, Self> {
        match self.cause {
            Cause::Reply(reply) if reply.code != 421 => Ok(reply),
            cause => Err(Self { cause, ..self }),
        }
    }

    /// Returns true if the server rejected the credentials.
    pub(super) fn is_refused_login(&self) -> bool {
        self.step == Step::Login && matches!(&self.cause, Cause::Reply(reply) if reply.code >= 500)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.step)?;
        match &self.cause {
            Cause::Reply(reply) => write!(f, "{reply}{}", advice(self.step, reply)),
            Cause::Lost(what) if self.step >= Step::Content => {
                write!(f, "{what}; it is unknown whether the server accepted it")
            }
            Cause::Lost(what) => f.write_str(what),
            Cause::Late if self.step == Step::Verdict => {
                f.write_str("no answer within `data_timeout`; it is unknown whether the server accepted it")
            }
            Cause::Late => f.write_str("no answer within `timeout`"),
            Cause::Untrusted(why) => write!(
                f,
                "the server's certificate is not trusted ({}): check `host`, or name the issuer in `ca_file`",
                template::shorten(&template::one_line(why), UNTRUSTED_MAX)
            ),
            Cause::Withheld(what) => f.write_str(what),
            Cause::NoToken(why) => f.write_str(why),
            Cause::Busy(wait) => write!(
                f,
                "other e-mails held all connections for {}: raise the server's `max_connections`, or lower `concurrency`",
                humantime::format_duration(*wait)
            ),
        }
    }
}

/// Uses our own words and the codes of the server, but not its text.
impl From<&Trouble> for Failure {
    fn from(trouble: &Trouble) -> Self {
        let reason = trouble.to_string();
        match &trouble.cause {
            Cause::Reply(reply) => class(trouble.step, reply).failure(reason.into()),
            Cause::Lost(_) | Cause::Late | Cause::Untrusted(_) | Cause::NoToken(_) | Cause::Busy(_) => {
                Self::unreachable(reason)
            }
            Cause::Withheld(_) => Self::parked(reason),
        }
    }
}

/// The class of a failure. The order is the precedence among the recipients of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// This message is rejected permanently.
    Never,
    /// This message is rejected temporarily.
    LaterMessage,
    /// All messages are rejected temporarily.
    LaterDestination,
    /// The quota of the account is exhausted.
    Quota,
    /// The configuration is wrong.
    Misconfigured,
}

impl Class {
    /// Returns true if it concerns all messages.
    pub(super) fn is_general(self) -> bool {
        self >= Self::LaterDestination
    }

    pub(super) fn failure(self, reason: Reason) -> Failure {
        let (retry_after, scope) = match self {
            Self::Never => return Failure::Permanent { reason },
            Self::Misconfigured => return Failure::Parked { reason },
            Self::LaterMessage => (None, Scope::Message),
            Self::LaterDestination => (None, Scope::Destination),
            Self::Quota => (Some(QUOTA_PAUSE), Scope::Destination),
        };
        Failure::Transient {
            reason,
            retry_after,
            scope,
        }
    }

    /// The result for one recipient while the server accepts others. The configuration is then valid, so a rejection
    /// that would otherwise mean a misconfiguration is permanent for this recipient.
    pub(super) fn fate(self, reason: Reason) -> Fate {
        match self {
            Self::Never | Self::Misconfigured => Fate::Never { reason },
            Self::LaterMessage | Self::LaterDestination => Fate::Later {
                reason,
                retry_after: None,
            },
            Self::Quota => Fate::Later {
                reason,
                retry_after: Some(QUOTA_PAUSE),
            },
        }
    }
}

/// The table in the documentation of this module.
pub(super) fn class(step: Step, reply: &Reply) -> Class {
    let temporary = (400..500).contains(&reply.code);
    match (reply.code, reply.enhanced()) {
        (421, _) => Class::LaterDestination,
        (500.., "5.4.5" | "5.1.90") => Class::Quota,
        (530 | 534 | 535 | 538, _) => Class::Misconfigured,
        (500.., "5.7.8" | "5.7.9" | "5.7.30" | "5.7.57" | "5.7.60") => Class::Misconfigured,
        _ => match step {
            Step::Connect | Step::StartTls => Class::LaterDestination,
            Step::Login | Step::Sender if temporary => Class::LaterDestination,
            Step::Login | Step::Sender => Class::Misconfigured,
            Step::Recipient | Step::Data | Step::Content | Step::Verdict if temporary => Class::LaterMessage,
            Step::Recipient | Step::Data | Step::Content | Step::Verdict => Class::Never,
        },
    }
}

/// The setting that the operator should check, if the response indicates it.
fn advice(step: Step, reply: &Reply) -> &'static str {
    if class(step, reply) != Class::Misconfigured {
        return "";
    }
    match (reply.code, step) {
        (530, _) => "; the server wants a login or TLS first: check `security`, `username` and `password`",
        (_, Step::Sender) => "; the server does not allow this login to send as `from`",
        _ => "; check `username` and `password`; servers without password logins need `auth = \"xoauth2\"`",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_response_has_its_class() {
        use Class::{LaterDestination, LaterMessage, Misconfigured, Never, Quota};
        use Step::{Connect, Data, Login, Recipient, Sender, StartTls, Verdict};
        for (step, code, text, expected) in [
            (Connect, 421, "4.3.2 too busy", LaterDestination),
            (Connect, 450, "4.7.1 not now", LaterDestination),
            (Connect, 554, "5.7.1 blocked", LaterDestination),
            (StartTls, 454, "4.7.0 TLS not available", LaterDestination),
            (StartTls, 502, "5.5.1 no", LaterDestination),
            (
                Login,
                454,
                "4.7.0 Temporary authentication failure",
                LaterDestination,
            ),
            (Login, 535, "5.7.8 Error: authentication failed", Misconfigured),
            (
                Login,
                534,
                "5.7.9 Application-specific password required",
                Misconfigured,
            ),
            (Login, 538, "5.7.11 Encryption required", Misconfigured),
            (Login, 504, "5.5.4 no such mechanism", Misconfigured),
            (
                Login,
                550,
                "5.7.30 Basic authentication is not supported for Client Submission",
                Misconfigured,
            ),
            (
                Sender,
                530,
                "5.7.0 Must issue a STARTTLS command first",
                Misconfigured,
            ),
            (
                Sender,
                530,
                "5.7.57 Client not authenticated to send mail",
                Misconfigured,
            ),
            (Sender, 553, "5.7.1 not owned by user", Misconfigured),
            (Sender, 550, "5.4.5 Daily user sending limit exceeded", Quota),
            (Sender, 452, "4.3.1 Insufficient system storage", LaterDestination),
            (Sender, 421, "4.7.0 closing", LaterDestination),
            (Recipient, 450, "4.2.0 Greylisted", LaterMessage),
            (Recipient, 451, "try again", LaterMessage),
            (Recipient, 452, "4.2.2 mailbox full", LaterMessage),
            (Recipient, 421, "4.7.0 closing", LaterDestination),
            (Recipient, 550, "5.1.1 User unknown", Never),
            (Recipient, 550, "5.4.5 Daily limit", Quota),
            (Recipient, 550, "5.1.90 daily limit for message recipients", Quota),
            (Recipient, 550, "", Never),
            (Recipient, 530, "Authentication required", Misconfigured),
            (Data, 451, "4.3.0", LaterMessage),
            (Data, 554, "5.5.1 no valid recipients", Never),
            (Verdict, 432, "4.3.2 thread limit", LaterMessage),
            (Verdict, 421, "4.3.0", LaterDestination),
            (Verdict, 550, "5.7.1 spam", Never),
            (Verdict, 552, "5.3.4 too big", Never),
            (
                Verdict,
                550,
                "5.7.60 Client does not have permissions to send as this sender",
                Misconfigured,
            ),
        ] {
            assert_eq!(
                class(step, &Reply::new(code, text)),
                expected,
                "{step}: {code} {text}"
            );
        }
    }

    #[test]
    fn an_exhausted_quota_pauses_the_destination_for_an_hour() {
        let trouble = Trouble {
            step: Step::Verdict,
            cause: Cause::Reply(Reply::new(550, "5.4.5 limit")),
        };
        let Failure::Transient {
            retry_after, scope, ..
        } = Failure::from(&trouble)
        else {
            panic!("not transient")
        };
        assert_eq!(
            (retry_after, scope),
            (Some(Duration::from_secs(3600)), Scope::Destination)
        );
    }

    #[test]
    fn a_failure_without_a_response_concerns_the_destination_and_a_missing_extension_parks_it() {
        for cause in [
            Cause::Lost("x".into()),
            Cause::Late,
            Cause::Untrusted("x".into()),
            Cause::NoToken("x".into()),
            Cause::Busy(Duration::from_secs(300)),
        ] {
            let failure = Failure::from(&Trouble {
                step: Step::Connect,
                cause,
            });
            assert!(
                matches!(
                    failure,
                    Failure::Transient {
                        scope: Scope::Destination,
                        ..
                    }
                ),
                "{failure:?}"
            );
        }
        let withheld = Trouble {
            step: Step::StartTls,
            cause: Cause::Withheld("no"),
        };
        assert!(matches!(Failure::from(&withheld), Failure::Parked { .. }));
    }

    #[test]
    fn a_connection_is_stale_only_before_the_message_is_sent() {
        let lost = |step| Trouble {
            step,
            cause: Cause::Lost("end of file".into()),
        };
        assert!(lost(Step::Sender).is_stale_connection() && lost(Step::Data).is_stale_connection());
        assert!(!lost(Step::Content).is_stale_connection() && !lost(Step::Verdict).is_stale_connection());
        let said = |code| Trouble {
            step: Step::Sender,
            cause: Cause::Reply(Reply::new(code, "")),
        };
        assert!(said(421).is_stale_connection() && !said(450).is_stale_connection());
    }

    #[test]
    fn a_response_is_logged_as_codes_and_shown_with_its_text() {
        let message = crate::mask::sample("hello there");
        let quote = Quote {
            mask: Mask::default().secret(&crate::model::secret::Secret::new("s3cret")),
            message: &message,
        };
        for (code, text, logged, shown) in [
            (550, "5.1.1 no hello there", "550 5.1.1", "550 5.1.1 no ***"),
            (535, "s3cret is wrong", "535", "535 *** is wrong"),
            (550, "5.1.1", "550 5.1.1", "550 5.1.1"),
            (550, "", "550", "550"),
            (250, "1.2.3.4 ok", "250", "250 1.2.3.4 ok"),
            (550, "5.hello.1 x", "550", "550 5.***.1 x"),
        ] {
            let reason = quote.reply(&Reply::new(code, text));
            assert_eq!(
                (reason.logged(), reason.shown()),
                (logged, shown),
                "{code} {text}"
            );
        }
        let trouble = Trouble {
            step: Step::Sender,
            cause: Cause::Reply(Reply::new(530, "5.7.0 log in, s3cret")),
        };
        let failure = quote.failure(&trouble);
        assert!(
            failure
                .reason()
                .shown()
                .starts_with("MAIL FROM: 530 5.7.0 log in, ***; the server wants")
        );
        assert_eq!(failure.reason().logged(), trouble.to_string());
    }
}
