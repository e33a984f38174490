//! The tables that occur once: `[server]`, `[admin]`, `[log]`, `[retry]`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use deserr::{Deserr, IntoValue, Value, ValuePointerRef};
use ipnet::IpNet;
use tracing_subscriber::EnvFilter;

use super::environment::Outside;
use super::suggest::suggestion;
use crate::model::secret::{Secret, Secrets};
use crate::model::setting::{self, Errors, Wrong};
use crate::model::units::{
    Address, BodySize, Bounded, FilePath, Network, Period, PublicUrl, Timeout, list, some,
};
use crate::retry::Policy;

/// `[server]`
#[derive(Clone, Debug, PartialEq, Eq, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Server {
    /// The address for webhooks, unless the service manager passes a socket.
    #[deserr(default = Self::default().listen, from(Address) = SocketAddr::from)]
    pub listen: SocketAddr,
    /// The URL that carriers call.
    #[deserr(default, from(PublicUrl) = some)]
    pub public_url: Option<url::Url>,
    /// Upper bound of a request body, in bytes.
    #[deserr(default = Self::default().max_body, from(BodySize<1024>) = usize::from)]
    pub max_body: usize,
    /// Upper bound of simultaneous connections.
    #[deserr(default = Self::default().max_connections, from(Bounded<1, 65536>) = usize::from)]
    pub max_connections: usize,
    /// Time limit for the head of a request.
    #[deserr(default = Self::default().header_timeout, from(Timeout) = Duration::from)]
    pub header_timeout: Duration,
    /// Time limit for a complete request.
    #[deserr(default = Self::default().request_timeout, from(Timeout) = Duration::from)]
    pub request_timeout: Duration,
    /// The proxies whose `X-Forwarded-For` is trusted.
    #[deserr(default, from(Vec<Network>) = list)]
    pub trusted_proxies: Vec<IpNet>,
    /// Certificate and key for HTTPS without a proxy.
    #[deserr(default)]
    pub tls: Option<Tls>,
}

/// `[server] tls`: the content of the two files.
#[derive(Clone, Debug, PartialEq, Eq, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Tls {
    /// The certificate and its intermediate certificates, PEM. Public, but read like a secret.
    pub certificate: Secret,
    /// Its private key, PEM.
    pub key: Secret,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            public_url: None,
            max_body: 64 * 1024,
            max_connections: 256,
            header_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            trusted_proxies: Vec::new(),
            tls: None,
        }
    }
}

/// `[admin]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admin {
    /// The path of the unix socket.
    pub socket: PathBuf,
    /// The group that may use the socket.
    pub socket_group: Option<String>,
    /// An additional TCP address.
    pub listen: Option<SocketAddr>,
    /// The token required on `listen`.
    pub token: Option<Secrets>,
}

/// `[admin]` as written.
#[derive(Debug, Default, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub(super) struct AdminTyped {
    #[deserr(default, from(FilePath) = some)]
    pub socket: Option<PathBuf>,
    #[deserr(default)]
    pub socket_group: Option<String>,
    #[deserr(default, from(Address) = some)]
    pub listen: Option<SocketAddr>,
    #[deserr(default)]
    pub token: Option<Secrets>,
}

impl AdminTyped {
    /// Adds the defaults that depend on the service manager and on the path of the store.
    pub(super) fn resolve(self, folder: &Path, store: &Path, outside: &Outside) -> Admin {
        let given = self.socket.map(|path| folder.join(path));
        let runtime = || {
            outside
                .folder("RUNTIME_DIRECTORY")
                .map(|runtime| runtime.join("admin.sock"))
        };
        Admin {
            socket: given.or_else(runtime).unwrap_or_else(|| store.join("admin.sock")),
            socket_group: self.socket_group,
            listen: self.listen,
            token: self.token,
        }
    }
}

/// `[operator]`
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub(super) struct OperatorTyped {
    #[deserr(default)]
    pub notify: Vec<setting::Placed<String>>,
    #[deserr(default, from(Period) = some)]
    pub after: Option<Duration>,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or tracing's filter syntax.
    pub level: String,
    /// The format of log lines.
    pub format: LogFormat,
    /// Whether numbers are logged in full.
    pub numbers_full: bool,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserr)]
#[deserr(error = Errors, rename_all = lowercase)]
pub enum LogFormat {
    /// Text on a terminal, journald under systemd, JSON otherwise.
    #[default]
    Auto,
    /// Readable text.
    Text,
    /// One JSON object per line.
    Json,
    /// The native protocol of journald.
    Journald,
}

/// A level, or tracing's filter syntax. Tracing would take a misspelled level for the name of a module, so it is
/// rejected.
#[derive(Debug)]
struct LogLevel(String);

impl Deserr<Errors> for LogLevel {
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef<'_>,
    ) -> Result<Self, Errors> {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        const EXPECTED: &str = "a level like \"info\", or a filter like \"info,smsbridge=debug\"";
        let level = setting::text(value, location, EXPECTED, |text| Ok(text.to_owned()))?;
        let filter = level.contains(['=', ',']) && EnvFilter::builder().parse(&level).is_ok();
        if filter || LEVELS.contains(&level.as_str()) {
            return Ok(Self(level));
        }
        let message = format!("unknown level `{level}`{}", suggestion(&level, LEVELS));
        Err(Errors::at(location, Wrong::Other(message)))
    }
}

/// `[log]` as written.
#[derive(Debug, Default, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub(super) struct LogTyped {
    #[deserr(default)]
    level: Option<LogLevel>,
    #[deserr(default)]
    format: LogFormat,
    #[deserr(default)]
    numbers: LogNumbers,
}

#[derive(Debug, Default, PartialEq, Eq, Deserr)]
#[deserr(error = Errors, rename_all = lowercase)]
enum LogNumbers {
    #[default]
    Masked,
    Full,
}

impl From<LogTyped> for Log {
    fn from(typed: LogTyped) -> Self {
        Self {
            level: typed
                .level
                .map_or_else(|| "info".to_owned(), |LogLevel(level)| level),
            format: typed.format,
            numbers_full: typed.numbers == LogNumbers::Full,
        }
    }
}

/// `[retry]`, and the `retry` of a destination. A key that is missing is taken from the wider table.
#[derive(Clone, Copy, Debug, Default, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub(super) struct Retry {
    #[deserr(default, from(Period) = some)]
    initial: Option<Duration>,
    #[deserr(default, from(Period) = some)]
    max: Option<Duration>,
    #[deserr(default, from(Period) = some)]
    give_up_after: Option<Duration>,
}

/// The default retry policy.
pub(super) const POLICY: Policy = Policy {
    initial: Duration::from_secs(5),
    max: Duration::from_secs(3600),
    give_up_after: Duration::from_secs(3 * 86400),
};

impl Retry {
    /// The policy of `[retry]`, completed with the defaults.
    pub(super) fn policy(self) -> Result<Policy, String> {
        self.over(POLICY)
    }

    /// The keys given here, and those of `wider` for the rest.
    pub(super) fn over(self, wider: Policy) -> Result<Policy, String> {
        let policy = Policy {
            initial: self.initial.unwrap_or(wider.initial),
            max: self.max.unwrap_or(wider.max),
            give_up_after: self.give_up_after.unwrap_or(wider.give_up_after),
        };
        let (initial, max) = (
            humantime::format_duration(policy.initial),
            humantime::format_duration(policy.max),
        );
        let ordered = policy.initial <= policy.max;
        ordered
            .then_some(policy)
            .ok_or_else(|| format!("`initial` ({initial}) must not be longer than `max` ({max})"))
    }
}
