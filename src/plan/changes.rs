//! The changes that a reload makes, for its log line and its answer.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::Plan;
use crate::config::{Database, Fingerprint};
use crate::model::message::Name;

/// One difference between two plans.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The key: `destination.desk`, `server.listen`.
    pub key: String,
    /// `added`, `removed`, `changed`.
    pub what: &'static str,
    /// Whether the change takes effect only after a restart.
    pub needs_restart: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let restart = if self.needs_restart {
            ", which needs a restart"
        } else {
            ""
        };
        write!(f, "{} {}{restart}", self.key, self.what)
    }
}

impl Plan {
    /// The differences from the previous plan; empty if there are none.
    #[must_use]
    pub fn changes_from(&self, old: &Self) -> Vec<Change> {
        let mut changes = settings(old, self);
        let (before, after) = (&old.fingerprints, &self.fingerprints);
        changes.extend(entries("source", &before.sources, &after.sources));
        changes.extend(entries("destination", &before.destinations, &after.destinations));
        changes.extend(entries("route", &before.routes, &after.routes));
        if order(old, self) != order(self, old) {
            changes.push(live("route", "reordered"));
        }
        if old.routes.unmatched() != self.routes.unmatched() {
            changes.push(live("routing.unmatched", "changed"));
        }
        if old.contacts != self.contacts {
            changes.push(live("contacts", "changed"));
        }
        changes
    }
}

/// The changes of single settings.
fn settings(old: &Plan, new: &Plan) -> Vec<Change> {
    let (server, server_old) = (&new.server, &old.server);
    let (admin, admin_old) = (&new.admin, &old.admin);
    let (store, store_old) = (&new.store, &old.store);
    let (log, log_old) = (&new.log, &old.log);
    let databases = store.database.as_ref().zip(store_old.database.as_ref());
    let database =
        |differs: fn(&Database, &Database) -> bool| databases.is_some_and(|(new, old)| differs(new, old));
    let fixed_at_start = [
        ("server.listen", server.listen != server_old.listen),
        (
            "server.max_connections",
            server.max_connections != server_old.max_connections,
        ),
        (
            "server.header_timeout",
            server.header_timeout != server_old.header_timeout,
        ),
        (
            "server.request_timeout",
            server.request_timeout != server_old.request_timeout,
        ),
        ("admin.socket", admin.socket != admin_old.socket),
        ("admin.socket_group", admin.socket_group != admin_old.socket_group),
        ("admin.listen", admin.listen != admin_old.listen),
        ("admin.token", admin.token != admin_old.token),
        ("store.path", store.path != store_old.path),
        ("store.min_free", store.min_free != store_old.min_free),
        (
            "store.kind",
            store.database.is_some() != store_old.database.is_some(),
        ),
        ("store.url", database(|new, old| new.url != old.url)),
        ("store.ca_file", database(|new, old| new.ca_file != old.ca_file)),
        ("store.node", database(|new, old| new.node != old.node)),
        ("store.pool", database(|new, old| new.pool != old.pool)),
        (
            "store.lane_lease",
            database(|new, old| new.lane_lease != old.lane_lease),
        ),
        (
            "store.synchronous_commit",
            database(|new, old| new.synchronous_commit != old.synchronous_commit),
        ),
        ("log.level", log.level != log_old.level),
        ("log.format", log.format != log_old.format),
    ];
    let reloadable = [
        ("server.public_url", server.public_url != server_old.public_url),
        ("server.max_body", server.max_body != server_old.max_body),
        (
            "server.trusted_proxies",
            server.trusted_proxies != server_old.trusted_proxies,
        ),
        ("server.tls", server.tls != server_old.tls),
        ("store.retain", store.retain != store_old.retain),
        ("store.redact_after", store.redact_after != store_old.redact_after),
        ("store.dedup_window", store.dedup_window != store_old.dedup_window),
        ("log.numbers", log.numbers_full != log_old.numbers_full),
    ];
    let restart = fixed_at_start
        .into_iter()
        .filter(|(_, differs)| *differs)
        .map(|(key, _)| Change {
            key: key.to_owned(),
            what: "changed",
            needs_restart: true,
        });
    let live = reloadable
        .into_iter()
        .filter(|(_, differs)| *differs)
        .map(|(key, _)| live(key, "changed"));
    restart.chain(live).collect()
}

fn entries(table: &str, old: &BTreeMap<Name, Fingerprint>, new: &BTreeMap<Name, Fingerprint>) -> Vec<Change> {
    let gone = old
        .keys()
        .filter(|name| !new.contains_key(*name))
        .map(|name| (name, "removed"));
    let here = new.iter().filter_map(|(name, print)| match old.get(name) {
        None => Some((name, "added")),
        Some(before) if before != print => Some((name, "changed")),
        Some(_) => None,
    });
    here.chain(gone)
        .map(|(name, what)| live(&format!("{table}.{name}"), what))
        .collect()
}

fn live(key: &str, what: &'static str) -> Change {
    Change {
        key: key.to_owned(),
        what,
        needs_restart: false,
    }
}

/// The routes that both plans have, in the order of `plan`.
fn order<'p>(plan: &'p Plan, other: &Plan) -> Vec<&'p Name> {
    let names = plan.routes.all().iter().map(|route| &route.name);
    names.filter(|name| other.routes.get(name).is_some()).collect()
}
