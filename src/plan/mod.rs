//! The plan: the compiled configuration that the daemon runs. Immutable; a reload creates a new one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Fingerprint;
use crate::destination::{Batching, Destination};
use crate::model::content::Content;
use crate::model::message::{Message, Name};
use crate::model::time_interval::TimeInterval;
use crate::model::zone::{self, Zone};
use crate::resolver::Resolver;
use crate::retry::Policy;
use crate::routing::Routes;
use crate::source::{CatchUp, Endpoint, Upstream};

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

/// The compiled configuration.
pub struct Plan {
    /// `[server]`
    pub server: Server,
    /// `[server] tls`, compiled.
    pub tls: Option<Tls>,
    /// `[admin]`
    pub admin: Admin,
    /// `[store]`
    pub store: Store,
    /// `[log]`
    pub log: Log,
    /// `[operator] notify`: the destinations to which problems are reported.
    pub notify: Vec<Name>,
    /// `[operator] after`: how long a destination must have a problem before it is told.
    pub notify_after: Duration,
    /// `[source.NAME]`
    pub sources: BTreeMap<Name, Arc<PlannedSource>>,
    /// `[destination.NAME]`
    pub destinations: BTreeMap<Name, Arc<PlannedDestination>>,
    /// `[[route]]` and `[routing]`
    pub routes: Routes,
    /// `[contacts]`, by number in normal form.
    pub contacts: BTreeMap<String, String>,
    /// Resolves the host names of destinations and carriers. Plans share it, so that lookups that hang do not
    /// accumulate with each reload.
    pub resolver: Resolver,
    /// The fingerprint of each part, to detect changes at a reload.
    pub fingerprints: Fingerprints,
}

/// The fingerprints of the parts of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprints {
    /// By source.
    pub sources: BTreeMap<Name, Fingerprint>,
    /// By destination, including everything that it depends on.
    pub destinations: BTreeMap<Name, Fingerprint>,
    /// By route.
    pub routes: BTreeMap<Name, Fingerprint>,
}

/// A source and its path.
pub struct PlannedSource {
    /// Its kind.
    pub kind: &'static str,
    /// Its path on `server.listen`.
    pub path: String,
    /// The source.
    pub source: Endpoint,
    /// The carrier's configuration of its numbers, if `webhook_check` is enabled.
    pub upstream: Option<Box<dyn Upstream>>,
    /// The carrier's list of received messages, with `catch_up`.
    pub catch_up: Option<Box<dyn CatchUp>>,
}

/// A destination and the settings of its lane.
pub struct PlannedDestination {
    /// Its name.
    pub name: Name,
    /// Its kind.
    pub kind: &'static str,
    /// The destination.
    pub destination: Box<dyn Destination>,
    /// The retry policy.
    pub policy: Policy,
    /// Time limit of one delivery.
    pub timeout: Duration,
    /// Deliveries at the same time.
    pub concurrency: usize,
    /// Messages per second.
    pub rate: Option<f64>,
    /// Whether several messages go as one post.
    pub batch: Option<Batching>,
    /// How long a delivery may be pending before `status` reports a problem.
    pub late_after: Duration,
    /// The destination that receives its dead letters.
    pub fallback: Option<Name>,
    /// How long a delivery may be pending before the fallback receives the message, too.
    pub fallback_after: Option<Duration>,
    /// How much of a message it may show.
    pub content: Content,
    /// The time zone of the people who read it.
    pub zone: Option<Zone>,
    /// The time intervals that hold its deliveries.
    pub hold_during: Vec<TimeInterval>,
}

/// Added to the timeout of a destination. Destinations enforce the timeout themselves, so that the error can name the
/// step that was reached; this limit is for those that do not.
const TIMEOUT_SLACK: Duration = Duration::from_secs(2);

impl PlannedDestination {
    /// The maximum time from the first byte that an attempt sends to its end. Waiting for a free connection is not
    /// included: that wait ends when the daemon stops.
    #[must_use]
    pub fn attempt_max(&self) -> Duration {
        self.destination.attempt_max(self.timeout) + TIMEOUT_SLACK
    }

    /// The message as this destination may show it. Everything that is rendered for it is made from this.
    #[must_use]
    pub fn shown<'m>(&self, message: &'m Message) -> Cow<'m, Message> {
        let received_at = zone::shown(message.received_at, self.zone.as_ref());
        self.content.of(message, &received_at)
    }
}

impl Plan {
    /// A short digest of what daemons that share a store must have in common: sources, destinations, routes and how long
    /// messages are kept. Too short to say anything about a secret.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let all = &self.fingerprints;
        let parts = all.sources.iter().chain(&all.destinations);
        let parts = parts.map(|(name, part)| part.with(name.as_str().as_bytes()));
        let routes = self
            .routes
            .all()
            .iter()
            .filter_map(|route| all.routes.get(&route.name));
        let rest = format!(
            "{:?} {:?} {:?} {:?} {:?}",
            self.routes.unmatched(),
            self.contacts,
            self.store.retain,
            self.store.redact_after,
            self.store.dedup_window
        );
        let whole = parts
            .chain(routes.copied())
            .fold(Fingerprint::default(), Fingerprint::and);
        whole.with(rest.as_bytes()).short()
    }

    /// The contact's name for a number in normal form.
    #[must_use]
    pub fn contact(&self, normal: &str) -> Option<&str> {
        self.contacts.get(normal).map(String::as_str)
    }

    /// The longest time for which a source recognises the ids of its messages.
    #[must_use]
    pub fn dedup_window_max(&self) -> Duration {
        let own = self
            .sources
            .values()
            .filter_map(|planned| planned.source.dedup_window());
        own.fold(self.store.dedup_window, Duration::max)
    }

    /// The URL scheme of the listener for carriers.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Returns true if `X-Forwarded-For` from this peer is trusted.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.server.trusted_proxies.iter().any(|net| net.contains(&peer))
    }
}
