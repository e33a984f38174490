//! The plan: a configuration that was compiled whole, and is what runs. Immutable; a reload makes a new one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Fingerprint;
use crate::destination::Destination;
use crate::message::Name;
use crate::resolver::Resolver;
use crate::retry::Policy;
use crate::route::Routes;
use crate::source::{Endpoint, Upstream};

mod certificate;
mod changes;
mod compile;
mod dry_run;
mod lints;
mod load;
mod loading;
mod tls;

pub use crate::config::{Admin, Log, LogFormat, Problem, Problems, Server, Severity, Store};
pub use changes::Change;
pub use dry_run::{DryRun, Explanation, Planned};
pub use load::{Loaded, load};
pub use loading::{Loader, Loading};
pub use tls::Tls;

/// What runs.
pub struct Plan {
    /// `[server]`
    pub server: Server,
    /// `[server] tls`, ready for use.
    pub tls: Option<Tls>,
    /// `[admin]`
    pub admin: Admin,
    /// `[store]`
    pub store: Store,
    /// `[log]`
    pub log: Log,
    /// `[source.NAME]`
    pub sources: BTreeMap<Name, PlannedSource>,
    /// `[destination.NAME]`
    pub destinations: BTreeMap<Name, Arc<PlannedDestination>>,
    /// `[[route]]` and `[routing]`
    pub routes: Routes,
    /// `[contacts]`, by normal form.
    pub contacts: BTreeMap<String, String>,
    /// What looks up the names of destinations and carriers. It stays from plan to plan, so that lookups that hang
    /// do not become more with each reload.
    pub resolver: Resolver,
    /// What each part says, to tell at a reload what changed.
    pub fingerprints: Fingerprints,
}

/// What the parts of a configuration say, without saying it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprints {
    /// By source.
    pub sources: BTreeMap<Name, Fingerprint>,
    /// By destination, with all it depends on.
    pub destinations: BTreeMap<Name, Fingerprint>,
    /// By route.
    pub routes: BTreeMap<Name, Fingerprint>,
}

/// A source and where it listens.
pub struct PlannedSource {
    /// Its kind.
    pub kind: &'static str,
    /// Its path on `server.listen`.
    pub path: String,
    /// The source.
    pub source: Endpoint,
    /// The carrier's side of its numbers, if they are to be looked after.
    pub upstream: Option<Box<dyn Upstream>>,
}

/// A destination and how its lane treats it.
pub struct PlannedDestination {
    /// Its name.
    pub name: Name,
    /// Its kind.
    pub kind: &'static str,
    /// The destination.
    pub destination: Box<dyn Destination>,
    /// Its patience.
    pub policy: Policy,
    /// For one delivery.
    pub timeout: Duration,
    /// Deliveries at once.
    pub concurrency: usize,
    /// Texts per second.
    pub rate: Option<f64>,
    /// After how long a pending delivery is a problem.
    pub late_after: Duration,
    /// Who gets what dies here.
    pub fallback: Option<Name>,
}

/// Destinations keep their timeout themselves and can then say how far they came; this is for those that do not.
const TIMEOUT_SLACK: Duration = Duration::from_secs(2);

impl PlannedDestination {
    /// The longest time from the first byte that an attempt sends to its end. What an attempt waits for before
    /// (a free connection) is not in it: that wait ends when the daemon stops.
    #[must_use]
    pub fn attempt_max(&self) -> Duration {
        self.destination.attempt_max(self.timeout) + TIMEOUT_SLACK
    }
}

impl Plan {
    /// The contact's name for a number in normal form.
    #[must_use]
    pub fn contact(&self, normal: &str) -> Option<&str> {
        self.contacts.get(normal).map(String::as_str)
    }

    /// How the carriers' listener is spoken to.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Whether `X-Forwarded-For` from this peer is believed.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.server.trusted_proxies.iter().any(|net| net.contains(&peer))
    }
}
