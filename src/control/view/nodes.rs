//! The nodes that share the store.

use serde::{Deserialize, Serialize};

use crate::metrics::nodes::{Facts, Node};
use crate::model::message::{Name, Timestamp};

/// All nodes, and which destinations they serve.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodesView {
    /// The name of the node that answers.
    pub node: String,
    /// Whether several nodes can share the store.
    pub shared: bool,
    /// The nodes, by name.
    pub nodes: Vec<NodeView>,
    /// The destinations, by name.
    pub lanes: Vec<LaneView>,
}

/// A node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// `up`, or `gone` if it did not report for longer than a lease.
    pub state: NodeState,
    /// Its version.
    pub version: String,
    /// A digest of its configuration, which should be the same for all nodes.
    pub configuration: String,
    /// When it started.
    pub started_at: Timestamp,
    /// When it last reported.
    pub seen_at: Timestamp,
}

/// The states of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It reports.
    Up,
    /// It did not report for longer than a lease.
    Gone,
}

/// A destination, and the node that serves it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LaneView {
    /// Its name.
    pub destination: Name,
    /// The node that serves it; null if none does at the moment.
    pub node: Option<String>,
    /// Since when.
    pub since: Option<Timestamp>,
}

impl NodeState {
    /// The name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Gone => "gone",
        }
    }
}

impl NodesView {
    /// The same for the metrics.
    #[must_use]
    pub fn facts(&self) -> Facts {
        let nodes = self.nodes.iter().map(|node| Node {
            name: node.name.clone(),
            version: node.version.clone(),
            configuration: node.configuration.clone(),
            is_live: node.state == NodeState::Up,
        });
        let owner = |lane: &LaneView| Some((lane.destination.to_string(), lane.node.clone()?));
        Facts {
            nodes: nodes.collect(),
            owners: self.lanes.iter().filter_map(owner).collect(),
        }
    }
}
