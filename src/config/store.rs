//! `[store]`: where messages are kept, and for how long.

use std::path::{Path, PathBuf};
use std::time::Duration;

use deserr::Deserr;

use super::diagnostics::Problems;
use super::environment::Outside;
use super::section::Section;
use super::{secrets, suggest};
use crate::model::message::Name;
use crate::model::secret::Secret;
use crate::model::setting::Errors;
use crate::model::units::{Bounded, FilePath, Lease, Period, Retention, Size, some};
use crate::store::postgres::{Address, SynchronousCommit};

/// `[store]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// The folder of the store on disk. With a database it only gives the default place of the admin socket.
    pub path: PathBuf,
    /// How long ended messages are kept; `None` means forever.
    pub retain: Option<Duration>,
    /// The age at which bodies and numbers are redacted.
    pub redact_after: Option<Duration>,
    /// Bytes to keep free on the file system.
    pub min_free: u64,
    /// How long a provider id is kept to detect duplicates.
    pub dedup_window: Duration,
    /// The database, with `kind = "postgres"`.
    pub database: Option<Database>,
}

/// The keys of `kind = "postgres"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Database {
    /// Where the database is, with user and password.
    pub url: Secret,
    /// The certificate authorities to trust instead of those of the system, PEM. Public, but read like a secret.
    #[deserr(default)]
    pub ca_file: Option<Secret>,
    /// The name of this daemon among those that share the database; by default that of the host.
    #[deserr(default)]
    pub node: Option<Name>,
    /// The number of connections.
    #[deserr(default = 8, from(Bounded<2, 100>) = usize::from)]
    pub pool: usize,
    /// How long a daemon serves a destination after it last renewed its right to.
    #[deserr(default = Duration::from_secs(10), from(Lease) = Duration::from)]
    pub lane_lease: Duration,
    /// `synchronous_commit`: what a commit waits for.
    #[deserr(default)]
    pub synchronous_commit: SynchronousCommit,
}

/// The keys that both kinds have.
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
struct CommonTyped {
    /// Read separately before, so that the keys of the kind are checked even if the common keys are wrong.
    #[deserr(rename = "kind", default)]
    _kind: Option<String>,
    #[deserr(default = Self::default().retain, from(Retention) = Option::from)]
    retain: Option<Duration>,
    #[deserr(default, from(Period) = some)]
    redact_after: Option<Duration>,
    #[deserr(default = Self::default().dedup_window, from(Period) = Duration::from)]
    dedup_window: Duration,
}

/// The keys of `kind = "sled"`.
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
struct SledTyped {
    #[deserr(default, from(FilePath) = PathBuf::from)]
    path: PathBuf,
    #[deserr(default = Self::default().min_free, from(Size) = u64::from)]
    min_free: u64,
}

impl Default for CommonTyped {
    fn default() -> Self {
        Self {
            _kind: None,
            retain: Some(Duration::from_secs(90 * 86400)),
            redact_after: None,
            dedup_window: Duration::from_secs(7 * 86400),
        }
    }
}

impl Default for SledTyped {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            min_free: 256 * 1024 * 1024,
        }
    }
}

const COMMON_KEYS: &[&str] = &["kind", "retain", "redact_after", "dedup_window"];
const SLED_KEYS: &[&str] = &["path", "min_free"];
const POSTGRES_KEYS: &[&str] = &[
    "url",
    "ca_file",
    "node",
    "pool",
    "lane_lease",
    "synchronous_commit",
];

/// The kinds of store.
const KINDS: [&str; 2] = ["postgres", "sled"];

impl Default for Store {
    fn default() -> Self {
        Self::of(CommonTyped::default(), SledTyped::default(), None)
    }
}

impl Store {
    /// The keys whose values are paths of files to read.
    pub(super) const FILES: &[&str] = &["ca_file"];

