//! Problems of the sources and of the other nodes that only the operator can fix.

use std::sync::Arc;

use super::catch_up::CatchUpState;
use super::node_check::NodeCheck;
use super::url_check::UrlCheck;
use super::webhook_check::WebhookCheck;
use crate::plan::Plan;

/// The results of all checks. Clones share them.
#[derive(Clone, Default)]
pub struct Checks {
    /// Whether the carriers' numbers point here.
    pub webhooks: Arc<WebhookCheck>,
    /// Whether requests are signed for `server.public_url`.
    pub urls: Arc<UrlCheck>,
    /// Whether missed messages can be listed at the carriers.
    pub catch_up: Arc<CatchUpState>,
    /// Whether the nodes that share the store have the same configuration.
    pub nodes: Arc<NodeCheck>,
}

impl Checks {
    /// The problems for the public health check, without numbers and URLs.
    #[must_use]
    pub fn summary(&self, plan: &Plan) -> Vec<String> {
        [
            self.webhooks.summary(),
            self.urls.summary(plan),
            self.nodes.summary(),
        ]
        .concat()
    }
}
