//! `[smtp.NAME]`: the configuration of a mail server.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use deserr::Deserr;

use super::server::{Account, Server};
use super::session::{Mechanism, Protection};
use super::tls;
use super::token::{Source, Tokens};
use crate::model::lint::{self, Lint};
use crate::model::secret::{Secret, Secrets};
use crate::model::setting::Errors;
use crate::model::units::{Bounded, FilePath, Period, Port, Timeout, some};
use crate::resolver::Resolver;

/// An `[smtp.NAME]` table.
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct SmtpConfig {
    /// Name or address of the server. The certificate must be valid for it.
    pub host: String,
    /// The port; by default 587, 465 or 25 depending on `security`.
    #[deserr(default, from(Port) = some)]
    pub port: Option<u16>,
    /// Whether and how the connection is encrypted.
    #[deserr(default)]
    pub security: Security,
    /// The user name for the login; no login by default.
    #[deserr(default)]
    pub username: Option<String>,
    /// The password of `username`. Of several, the first is used.
    #[deserr(default)]
    pub password: Option<Secrets>,
    /// The login mechanism.
    #[deserr(default)]
    pub auth: Auth,
    /// A file with the token for XOAUTH2, read for each new connection.
    #[deserr(default, from(FilePath) = some)]
    pub token_file: Option<PathBuf>,
    /// A command that prints the token for XOAUTH2.
    #[deserr(default)]
    pub token_command: Option<Vec<String>>,
    /// How long a token of the command is used unless it is rejected earlier; `"45m"` by default.
    #[deserr(default = token_lifetime(), from(Period) = Duration::from)]
    pub token_lifetime: Duration,
    /// Time limit for the server's response to a message; `"10m"` by default.
    #[deserr(default = data_timeout(), from(Timeout) = Duration::from)]
    pub data_timeout: Duration,
    /// The name in `EHLO`; `[127.0.0.1]` by default.
    #[deserr(default)]
    pub helo_name: Option<String>,
    /// The content of a PEM file: a certificate authority to trust in addition to those of the system. Public, but
    /// read like a secret.
    #[deserr(default)]
    pub ca_file: Option<Secret>,
    /// Whether addresses may contain characters other than ASCII; the server must offer SMTPUTF8.
    #[deserr(default)]
    pub smtputf8: bool,
    /// Upper bound of the connections of all destinations that use this server.
    #[deserr(default = max_connections(), from(Bounded<1, 64>) = usize::from)]
    pub max_connections: usize,
    /// The server, created once and shared by all destinations that are built from this table.
    #[deserr(skip)]
    server: OnceLock<Arc<Server>>,
}

/// `security = …`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserr)]
#[deserr(error = Errors, rename_all = lowercase)]
pub enum Security {
    /// Plain at first, then TLS; fails if the server does not offer TLS.
    #[default]
    StartTls,
    /// TLS from the first byte.
    Tls,
    /// Plain.
    None,
}

/// `auth = …`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserr)]
#[deserr(error = Errors, rename_all = lowercase)]
pub enum Auth {
    /// XOAUTH2 with a token; with a password PLAIN or LOGIN, depending on the server.
    #[default]
    Auto,
    /// PLAIN only.
    Plain,
    /// LOGIN only.
    Login,
    /// XOAUTH2 only.
    Xoauth2,
}

/// The default name in `EHLO`: an address, because not every machine has a valid host name.
const HELLO: &str = "[127.0.0.1]";

/// The minimum of [RFC 5321, section 4.5.3.2.6](https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.2.6). A shorter
/// limit leads to duplicate messages.
fn data_timeout() -> Duration {
    Duration::from_secs(10 * 60)
}

fn token_lifetime() -> Duration {
    Duration::from_secs(45 * 60)
}

fn max_connections() -> usize {
    2
}

impl SmtpConfig {
    /// The keys whose values are paths.
    pub const PATHS: &[&str] = &["token_file"];

    /// The keys whose values are paths of files to be read with the configuration.
    pub const FILES: &[&str] = &["ca_file"];

