//! One connection to a mail server: opening it as securely as the configuration asks, and asking it things.
//!
//! This drives lettre's connection command by command, because its transport fails a whole message when one
//! recipient is refused, and asks `NOOP` before each message. Every answer must have exactly the code that
//! belongs to its step: an answer smuggled in before TLS began shifts the later ones, and is noticed so.

use std::error::Error as _;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::FutureExt as _;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::Ehlo;
use lettre::transport::smtp::extension::{ClientId, Extension};
use lettre::transport::smtp::response::Response;
use tokio::time::Instant;

use super::classes::{Cause, Reply, Step, Trouble};
use crate::secret::Secret;

const NOT_SMTP: &str = "the server closed the connection or answered something that is not SMTP";

/// How a connection is protected.
#[derive(Clone)]
pub(super) enum Protection {
    /// Not at all.
    None,
    /// `STARTTLS`, required.
    StartTls(TlsParameters),
    /// TLS from the first byte.
    Tls(TlsParameters),
}

/// Who logs in, and how.
pub(super) enum Login<'a> {
    Nobody,
    Password {
        username: &'a str,
        password: &'a Secret,
        mechanisms: &'static [Mechanism],
    },
    Token {
        username: &'a str,
        token: &'a Secret,
    },
}

/// An open, logged-in connection.
pub(super) struct Session {
    connection: AsyncSmtpConnection,
    pipelining: bool,
    usable: bool,
}

impl Session {
    /// Connects, starts TLS and logs in.
    pub(super) async fn open(
        (host, port): (&str, u16),
        protection: &Protection,
        hello: &ClientId,
        login: &Login<'_>,
        deadline: Instant,
    ) -> Result<Self, Trouble> {
        let mut session = in_time(
            deadline,
            Step::Connect,
            connect(host, port, protection, hello, deadline),
        )
        .await?;
        if let Protection::StartTls(parameters) = protection {
            in_time(deadline, Step::StartTls, session.start_tls(parameters, hello)).await?;
        }
        session.pipelining = in_time(deadline, Step::Connect, session.offers_pipelining(hello)).await?;
        in_time(deadline, Step::Login, session.log_in(login)).await?;
        Ok(session)
    }

    /// Whether another message may be sent over it, if the last one was no error.
    pub(super) fn is_usable(&self) -> bool {
        self.usable
    }

    /// For a session that no longer knows what the server awaits next.
    pub(super) fn give_up(&mut self) {
        self.usable = false;
    }

    /// Whether several commands may be sent before their answers are read.
    pub(super) fn pipelines(&self) -> bool {
        self.pipelining
    }

    pub(super) fn offers(&self, extension: Extension) -> bool {
        self.connection.server_info().supports_feature(extension)
    }

    /// The answer to a command. Each command is a single write, the message included, so that it never waits
    /// for the acknowledgement of its own first half. There is no command where an earlier write had it.
    pub(super) async fn ask(
        &mut self,
        deadline: Instant,
        step: Step,
        command: Option<String>,
        expected: &[u16],
    ) -> Result<Response, Trouble> {
        in_time(deadline, step, async {
            let answer = match command {
                Some(command) => self.connection.command(command).await,
                None => self.connection.read_response().await,
            };
            expect(step, answer, expected)
        })
        .await
    }

    async fn start_tls(&mut self, parameters: &TlsParameters, hello: &ClientId) -> Result<(), Trouble> {
        let step = Step::StartTls;
        if !self.connection.can_starttls() {
            let what = "the server does not offer STARTTLS, so nothing was sent: check `port`, or set \
                        `security = \"tls\"` if this port speaks TLS from the start";
            return Err(Trouble {
                step,
                cause: Cause::Withheld(what),
            });
        }
        self.connection
            .starttls(parameters.clone(), hello)
            .await
            .map_err(|error| trouble(step, &error))
    }

    /// Whether the server offers PIPELINING. lettre keeps of an answer to `EHLO` only the keywords it has a
    /// use for, so this asks again: inside TLS, since an answer before it could be anybody's, and before the
    /// login, which [some servers forget](https://github.com/jstedfast/MailKit/issues/162) at an `EHLO`. A
    /// server that does not want to hear it twice gets one command at a time.
    async fn offers_pipelining(&mut self, hello: &ClientId) -> Result<bool, Trouble> {
        let answer = self.connection.command(Ehlo::new(hello.clone())).await;
        let refusal = match expect(Step::Connect, answer, &[250]) {
            Ok(answer) => return Ok(has_keyword(&answer, "PIPELINING")),
            Err(trouble) => trouble.into_refusal(),
        };
        refusal.map(|_| false)
    }

    async fn log_in(&mut self, login: &Login<'_>) -> Result<(), Trouble> {
        match login {
            Login::Nobody => return Ok(()),
            Login::Password {
                username,
                password,
                mechanisms,
            } => {
                self.require(mechanisms)?;
                let credentials = Credentials::new((*username).to_owned(), password.reveal().to_owned());
                let answer = self.connection.auth(mechanisms, &credentials).await;
                expect(Step::Login, answer, &[235])
            }
            Login::Token { username, token } => {
                self.require(&[Mechanism::Xoauth2])?;
                self.log_in_with_token(username, token).await
            }
        }
        .map(drop)
    }

