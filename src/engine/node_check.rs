//! Watches the nodes that share the store: logs those that die and return, and configurations that differ.
//!
//! A node with another configuration accepts and delivers by other rules than the rest, and nothing else shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::store::{Nodes, Store};

/// The interval of the checks.
const EVERY: Duration = Duration::from_secs(5);

/// How long configurations may differ before it is logged: a change reaches the nodes one after the other.
const ROLLOUT: Duration = Duration::from_secs(15);

/// The result of the last check.
#[derive(Default)]
pub struct NodeCheck(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// The different configurations, and for how many checks they have differed.
    differing: Option<(String, u32)>,
    gone: BTreeSet<String>,
}

impl NodeCheck {
    /// The problems for the public health check.
    #[must_use]
    pub fn summary(&self) -> Vec<String> {
        let differing = self.seen().differing.is_some();
        let words = "the nodes that share the store have different configurations";
        differing.then(|| words.to_owned()).into_iter().collect()
    }

    /// Records what a check found, and logs the changes.
    fn record(&self, nodes: &Nodes) {
        let mut seen = self.seen();
        let checks = seen.differing.as_ref().map_or(0, |(_, checks)| *checks);
        seen.differing = match (differing(nodes), checks) {
            (Some(words), _) => {
                let checks = checks.saturating_add(1);
                if EVERY * checks == ROLLOUT {
                    tracing::warn!("{words}");
                }
                Some((words, checks))
            }
            (None, checks) => {
                if EVERY * checks >= ROLLOUT {
                    tracing::info!("all nodes have the same configuration again");
                }
                None
            }
        };
        let gone: BTreeSet<String> = gone(nodes).map(|node| node.0.to_owned()).collect();
        for name in gone.difference(&seen.gone) {
            tracing::warn!(node = %name, "node {name} does not report any more; the other nodes serve its destinations");
        }
        let live: BTreeSet<&str> = nodes.live().map(|node| node.name.as_str()).collect();
        for name in seen.gone.iter().filter(|name| live.contains(name.as_str())) {
            tracing::info!(node = %name, "node {name} reports again");
        }
        seen.gone = gone;
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The nodes that do not report any more, with the time since their last report.
pub fn gone(nodes: &Nodes) -> impl Iterator<Item = (&str, Duration)> {
    let gone = nodes.nodes.iter().filter(|node| !node.is_live);
    gone.map(|node| (node.name.as_str(), node.seen))
}

/// Which live nodes have which configuration, if they differ, and what to do.
#[must_use]
pub fn differing(nodes: &Nodes) -> Option<String> {
    let mut by_configuration: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in nodes.live() {
        let names = by_configuration.entry(&node.configuration).or_default();
        names.push(&node.name);
    }
    if by_configuration.len() < 2 {
        return None;
    }
    let groups = by_configuration.iter().map(|(configuration, names)| {
        let verb = if names.len() == 1 { "has" } else { "have" };
        format!("{} {verb} {configuration}", names.join(", "))
    });
    let groups: Vec<String> = groups.collect();
    Some(format!(
        "the nodes have different configurations: {}; give all of them the same configuration, then run `smsbridge \
         reload` on each",
        groups.join("; ")
    ))
}

/// Watches the nodes until stopped. Ends at once if the store is not shared.
pub async fn watch(check: Arc<NodeCheck>, store: Arc<dyn Store>, stop: CancellationToken) {
    loop {
        match store.nodes().await {
            Ok(Some(nodes)) => check.record(&nodes),
            Ok(None) => return,
            Err(error) => tracing::debug!("the nodes could not be read: {error}"),
        }
        if stop
            .run_until_cancelled(tokio::time::sleep(EVERY))
            .await
            .is_none()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Node;

    fn nodes(all: &[(&str, &str, bool)]) -> Nodes {
        let node = |&(name, configuration, is_live): &(&str, &str, bool)| Node {
            name: name.to_owned(),
            version: "1".to_owned(),
            configuration: configuration.to_owned(),
            up: Duration::ZERO,
            seen: Duration::ZERO,
            is_live,
        };
        Nodes {
            own: "a".to_owned(),
            nodes: all.iter().map(node).collect(),
            lanes: Vec::new(),
        }
    }

    #[test]
    fn only_configurations_of_live_nodes_are_compared() {
        let same = nodes(&[("a", "1f", true), ("b", "1f", true), ("c", "77", false)]);
        assert_eq!(differing(&same), None);
        assert_eq!(gone(&same).map(|(name, _)| name).collect::<Vec<_>>(), ["c"]);
        let other = nodes(&[("a", "1f", true), ("b", "1f", true), ("c", "77", true)]);
        assert_eq!(
            differing(&other).unwrap(),
            "the nodes have different configurations: a, b have 1f; c has 77; give all of them the same configuration, \
             then run `smsbridge reload` on each"
        );
        let check = NodeCheck::default();
        check.record(&other);
        assert_eq!(check.summary().len(), 1);
        check.record(&same);
        assert!(check.summary().is_empty());
    }
}
