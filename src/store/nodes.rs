//! The nodes that share a store, and which destination each of them serves.

use std::time::Duration;

use crate::model::message::Name;

/// How long a node that does not report is remembered.
pub const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// The nodes that share a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    /// The name of this node.
    pub own: String,
    /// All nodes, by name. A node that stopped is not among them; one that died is, for [`REMEMBERED`].
    pub nodes: Vec<Node>,
    /// The destinations, by name.
    pub lanes: Vec<Lane>,
}

/// A node: a process that uses the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// A digest of its configuration.
    pub configuration: String,
    /// The time since it started.
    pub up: Duration,
    /// The time since it last reported.
    pub seen: Duration,
    /// Whether it reported within a lease.
    pub is_live: bool,
}

/// A destination, and the node that serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// Its name.
    pub destination: Name,
    /// The node that serves it, and for how long; `None` if none does at the moment.
    pub owner: Option<(String, Duration)>,
}

impl Nodes {
    /// The nodes that reported within a lease.
    pub fn live(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_live)
    }

    /// The other live nodes, by name.
    #[must_use]
    pub fn others(&self) -> Vec<&str> {
        let others = self.live().filter(|node| node.name != self.own);
        others.map(|node| node.name.as_str()).collect()
    }

    /// The lane of a destination, if the store knows it.
    #[must_use]
    pub fn lane(&self, destination: &Name) -> Option<&Lane> {
        self.lanes.iter().find(|lane| lane.destination == *destination)
    }
}
