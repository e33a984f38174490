//! `[operator]`: tells problems to destinations, without any monitoring system.

use std::time::Duration;

use super::view::{NodeState, Noticed, ProblemKind, ProblemView, StatusView, Tested};
use super::{Control, Error, process};
use crate::model::destination_state::DestinationState;
use crate::model::message::Name;
use crate::model::notices::{Current, Notice, Notices, Subject};

/// The sender of a notice.
const SENDER: &str = "smsbridge";

/// The recipient of a notice, if the name of the host is not known.
const OPERATOR: &str = "operator";

impl Control {
    /// Takes note of the current problems, and tells each destination of `[operator] notify` what is new to it. Returns
    /// the destinations that could not be told.
    pub async fn notify(&self, notices: &mut Notices) -> Vec<Name> {
        let (plan, now) = (self.plan(), self.clock.wall());
        notices.keep_only(&plan.notify);
        let status = match self.status().await {
            Ok(status) if status.stopping.is_some() => return Vec::new(),
            Ok(status) => status,
            Err(error) => {
                notices.observe(vec![unreadable(&error)], now);
                return self.tell(notices, &plan.notify).await;
            }
        };
        let current = status
            .problems
            .iter()
            .filter(|problem| is_told_here(&status, problem))
            .filter_map(|problem| told(problem, plan.notify_after));
        notices.observe(current.collect(), now);
        let usable: Vec<Name> = plan
            .notify
            .iter()
            .filter(|name| can_be_told(&status, name))
            .cloned()
            .collect();
        self.tell(notices, &usable).await
    }

    async fn tell(&self, notices: &mut Notices, destinations: &[Name]) -> Vec<Name> {
        let mut failed = Vec::new();
        for name in destinations {
            let now = self.clock.wall();
            let Some(notice) = notices.due(name, now) else {
                continue;
            };
            match self.send_notice(name, &notice).await {
                Ok(()) => {
                    tracing::info!(destination = %name, "told {name} of a change of the problems");
                    notices.sent(name, &notice, now);
                }
                Err(reason) => {
                    tracing::warn!(destination = %name, "could not tell {name} of a change of the problems: {reason}");
                    failed.push(name.clone());
                }
            }
        }
        failed
    }

    async fn send_notice(&self, name: &Name, notice: &Notice) -> Result<(), String> {
        let sent = self.send_text(name, "notice", notice.text.clone()).await;
        match sent {
            Ok(noticed) if noticed.delivered => Ok(()),
            Ok(noticed) => Err(noticed.detail),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn send_text(&self, name: &Name, id: &str, text: String) -> Result<Tested, Error> {
        let host = process::host_name();
        let message = self.own_message(id, SENDER, host.as_deref().unwrap_or(OPERATOR), text)?;
        self.send_own(name, &message, SENDER).await
    }

    /// Sends a marked notice to each destination of `[operator] notify`.
    ///
    /// # Errors
    /// A destination was removed from the configuration meanwhile.
    pub async fn test_operator(&self) -> Result<Vec<Noticed>, Error> {
        const TEXT: &str = "This is a test from smsbridge. Problems will be reported here.";
        let plan = self.plan();
        let mut all = Vec::with_capacity(plan.notify.len());
        for destination in &plan.notify {
            let tested = self.send_text(destination, "test", TEXT.to_owned()).await?;
            let destination = destination.clone();
            all.push(Noticed { destination, tested });
        }
        Ok(all)
    }
}

/// Returns true unless the destination is known not to work, or paused.
fn can_be_told(status: &StatusView, name: &Name) -> bool {
    let view = status.destinations.iter().find(|view| view.name == *name);
    view.is_some_and(|view| matches!(view.state, DestinationState::Up | DestinationState::Untested))
}

/// Returns true if this node tells the problem: that of a destination is told by the node that serves it, and that of a
/// node by the first of the others.
fn is_told_here(status: &StatusView, problem: &ProblemView) -> bool {
    let Some(nodes) = &status.nodes else {
        return true;
    };
    let mut live = nodes.nodes.iter().filter(|node| node.state == NodeState::Up);
    let is_first = live.next().is_none_or(|first| first.name == nodes.node);
    match (&problem.destination, problem.kind) {
        (Some(name), _) => {
            let view = status.destinations.iter().find(|view| view.name == *name);
            let owner = view.and_then(|view| view.node.as_ref());
            owner.map_or(is_first, |owner| *owner == nodes.node)
        }
        (None, ProblemKind::Nodes) => is_first,
        (None, _) => true,
    }
}

fn unreadable(error: &Error) -> Current {
    Current {
        subject: Subject::General("the store".to_owned()),
        message: error.to_string(),
        since: None,
        delay: Duration::ZERO,
        dead: 0,
    }
}

/// The problem as it is told; `None` if it is the operator's own doing.
fn told(problem: &ProblemView, after: Duration) -> Option<Current> {
    let general = |what: &str, delay| Some((Subject::General(what.to_owned()), delay));
    let destination = problem.destination.clone();
    let (subject, delay) = match problem.kind {
        ProblemKind::Paused | ProblemKind::Stopping => None,
        ProblemKind::Parked
        | ProblemKind::Down
        | ProblemKind::Limited
        | ProblemKind::Late
        | ProblemKind::Slow
        | ProblemKind::Removed => Some((Subject::Delivery(destination?), after)),
        ProblemKind::Dead => Some((Subject::Dead(destination?), Duration::ZERO)),
        ProblemKind::Reload => general("the configuration", Duration::ZERO),
        ProblemKind::Store => general("the store", Duration::ZERO),
        ProblemKind::Clock => general("the clock", Duration::ZERO),
        ProblemKind::Certificate => general("the certificate", Duration::ZERO),
        ProblemKind::Numbers => general("the webhooks of the numbers", Duration::ZERO),
        ProblemKind::PublicUrl => general("server.public_url", Duration::ZERO),
        ProblemKind::Subscription => general("the subscription", Duration::ZERO),
        ProblemKind::CatchUp => general("catching up", after),
        ProblemKind::Log => general("the log", after),
        ProblemKind::Nodes => general("the nodes", after),
    }?;
    Some(Current {
        subject,
        message: problem.message.clone(),
        since: problem.since,
        delay,
        dead: problem.dead,
    })
}
