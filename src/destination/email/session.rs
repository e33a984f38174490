//! A connection to a mail server: opens it with the configured security and sends commands.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::time::Instant;

use super::classes::{Cause, Trouble};
use super::reply::Step;
use super::wire::{Answer, Tls, Wire};
use crate::model::secret::Secret;
use crate::resolver::Resolver;

/// The first digit of a response that completes a command.
pub(super) const DONE: u16 = 2;

/// The first digit of a response that asks for more input.
pub(super) const GO_ON: u16 = 3;

/// The security of a connection.
#[derive(Clone)]
pub(super) enum Protection {
    /// No encryption.
    None,
    /// `STARTTLS`, required.
    StartTls(Tls),
    /// TLS from the first byte.
    Tls(Tls),
}

/// A password login mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mechanism {
    Plain,
    Login,
}

impl Mechanism {
    fn keyword(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
        }
    }
}

/// The login.
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

/// An open connection after the login.
pub(super) struct Session {
    wire: Wire,
    offers: Offers,
    given_up: bool,
}

impl Session {
    /// Connects, starts TLS and logs in.
    pub(super) async fn open(
        (host, port): (&str, u16),
        resolver: &Resolver,
        protection: &Protection,
        hello: &str,
        login: &Login<'_>,
        deadline: Instant,
    ) -> Result<Self, Trouble> {
        let connecting = |cause| Trouble {
            step: Step::Connect,
            cause,
        };
        let mut wire = Wire::connect(resolver, host, port, deadline)
            .await
            .map_err(connecting)?;
        if let Protection::Tls(tls) = protection {
            wire = wire.secure(tls, deadline).await.map_err(connecting)?;
        }
        let mut session = Self {
            wire,
            offers: Offers::default(),
            given_up: false,
        };
        session.ask(deadline, Step::Connect, None, &[DONE]).await?;
        session.hello(hello, deadline).await?;
        if let Protection::StartTls(tls) = protection {
            session = session.start_tls(tls, hello, deadline).await?;
        }
        session.log_in(login, deadline).await?;
        Ok(session)
    }

    /// Returns true if another message can be sent over it, provided that the last one was no error.
    pub(super) fn is_usable(&self) -> bool {
        !self.given_up && self.wire.is_in_step()
    }

    /// Marks the session as unusable because its protocol state is unknown.
    pub(super) fn give_up(&mut self) {
        self.given_up = true;
    }

    /// Returns true if several commands may be sent before their responses are read.
    pub(super) fn pipelines(&self) -> bool {
        self.offers.has("PIPELINING")
    }

    pub(super) fn offers(&self, keyword: &str) -> bool {
        self.offers.has(keyword)
    }

    /// Sends a command and returns its response if it begins with an expected digit. Each command is a single write,
    /// so that it does not wait for the acknowledgement of its first half. `command` is `None` if it was already sent
    /// in an earlier write.
    pub(super) async fn ask(
        &mut self,
        deadline: Instant,
        step: Step,
        command: Option<String>,
        expected: &[u16],
    ) -> Result<Answer, Trouble> {
        if let Some(command) = command {
            let written = self.wire.write(command.as_bytes(), deadline).await;
            written.map_err(|cause| Trouble { step, cause })?;
        }
        self.hear(deadline, step, expected).await
    }

    /// Sends the content and waits for the response. Its time limit starts when all of the content is written.
    pub(super) async fn submit(
        &mut self,
        content: &str,
        deadline: Instant,
        data_timeout: Duration,
    ) -> Result<Answer, Trouble> {
        let written = self.wire.write(content.as_bytes(), deadline).await;
        written.map_err(|cause| Trouble {
            step: Step::Content,
            cause,
        })?;
        self.hear(Instant::now() + data_timeout, Step::Verdict, &[DONE])
            .await
    }

    async fn hear(&mut self, deadline: Instant, step: Step, expected: &[u16]) -> Result<Answer, Trouble> {
        let answer = self.wire.answer(deadline).await;
        let answer = answer.map_err(|cause| Trouble { step, cause })?;
        let digit = answer.code / 100;
        let cause = match (&answer.broken, digit) {
            // After the last step nothing more is read, so its response may be incomplete.
            (Some(cause), _) if expected.contains(&digit) && step != Step::Verdict => cause.clone(),
            _ if expected.contains(&digit) => return Ok(answer),
            (_, 4 | 5) => Cause::Reply(answer.reply()),
            _ => Cause::Lost(format!(
                "the server answered {}, which is unexpected here",
                answer.code
            )),
        };
        Err(Trouble { step, cause })
    }

    /// Sends `EHLO` and reads the extensions. Those received before TLS are discarded, because an attacker could have
    /// sent them.
    async fn hello(&mut self, name: &str, deadline: Instant) -> Result<(), Trouble> {
        let command = format!("EHLO {name}\r\n");
        let answer = self.ask(deadline, Step::Connect, Some(command), &[DONE]).await?;
        self.offers = Offers::of(&answer);
        Ok(())
    }

    async fn start_tls(mut self, tls: &Tls, hello: &str, deadline: Instant) -> Result<Self, Trouble> {
        let step = Step::StartTls;
        if !self.offers.has("STARTTLS") {
            let what = "the server does not offer STARTTLS, so nothing was sent: check `port`, or set \
                        `security = \"tls\"` if this port speaks TLS from the start";
            return Err(Trouble {
                step,
                cause: Cause::Withheld(what),
            });
        }
        let command = Some("STARTTLS\r\n".to_owned());
        self.ask(deadline, step, command, &[DONE]).await?;
        let secured = self.wire.secure(tls, deadline).await;
        self.wire = secured.map_err(|cause| Trouble { step, cause })?;
        self.hello(hello, deadline).await?;
        Ok(self)
    }

