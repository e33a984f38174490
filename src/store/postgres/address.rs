//! Where the database is and how to reach it: a URL as libpq reads it, with the `sslmode` values that the driver lacks.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::config::{ChannelBinding, Host, TargetSessionAttrs};

use super::tls::{Connector, Verification};

/// Upper bound of the time for a connection to one host, with TLS and authentication.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A closed connection is noticed after this time without an acknowledgement of what was sent.
const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// The server, or several of which one accepts writes.
#[derive(Clone)]
pub struct Address {
    /// One driver configuration per host, in the order of the URL.
    pub(super) hosts: Vec<tokio_postgres::Config>,
    pub(super) connector: Arc<Connector>,
    pub(super) connect_timeout: Duration,
    verification: Verification,
}

impl Address {
    /// Parses `postgres://USER:PASSWORD@HOST[:PORT],…/DATABASE?…`. `ca_file` is the content of a PEM file with the
    /// authorities to trust instead of those of the system.
    ///
    /// # Errors
    /// Says what is wrong, without the URL, which contains a password.
    pub fn parse(url: &str, ca_file: Option<&str>) -> Result<Self, String> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(
                "expected a URL: postgres://USER:PASSWORD@HOST/DATABASE?sslmode=verify-full".to_owned(),
            );
        }
        let (url, mode) = without_ssl_mode(url)?;
        let (mode, verification) = modes(mode.as_deref(), ca_file.is_some())?;
        let mut config: tokio_postgres::Config = url.parse().map_err(|error| described(&error))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err("the URL names no host".to_owned());
        }
        if config.get_user().is_none_or(str::is_empty) {
            return Err("the URL names no user".to_owned());
        }
        if config.get_dbname().is_none_or(str::is_empty) {
            return Err("the URL names no database".to_owned());
        }
        if config.get_target_session_attrs() == TargetSessionAttrs::ReadOnly {
            return Err("`target_session_attrs` must be `read-write`: the store writes".to_owned());
        }
        if config.get_channel_binding() == ChannelBinding::Require {
            return Err("`channel_binding=require` is not supported; use `sslmode=verify-full`".to_owned());
        }
        let connect_timeout = config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
        config
            .ssl_mode(mode)
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .connect_timeout(connect_timeout);
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(USER_TIMEOUT);
        }
        Ok(Self {
            hosts: one_by_one(&config)?,
            connector: Arc::new(Connector::new(verification, ca_file)?),
            connect_timeout,
            verification,
        })
    }

    /// The hosts with their ports, for logs and errors.
    #[must_use]
    pub fn hosts(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(shown).collect();
        hosts.join(", ")
    }

    /// Returns true if a connection leaves the machine, and its other end is not verified: someone between the two
    /// could read and change messages.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        let leaves = |config: &tokio_postgres::Config| {
            let local = |host: &Host| match host {
                Host::Tcp(name) => {
                    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
                }
                Host::Unix(_) => true,
            };
            match config.get_hostaddrs().first() {
                Some(ip) => !ip.is_loopback(),
                None => !config.get_hosts().iter().all(local),
            }
        };
        self.verification != Verification::Full && self.hosts.iter().any(leaves)
    }
}

/// The address without the password.
impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Address({})", self.hosts())
    }
}

/// A host with its port.
pub(super) fn shown(config: &tokio_postgres::Config) -> String {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    match (config.get_hosts().first(), config.get_hostaddrs().first()) {
        (Some(Host::Tcp(name)), _) if name.contains(':') => format!("[{name}]:{port}"),
        (Some(Host::Tcp(name)), _) => format!("{name}:{port}"),
        (Some(Host::Unix(path)), _) => format!("{}/.s.PGSQL.{port}", path.display()),
        (None, Some(ip)) => std::net::SocketAddr::new(*ip, port).to_string(),
        (None, None) => format!("port {port}"),
    }
}