    /// Settings that are legal but probably a mistake.
    #[must_use]
    pub fn lints(&self) -> Vec<Lint> {
        let mut lints = Vec::new();
        if self.security == Security::None && !lint::is_this_host(&self.host) {
            let message = format!(
                "is \"none\": every message would cross the network to {} unencrypted; use \"starttls\" or \"tls\"",
                self.host
            );
            lints.push(Lint::new("security", message));
        }
        let example = self
            .password
            .as_ref()
            .and_then(|password| password.find(lint::example_secret));
        lints.extend(example.map(|message| Lint::new("password", message)));
        lints
    }

    /// The server of this table, the same one for each call. Opens no connection.
    ///
    /// # Errors
    /// A sentence for the operator, without the name of the table.
    pub fn server(&self, resolver: &Resolver) -> Result<Arc<Server>, String> {
        if let Some(server) = self.server.get() {
            return Ok(server.clone());
        }
        self.check()?;
        let server = Arc::new(Server::new(
            (self.host.clone(), self.port()),
            resolver.clone(),
            self.helo_name.clone().unwrap_or_else(|| HELLO.to_owned()),
            self.protection()?,
            self.account()?,
            self.data_timeout,
            self.max_connections,
        ));
        Ok(self.server.get_or_init(|| server).clone())
    }

    fn port(&self) -> u16 {
        self.port.unwrap_or(match self.security {
            Security::StartTls => 587,
            Security::Tls => 465,
            Security::None => 25,
        })
    }