    pub(super) fn read(section: Section<'_>, problems: &mut Problems) -> Option<Self> {
        let kind = section.text("kind");
        let kind = match kind.as_ref().map(|kind| kind.get_ref().as_str()) {
            None | Some("sled") => "sled",
            Some("postgres") => "postgres",
            Some(other) => {
                let place = kind.as_ref().map(toml::Spanned::span).unwrap_or_default();
                problems.error_with(&place, "store.kind", || {
                    format!("unknown kind `{other}`{}", suggest::suggestion(other, KINDS))
                });
                return None;
            }
        };
        let (common, own) = section.split(COMMON_KEYS);
        let common = common.read::<CommonTyped>(&[], problems);
        let (foreign, other) = match kind {
            "sled" => (POSTGRES_KEYS, "postgres"),
            _ => (SLED_KEYS, "sled"),
        };
        let (foreign, own) = own.split(foreign);
        for (key, _) in foreign.table().into_iter().flatten() {
            let message = format!("belongs to `kind = \"{other}\"`, and this store has `kind = \"{kind}\"`");
            problems.error(&key.span(), format!("store.{}", key.get_ref()), message);
        }
        let is_foreign = foreign.table().is_some_and(|table| !table.is_empty());
        let store = match kind {
            "sled" => {
                let own = own.read::<SledTyped>(COMMON_KEYS, problems);
                Self::of(common?, own?, None)
            }
            _ => {
                let database = own.read::<Database>(COMMON_KEYS, problems)?;
                Self::of(
                    common?,
                    SledTyped::default(),
                    Some(database.checked(&own, problems)?),
                )
            }
        };
        (!is_foreign).then_some(store)
    }

    /// The folder or the hosts of the database, for logs.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.database {
            None => self.path.display().to_string(),
            Some(database) => {
                let hosts = database.address().map(|address| address.hosts());
                format!("PostgreSQL on {}", hosts.unwrap_or_default())
            }
        }
    }

    fn of(common: CommonTyped, sled: SledTyped, database: Option<Database>) -> Self {
        Self {
            path: sled.path,
            retain: common.retain,
            redact_after: common.redact_after,
            min_free: sled.min_free,
            dedup_window: common.dedup_window,
            database,
        }
    }

    /// Completes the path: relative to `folder`, whose file gives it; without a path, the state folder of the service
    /// manager, or a folder beside the main file.
    pub(super) fn resolve(self, folder: &Path, main: &Path, outside: &Outside) -> Self {
        let path = match outside.folder("STATE_DIRECTORY") {
            Some(state) if self.path.as_os_str().is_empty() => state,
            _ if self.path.as_os_str().is_empty() => main.join("smsbridge-data"),
            _ => folder.join(&self.path),
        };
        Self { path, ..self }
    }
}

impl Database {
    /// Where the database is.
    ///
    /// # Errors
    /// Names the invalid key and the reason, without the URL.
    pub fn address(&self) -> Result<Address, String> {
        let authorities = self.ca_file.as_ref().map(Secret::reveal);
        Address::parse(self.url.reveal(), authorities)
    }

    fn checked(mut self, section: &Section<'_>, problems: &mut Problems) -> Option<Self> {
        // If the file could not be read, that was reported already, or its content is not needed.
        self.ca_file = self.ca_file.filter(secrets::is_fetched);
        if !secrets::is_fetched(&self.url) {
            return Some(self);
        }
        let place = |key: &str| {
            let value = section.table().and_then(|table| table.get(key));
            value.map_or_else(|| section.place(), toml::Spanned::span)
        };
        match self.address() {
            Ok(address) if address.is_exposed() => {
                let message = "the identity of the server is not verified: someone between it and the bridge can read \
                               and change messages; add `sslmode=verify-full`";
                problems.warning(&place("url"), "store.url", message);
            }
            Ok(_) => {}
            Err(error) => {
                let key = if error.starts_with("ca_file") {
                    "ca_file"
                } else {
                    "url"
                };
                problems.error(&place(key), format!("store.{key}"), error);
                return None;
            }
        }
        Some(self)
    }
}