/// Removes `sslmode` from the URL and returns its value; the driver rejects `verify-full`.
fn without_ssl_mode(url: &str) -> Result<(String, Option<String>), String> {
    let Some((address, query)) = url.split_once('?') else {
        return Ok((url.to_owned(), None));
    };
    let mut mode = None;
    let mut others = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("sslmode", value)) => mode = Some(value.to_owned()),
            Some(("sslrootcert" | "sslcert" | "sslkey", _)) => {
                return Err("name the certificate authorities in `store.ca_file`; client certificates are not supported".to_owned());
            }
            _ => others.push(parameter),
        }
    }
    Ok((format!("{address}?{}", others.join("&")), mode))
}

/// The driver's mode and what is verified, as libpq documents it: with authorities given, `require` verifies the
/// certificate but not the host name.
fn modes(
    mode: Option<&str>,
    has_authorities: bool,
) -> Result<(tokio_postgres::config::SslMode, Verification), String> {
    use tokio_postgres::config::SslMode::{Disable, Prefer, Require};
    Ok(match mode {
        Some("disable") => (Disable, Verification::None),
        None | Some("prefer") => (Prefer, Verification::None),
        Some("require") if has_authorities => (Require, Verification::Authority),
        Some("require") => (Require, Verification::None),
        Some("verify-ca") => (Require, Verification::Authority),
        Some("verify-full") => (Require, Verification::Full),
        Some(_) => {
            return Err("`sslmode` must be disable, prefer, require, verify-ca or verify-full".to_owned());
        }
    })
}

/// Splits the configuration into one per host: the driver does not try the next host when one accepts the connection
/// and then hangs.
fn one_by_one(config: &tokio_postgres::Config) -> Result<Vec<tokio_postgres::Config>, String> {
    let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let count = hosts.len().max(addresses.len());
    if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
        return Err("the URL needs one value in `hostaddr` for each host, or none".to_owned());
    }
    if ports.len() > 1 && ports.len() != count {
        return Err("the URL needs one port, or one for each host".to_owned());
    }
    let one = |index: usize| {
        let mut one = tokio_postgres::Config::new();
        match hosts.get(index) {
            Some(Host::Tcp(name)) => one.host(name),
            Some(Host::Unix(path)) => one.host_path(path),
            None => &mut one,
        };
        if let Some(address) = addresses.get(index) {
            one.hostaddr(*address);
        }
        one.port(ports.get(index).or(ports.first()).copied().unwrap_or(5432));
        copy_common(config, &mut one);
        one
    };
    Ok((0..count).map(one).collect())
}

/// Copies everything except hosts and ports.
fn copy_common(from: &tokio_postgres::Config, to: &mut tokio_postgres::Config) {
    if let Some(user) = from.get_user() {
        to.user(user);
    }
    if let Some(password) = from.get_password() {
        to.password(password);
    }
    if let Some(name) = from.get_dbname() {
        to.dbname(name);
    }
    if let Some(options) = from.get_options() {
        to.options(options);
    }
    if let Some(name) = from.get_application_name() {
        to.application_name(name);
    }
    if let Some(timeout) = from.get_connect_timeout() {
        to.connect_timeout(*timeout);
    }
    if let Some(timeout) = from.get_tcp_user_timeout() {
        to.tcp_user_timeout(*timeout);
    }
    to.ssl_mode(from.get_ssl_mode())
        .ssl_negotiation(from.get_ssl_negotiation())
        .channel_binding(from.get_channel_binding())
        .target_session_attrs(from.get_target_session_attrs())
        .keepalives(from.get_keepalives())
        .keepalives_idle(from.get_keepalives_idle());
}