    fn check(&self) -> Result<(), String> {
        if self.host.is_empty() || self.host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(format!("host: {:?} is not a host name", self.host));
        }
        if let Some(name) = &self.helo_name
            && (name.is_empty()
                || !name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte)))
        {
            return Err(format!("helo_name: {name:?} is not a host name"));
        }
        if self.security == Security::None && self.username.is_some() && !is_loopback(&self.host) {
            return Err(
                "security = \"none\" would send the login of `username` unencrypted over the network: \
                        use \"starttls\" or \"tls\""
                    .to_owned(),
            );
        }
        Ok(())
    }

    fn account(&self) -> Result<Account, String> {
        let token = self.token_source()?;
        let Some(username) = self.username.clone() else {
            return match (&self.password, token) {
                (None, None) => Ok(Account::Nobody),
                _ => Err("username: is needed with a password or token".to_owned()),
            };
        };
        if username.contains(char::is_control) {
            return Err("username: must not have control characters".to_owned());
        }
        let mechanisms: &[Mechanism] = match self.auth {
            Auth::Auto => &[Mechanism::Plain, Mechanism::Login],
            Auth::Plain => &[Mechanism::Plain],
            Auth::Login => &[Mechanism::Login],
            Auth::Xoauth2 => &[],
        };
        match (&self.password, token) {
            (Some(password), None) if self.auth != Auth::Xoauth2 => Ok(Account::Password {
                username,
                password: password.clone(),
                mechanisms,
            }),
            (None, Some(source)) if matches!(self.auth, Auth::Auto | Auth::Xoauth2) => Ok(Account::Token {
                username,
                tokens: Tokens::new(source),
            }),
            (Some(_), Some(_)) => Err("give either `password` or a token, not both".to_owned()),
            (None, None) if self.auth != Auth::Xoauth2 => {
                Err("password: is needed with `username`".to_owned())
            }
            (_, None) => Err("auth = \"xoauth2\" needs `token_file` or `token_command`".to_owned()),
            (None, Some(_)) => Err("auth: a token needs \"xoauth2\" or \"auto\"".to_owned()),
        }
    }

    fn token_source(&self) -> Result<Option<Source>, String> {
        match (&self.token_file, &self.token_command) {
            (None, None) => Ok(None),
            (Some(path), None) => Ok(Some(Source::File(path.clone()))),
            (None, Some(line)) if line.is_empty() => Err("token_command: is empty".to_owned()),
            (None, Some(line)) => Ok(Some(Source::Command {
                line: line.clone(),
                lifetime: self.token_lifetime,
            })),
            (Some(_), Some(_)) => Err("give either `token_file` or `token_command`, not both".to_owned()),
        }
    }

    fn protection(&self) -> Result<Protection, String> {
        let wrap = match self.security {
            Security::None => return Ok(Protection::None),
            Security::StartTls => Protection::StartTls,
            Security::Tls => Protection::Tls,
        };
        let authorities = self.ca_file.as_ref().map(Secret::reveal);
        tls::client(&self.host, authorities).map(wrap)
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(toml: &str) -> Result<SmtpConfig, String> {
        crate::model::setting::from_toml(toml)
    }

    #[test]
    fn the_port_follows_security_and_starttls_is_the_default() {
        for (toml, port) in [
            ("host = \"localhost\"", 587),
            ("host = \"localhost\"\nsecurity = \"starttls\"", 587),
            ("host = \"localhost\"\nsecurity = \"tls\"", 465),
            ("host = \"localhost\"\nsecurity = \"none\"", 25),
            ("host = \"localhost\"\nport = 2525", 2525),
        ] {
            let config = read(toml).unwrap();
            assert_eq!(config.port(), port, "{toml}");
            assert_eq!(
                matches!(config.protection().unwrap(), Protection::None),
                port == 25
            );
        }
    }

    #[test]
    fn an_invalid_table_is_rejected_with_an_explanation() {
        for (toml, expected) in [
            ("host = \"\"", "host:"),
            ("host = \"a b\"", "host:"),
            ("host = \"h\"\nhelo_name = \"a\\r\\nb\"", "helo_name:"),
            ("host = \"h\"\nmax_connections = 0", "must be from 1 to 64"),
            (
                "host = \"h\"\nsecurity = \"none\"\nusername = \"u\"\npassword = \"p\"",
                "unencrypted",
            ),
            ("host = \"h\"\nusername = \"u\"", "password:"),
            ("host = \"h\"\npassword = \"p\"", "username:"),
            ("host = \"h\"\ntoken_file = \"t\"", "username:"),
            (
                "host = \"h\"\nusername = \"u\"\npassword = \"p\"\ntoken_file = \"t\"",
                "not both",
            ),
            (
                "host = \"h\"\nusername = \"u\"\ntoken_command = [\"c\"]\ntoken_file = \"t\"",
                "not both",
            ),
            (
                "host = \"h\"\nusername = \"u\"\ntoken_command = []",
                "token_command:",
            ),
            (
                "host = \"h\"\nusername = \"u\"\npassword = \"p\"\nauth = \"xoauth2\"",
                "token_file",
            ),
            (
                "host = \"h\"\nusername = \"u\"\ntoken_file = \"t\"\nauth = \"plain\"",
                "auth:",
            ),
            (
                "host = \"h\"\nca_file = \"none\"",
                "ca_file has no PEM certificate",
            ),
        ] {
            let error = read(toml)
                .and_then(|config| config.server(&Resolver::default()))
                .unwrap_err();
            assert!(error.contains(expected), "{toml}: {error}");
        }
        assert!(
            read("host = \"h\"\nsecurty = \"tls\"")
                .unwrap_err()
                .contains("securty")
        );
        assert!(read("host = \"h\"\nsecurity = \"opportunistic\"").is_err());
    }

    #[test]
    fn a_login_without_tls_is_allowed_only_on_this_machine() {
        for (host, allowed) in [
            ("localhost", true),
            ("127.0.0.1", true),
            ("::1", true),
            ("10.0.0.1", false),
            ("localhost.evil", false),
        ] {
            let toml = format!("host = \"{host}\"\nsecurity = \"none\"\nusername = \"u\"\npassword = \"p\"");
            assert_eq!(
                read(&toml).unwrap().server(&Resolver::default()).is_ok(),
                allowed,
                "{host}"
            );
        }
    }

    #[test]
    fn destinations_share_the_server_of_one_table_and_debug_shows_no_password() {
        let config = read("host = \"localhost\"\nusername = \"u\"\npassword = \"hunter2\"").unwrap();
        let server = || config.server(&Resolver::default()).unwrap();
        assert!(Arc::ptr_eq(&server(), &server()));
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