    async fn log_in(&mut self, login: &Login<'_>, deadline: Instant) -> Result<(), Trouble> {
        match login {
            Login::Nobody => Ok(()),
            Login::Password {
                username,
                password,
                mechanisms,
            } => {
                let offered = |mechanism: &&Mechanism| self.offers.has_login(mechanism.keyword());
                match mechanisms.iter().find(offered) {
                    Some(Mechanism::Plain) => self.log_in_plain(username, password, deadline).await,
                    Some(Mechanism::Login) => self.log_in_login(username, password, deadline).await,
                    None => Err(withheld(
                        "the server does not offer the password login that is configured: check `auth`, `security` and `port`",
                    )),
                }
            }
            Login::Token { username, token } if self.offers.has_login("XOAUTH2") => {
                self.log_in_with_token(username, token, deadline).await
            }
            Login::Token { .. } => Err(withheld(
                "the server does not offer AUTH XOAUTH2: use `password` instead of a token",
            )),
        }
    }

    /// [RFC 4616](https://www.rfc-editor.org/rfc/rfc4616)
    async fn log_in_plain(
        &mut self,
        username: &str,
        password: &Secret,
        deadline: Instant,
    ) -> Result<(), Trouble> {
        let response = format!("\0{username}\0{}", password.reveal());
        let command = format!("AUTH PLAIN {}", BASE64.encode(response));
        self.authenticate(command, &[DONE], deadline).await.map(drop)
    }

    /// [The LOGIN mechanism](https://datatracker.ietf.org/doc/html/draft-murchison-sasl-login-00) has two prompts,
    /// whose text differs between servers.
    async fn log_in_login(
        &mut self,
        username: &str,
        password: &Secret,
        deadline: Instant,
    ) -> Result<(), Trouble> {
        self.authenticate("AUTH LOGIN".to_owned(), &[GO_ON], deadline)
            .await?;
        self.authenticate(BASE64.encode(username), &[GO_ON], deadline)
            .await?;
        let password = BASE64.encode(password.reveal());
        self.authenticate(password, &[DONE], deadline).await.map(drop)
    }

    /// XOAUTH2 as in <https://developers.google.com/workspace/gmail/imap/xoauth2-protocol>. A rejection has two
    /// parts: 334 with details, to which the client must respond with an empty line to get the code itself.
    async fn log_in_with_token(
        &mut self,
        username: &str,
        token: &Secret,
        deadline: Instant,
    ) -> Result<(), Trouble> {
        let response = format!("user={username}\x01auth=Bearer {}\x01\x01", token.reveal());
        let command = format!("AUTH XOAUTH2 {}", BASE64.encode(response));
        let answer = self.authenticate(command, &[DONE, GO_ON], deadline).await?;
        if answer.code / 100 == GO_ON {
            self.authenticate(String::new(), &[DONE], deadline).await?;
        }
        Ok(())
    }

    async fn authenticate(
        &mut self,
        line: String,
        expected: &[u16],
        deadline: Instant,
    ) -> Result<Answer, Trouble> {
        self.ask(deadline, Step::Login, Some(line + "\r\n"), expected)
            .await
    }
}

fn withheld(what: &'static str) -> Trouble {
    Trouble {
        step: Step::Login,
        cause: Cause::Withheld(what),
    }
}

/// The extensions of a server: the words of each line of its response to `EHLO`, in upper case. The first line is its
/// name.
#[derive(Default)]
struct Offers(Vec<Vec<String>>);

impl Offers {
    fn of(answer: &Answer) -> Self {
        let lines = answer.lines.iter().skip(1);
        // Servers used `AUTH=LOGIN` before RFC 2554, and some still do.
        let words = lines.map(|line| {
            let words = line.split([' ', '\t', '=']).filter(|word| !word.is_empty());
            words.map(str::to_ascii_uppercase).collect()
        });
        Self(words.collect())
    }

    fn has(&self, keyword: &str) -> bool {
        self.0
            .iter()
            .any(|words| words.first().is_some_and(|word| word == keyword))
    }

    fn has_login(&self, mechanism: &str) -> bool {
        let logins = self
            .0
            .iter()
            .filter(|words| words.first().is_some_and(|word| word == "AUTH"));
        logins.flatten().skip(1).any(|word| word == mechanism)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers(lines: &[&str]) -> Offers {
        Offers::of(&Answer {
            code: 250,
            lines: lines.iter().map(|&line| line.to_owned()).collect(),
            broken: None,
        })
    }

    #[test]
    fn a_keyword_is_the_first_word_of_a_line_in_any_case_but_not_the_name_of_the_server() {
        for (lines, expected) in [
            (&["fake", "SIZE 1000", "PIPELINING"][..], true),
            (&["fake", "pipelining", "HELP"], true),
            (&["PIPELINING says hello", "HELP"], false),
            (&["fake", "XPIPELINING", "X PIPELINING", ""], false),
            (&["PIPELINING"], false),
            (&[], false),
        ] {
            assert_eq!(offers(lines).has("PIPELINING"), expected, "{lines:?}");
        }
    }

    #[test]
    fn both_forms_of_the_auth_extension_are_understood() {
        for (line, plain, login) in [
            ("AUTH PLAIN LOGIN", true, true),
            ("auth login", false, true),
            ("AUTH=LOGIN PLAIN", true, true),
            ("AUTH", false, false),
            ("XAUTH PLAIN", false, false),
            ("AUTH XPLAIN", false, false),
        ] {
            let offers = offers(&["fake", line]);
            assert_eq!(
                (offers.has_login("PLAIN"), offers.has_login("LOGIN")),
                (plain, login),
                "{line}"
            );
        }
    }
}