    /// XOAUTH2, as <https://developers.google.com/workspace/gmail/imap/xoauth2-protocol> has it. A refusal
    /// comes in two parts: 334 with details, which the client must answer with an empty line to get the
    /// code itself; lettre's own login stops at the first.
    async fn log_in_with_token(&mut self, username: &str, token: &Secret) -> Result<Response, Trouble> {
        let response = format!("user={username}\x01auth=Bearer {}\x01\x01", token.reveal());
        let command = format!("AUTH XOAUTH2 {}\r\n", BASE64.encode(response));
        let answer = self.connection.command(command).await;
        let answer = expect(Step::Login, answer, &[235, 334])?;
        if !answer.has_code(334) {
            return Ok(answer);
        }
        let answer = self.connection.command("\r\n").await;
        expect(Step::Login, answer, &[235])
    }

    fn require(&self, mechanisms: &[Mechanism]) -> Result<(), Trouble> {
        if self
            .connection
            .server_info()
            .get_auth_mechanism(mechanisms)
            .is_some()
        {
            return Ok(());
        }
        let what = match mechanisms {
            [Mechanism::Xoauth2] => {
                "the server does not offer AUTH XOAUTH2: use `password` instead of a token"
            }
            _ => {
                "the server does not offer the password login that is configured: check `auth`, `security` and `port`"
            }
        };
        Err(Trouble {
            step: Step::Login,
            cause: Cause::Withheld(what),
        })
    }
}

/// Resolves the host and tries its addresses in turn, each for its share of the time: a broken IPv6 route
/// must not use it up.
async fn connect(
    host: &str,
    port: u16,
    protection: &Protection,
    hello: &ClientId,
    deadline: Instant,
) -> Result<Session, Trouble> {
    let lost = |why: String| Trouble {
        step: Step::Connect,
        cause: Cause::Lost(why),
    };
    let found = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| lost(format!("{host}: {error}")))?;
    let addresses: Vec<SocketAddr> = found.collect();
    let share = deadline.saturating_duration_since(Instant::now())
        / u32::try_from(addresses.len().max(1)).unwrap_or(1);
    let tls = match protection {
        Protection::Tls(parameters) => Some(parameters.clone()),
        Protection::None | Protection::StartTls(_) => None,
    };
    let connection = AsyncSmtpConnection::connect_tokio1(&addresses[..], Some(share), hello, tls, None).await;
    Ok(Session {
        connection: connection.map_err(|error| trouble(Step::Connect, &error))?,
        pipelining: false,
        usable: true,
    })
}

/// Does the work by the deadline. lettre's parser of `EHLO` panics on a line of blanks: that must cost a
/// connection, not the destination's lane.
async fn in_time<T>(
    deadline: Instant,
    step: Step,
    work: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    match tokio::time::timeout_at(deadline, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(Trouble {
            step,
            cause: Cause::Lost(NOT_SMTP.to_owned()),
        }),
        Err(_) => Err(Trouble {
            step,
            cause: Cause::Late,
        }),
    }
}

/// The answer, if it has one of the codes that belong to the step.
fn expect(
    step: Step,
    answer: Result<Response, lettre::transport::smtp::Error>,
    codes: &[u16],
) -> Result<Response, Trouble> {
    let answer = answer.map_err(|error| trouble(step, &error))?;
    let code = u16::from(answer.code());
    if codes.contains(&code) {
        return Ok(answer);
    }
    Err(Trouble {
        step,
        cause: Cause::Lost(format!("the server answered {code}, which does not belong here")),
    })
}

/// Whether an answer to `EHLO` lists the keyword; its first line is the server's name.
fn has_keyword(answer: &Response, keyword: &str) -> bool {
    answer
        .message()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .any(|word| word.eq_ignore_ascii_case(keyword))
}

fn trouble(step: Step, error: &lettre::transport::smtp::Error) -> Trouble {
    let text = causes(error).last().map(ToString::to_string).unwrap_or_default();
    let cause = if let Some(code) = error.status() {
        Cause::Reply(Reply::new(code.into(), &text))
    } else if let Some(why) = distrust(error) {
        Cause::Untrusted(why)
    } else if error.is_response() {
        Cause::Lost(NOT_SMTP.to_owned())
    } else {
        Cause::Lost(if text.is_empty() { error.to_string() } else { text })
    };
    Trouble { step, cause }
}

/// What is wrong with the server's certificate, if that is what the error is about.
fn distrust(error: &lettre::transport::smtp::Error) -> Option<String> {
    causes(error)
        .filter_map(|error| {
            error
                .downcast_ref::<std::io::Error>()?
                .get_ref()?
                .downcast_ref::<rustls::Error>()
        })
        .find(|error| matches!(error, rustls::Error::InvalidCertificate(_)))
        .map(ToString::to_string)
}

fn causes(
    error: &lettre::transport::smtp::Error,
) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |&error| error.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyword_is_a_lines_first_word_in_any_case_and_not_the_servers_name() {
        for (answer, expected) in [
            ("250-fake\r\n250-SIZE 1000\r\n250 PIPELINING\r\n", true),
            ("250-fake\r\n250-pipelining\r\n250 HELP\r\n", true),
            ("250-PIPELINING says hello\r\n250 HELP\r\n", false),
            (
                "250-fake\r\n250-XPIPELINING\r\n250-X PIPELINING\r\n250 \r\n",
                false,
            ),
            ("250 PIPELINING\r\n", false),
        ] {
            assert_eq!(
                has_keyword(&answer.parse().unwrap(), "PIPELINING"),
                expected,
                "{answer}"
            );
        }
    }
}
