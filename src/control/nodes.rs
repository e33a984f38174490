//! The nodes that share the store, for operators.

use std::time::Duration;

use super::problem;
use super::view::{LaneView, NodeState, NodeView, NodesView, ProblemKind, ProblemView};
use super::{Control, Error, process};
use crate::engine::node_check::{differing, gone};
use crate::plan::{Plan, Severity};
use crate::store::Nodes;

/// The name of the only node on a host without a name.
const UNNAMED: &str = "localhost";

impl Control {
    /// All nodes that use the store, and which destinations they serve. A store that is not shared has one, which serves
    /// all.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn nodes(&self) -> Result<NodesView, Error> {
        let plan = self.plan();
        Ok(match self.store.nodes().await? {
            Some(nodes) => self.nodes_view(&plan, &nodes),
            None => self.only_node(&plan),
        })
    }

    pub(super) fn nodes_view(&self, plan: &Plan, nodes: &Nodes) -> NodesView {
        let now = self.clock.wall();
        let node = |node: &crate::store::Node| NodeView {
            name: node.name.clone(),
            state: if node.is_live {
                NodeState::Up
            } else {
                NodeState::Gone
            },
            version: node.version.clone(),
            configuration: node.configuration.clone(),
            started_at: now.before(node.up),
            seen_at: now.before(node.seen),
        };
        let known = nodes
            .lanes
            .iter()
            .filter(|lane| lane.owner.is_some() || plan.destinations.contains_key(&lane.destination));
        let lane = |lane: &crate::store::Lane| LaneView {
            destination: lane.destination.clone(),
            node: lane.owner.as_ref().map(|(name, _)| name.clone()),
            since: lane.owner.as_ref().map(|(_, served)| now.before(*served)),
        };
        NodesView {
            node: nodes.own.clone(),
            shared: true,
            nodes: nodes.nodes.iter().map(node).collect(),
            lanes: known.map(lane).collect(),
        }
    }

    fn only_node(&self, plan: &Plan) -> NodesView {
        let name = process::host_name().unwrap_or_else(|| UNNAMED.to_owned());
        let lane = |destination: &crate::model::message::Name| LaneView {
            destination: destination.clone(),
            node: Some(name.clone()),
            since: Some(self.started_at),
        };
        NodesView {
            lanes: plan.destinations.keys().map(lane).collect(),
            nodes: vec![NodeView {
                name: name.clone(),
                state: NodeState::Up,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                configuration: plan.fingerprint(),
                started_at: self.started_at,
                seen_at: self.clock.wall(),
            }],
            node: name,
            shared: false,
        }
    }

    /// The name of this node, if the store is shared and can be read.
    pub(super) async fn own_node(&self) -> Option<String> {
        let nodes = self.store.nodes().await.ok().flatten();
        nodes.map(|nodes| nodes.own)
    }

    /// The name of this node and of the other live ones, if there are any: a reload concerns only this one.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn reloaded_nodes(&self) -> Result<Option<(String, Vec<String>)>, Error> {
        let nodes = self.store.nodes().await?;
        let nodes = nodes.map(|nodes| {
            let others = nodes.others().into_iter().map(str::to_owned).collect();
            (nodes.own, others)
        });
        Ok(nodes)
    }

    /// The problems of the nodes.
    pub(super) fn node_problems(&self, nodes: &Nodes) -> Vec<ProblemView> {
        let warning = |message| problem::general(Severity::Warning, ProblemKind::Nodes, message);
        let mut problems: Vec<ProblemView> = differing(nodes).map(warning).into_iter().collect();
        problems.extend(gone(nodes).map(|(name, seen)| ProblemView {
            since: Some(self.clock.wall().before(seen)),
            ..warning(format!(
                "node {name} has not reported for {}; the other nodes serve its destinations; start it again, or it is \
                 forgotten after a day",
                humantime::format_duration(Duration::from_secs(seen.as_secs()))
            ))
        }));
        problems
    }
}