/// The driver's error without the value that it quotes: it may be a part of the password.
fn described(error: &tokio_postgres::Error) -> String {
    let cause = std::error::Error::source(error)
        .map(ToString::to_string)
        .unwrap_or_default();
    let known = cause.starts_with("invalid value for option") || cause.starts_with("unknown option");
    match known {
        true => format!("the URL is invalid: {cause}"),
        false => "the URL is invalid: postgres://USER:PASSWORD@HOST/DATABASE?sslmode=verify-full, with \
                  special characters of the password percent-encoded"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address, String> {
        Address::parse(url, None)
    }

    #[test]
    fn several_hosts_become_one_configuration_each() {
        let address =
            parse("postgres://sms:pw@one,two:5433/sms?sslmode=verify-full&application_name=x").unwrap();
        assert_eq!(address.hosts(), "one:5432, two:5433");
        for host in &address.hosts {
            assert_eq!(host.get_password(), Some(&b"pw"[..]));
            assert_eq!(host.get_dbname(), Some("sms"));
            assert_eq!(host.get_application_name(), Some("x"));
            assert_eq!(host.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
            assert_eq!(host.get_ssl_mode(), tokio_postgres::config::SslMode::Require);
            assert_eq!(host.get_connect_timeout(), Some(&CONNECT_TIMEOUT));
        }
    }

    #[test]
    fn the_modes_verify_what_libpq_verifies() {
        use Verification::{Authority, Full, None};
        let certificate =
            include_str!("../../../tests/fixtures/sns/SimpleNotificationService-0000000000000000000000.pem");
        for (mode, alone, with_authorities) in [
            ("disable", None, None),
            ("prefer", None, None),
            ("require", None, Authority),
            ("verify-ca", Authority, Authority),
            ("verify-full", Full, Full),
        ] {
            let url = format!("postgres://sms@db.example/sms?sslmode={mode}");
            assert_eq!(parse(&url).unwrap().verification, alone, "{mode}");
            let given = Address::parse(&url, Some(certificate)).unwrap();
            assert_eq!(given.verification, with_authorities, "{mode}");
        }
        assert_eq!(parse("postgres://sms@db.example/sms").unwrap().verification, None);
    }

    #[test]
    fn only_verified_or_local_connections_are_not_exposed() {
        for (url, exposed) in [
            ("postgres://sms@db.example/sms", true),
            ("postgres://sms@db.example/sms?sslmode=require", true),
            ("postgres://sms@db.example/sms?sslmode=verify-full", false),
            ("postgres://sms@localhost,db.example/sms", true),
            ("postgres://sms@localhost,127.0.0.1/sms", false),
            ("postgres:///sms?host=/run/postgresql&user=sms", false),
        ] {
            assert_eq!(parse(url).unwrap().is_exposed(), exposed, "{url}");
        }
    }

    #[test]
    fn an_invalid_url_is_explained_without_its_password() {
        for (url, expected) in [
            ("host=db user=sms", "expected a URL"),
            (
                "postgres://sms:hunter2@db.example/sms?sslmode=allow",
                "`sslmode` must be",
            ),
            (
                "postgres://sms:hunter2@db.example/sms?sslrootcert=/x",
                "store.ca_file",
            ),
            (
                "postgres://sms:hunter2@db.example/sms?hunter2=1",
                "the URL is invalid",
            ),
            ("postgres://sms:hunter2@db.example:port/sms", "the URL is invalid"),
            ("postgres://:hunter2@db.example/sms", "names no user"),
            ("postgres://sms:hunter2@db.example", "names no database"),
            ("postgres:///sms?user=sms", "names no host"),
            (
                "postgres://sms:hunter2@db.example/sms?target_session_attrs=read-only",
                "the store writes",
            ),
        ] {
            let error = parse(url).expect_err(url);
            assert!(error.contains(expected), "{url}: {error}");
            assert!(!error.contains("hunter2") || url.contains("?hunter2"), "{error}");
        }
        let address = parse("postgres://sms:hunter2@db.example/sms").unwrap();
        assert!(!format!("{address:?}").contains("hunter2"));
        assert!(
            Address::parse("postgres://sms@a/sms?sslmode=verify-ca", Some("none"))
                .unwrap_err()
                .contains("ca_file")
        );
    }
}
