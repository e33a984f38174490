//! The nodes that share the store, and which destination each serves.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The gauges.
#[derive(Default)]
pub struct Nodes {
    up: Family<ByNode, Gauge>,
    info: Family<ByConfiguration, Gauge>,
    owner: Family<ByOwner, Gauge>,
    /// The labels that have gauges.
    shown: Mutex<(BTreeSet<ByNode>, BTreeSet<ByConfiguration>, BTreeSet<ByOwner>)>,
}

/// What the gauges show.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// All nodes.
    pub nodes: Vec<Node>,
    /// Destinations with the nodes that serve them.
    pub owners: Vec<(String, String)>,
}

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// A digest of its configuration.
    pub configuration: String,
    /// Whether it reports.
    pub is_live: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct ByNode {
    node: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct ByConfiguration {
    node: String,
    version: String,
    configuration: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct ByOwner {
    destination: String,
    node: String,
}

impl Nodes {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "node_up",
            "1 for each node that reports, 0 for one that does not report any more",
            self.up.clone(),
        );
        registry.register(
            "node_info",
            "The version and the configuration of each node that reports",
            self.info.clone(),
        );
        registry.register(
            "lane_owner",
            "1 for the node that serves a destination",
            self.owner.clone(),
        );
    }

    /// Sets the gauges, and removes those of nodes and owners that are not there any more.
    pub fn show(&self, facts: &Facts) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let (up, info, owner) = &*shown;
        let nodes = facts.nodes.iter().map(|one| ByNode {
            node: one.name.clone(),
        });
        let live = facts.nodes.iter().filter(|one| one.is_live);
        let configurations = live.map(|one| ByConfiguration {
            node: one.name.clone(),
            version: one.version.clone(),
            configuration: one.configuration.clone(),
        });
        let owners = facts.owners.iter().cloned();
        let owners = owners.map(|(destination, node)| ByOwner { destination, node });
        let now: (BTreeSet<_>, BTreeSet<_>, BTreeSet<_>) =
            (nodes.collect(), configurations.collect(), owners.collect());
        for by in up.difference(&now.0) {
            self.up.remove(by);
        }
        for by in info.difference(&now.1) {
            self.info.remove(by);
        }
        for by in owner.difference(&now.2) {
            self.owner.remove(by);
        }
        for one in &facts.nodes {
            let by = ByNode {
                node: one.name.clone(),
            };
            self.up.get_or_create(&by).set(i64::from(one.is_live));
        }
        for by in &now.1 {
            self.info.get_or_create(by).set(1);
        }
        for by in &now.2 {
            self.owner.get_or_create(by).set(1);
        }
        *shown = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_of_before_is_removed_and_a_gone_node_has_no_configuration() {
        let (nodes, mut registry) = (Nodes::default(), Registry::default());
        nodes.register(&mut registry);
        let node = |name: &str, is_live| Node {
            name: name.to_owned(),
            version: "1".to_owned(),
            configuration: "1f".to_owned(),
            is_live,
        };
        let owner = |node: &str| vec![("desk".to_owned(), node.to_owned())];
        nodes.show(&Facts {
            nodes: vec![node("a", true), node("b", true)],
            owners: owner("a"),
        });
        nodes.show(&Facts {
            nodes: vec![node("a", false), node("b", true)],
            owners: owner("b"),
        });
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let mut samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        samples.sort_unstable();
        assert_eq!(
            samples,
            [
                "lane_owner{destination=\"desk\",node=\"b\"} 1",
                "node_info{node=\"b\",version=\"1\",configuration=\"1f\"} 1",
                "node_up{node=\"a\"} 0",
                "node_up{node=\"b\"} 1",
            ]
        );
    }
}
