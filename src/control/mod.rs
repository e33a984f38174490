//! The queries and actions of operators, for the admin API, the commands and the page.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use crate::destination::{Failure, Fate, Other, OutboundMessage, Recipients};
use crate::engine::checks::Checks;
use crate::engine::clock::{Clock, Stopwatch};
use crate::engine::events::Event;
use crate::engine::lanes::Lanes;
use crate::metrics::Metrics;
use crate::model::delivery::{Attempt, Delivery, DeliveryId, Verdict};
use crate::model::message::{Message, MessageId, Name, Timestamp};
use crate::model::number::Number;
use crate::plan::{DryRun, Explanation, Loader, Plan, PlannedDestination};
use crate::store::{self, Found, Query, Store, backup};

mod deliveries;
mod ids;
mod nodes;
mod operator;
mod pending;
mod problem;
pub(crate) mod process;
mod reload;
mod status;
pub mod stopping;
pub mod view;

use deliveries::Places;
pub use deliveries::{DEAD_ALREADY, DISCARDED};
pub use reload::Reloaded;
use view::{DestinationView, MessageView, Page, RoutesView, Tested, Touched};

/// Why a request of an operator failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such message, delivery or destination.
    #[error("{0}")]
    NotFound(String),
    /// The request is invalid.
    #[error("{0}")]
    Wrong(String),
    /// It cannot be done now.
    #[error("{0}")]
    Unavailable(String),
    /// The store returned an error.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Carries out the requests of operators.
pub struct Control {
    plan: watch::Sender<Arc<Plan>>,
    reloads: reload::Reloads,
    store: Arc<dyn Store>,
    lanes: Arc<Lanes>,
    clock: Clock,
    metrics: Arc<Metrics>,
    checks: Checks,
    started_at: Timestamp,
    /// When attempts in progress are aborted, once the daemon is stopping.
    stop_until: OnceLock<Timestamp>,
}

impl Control {
    /// Creates the control; `plan` is the active plan, which [`Control::reload`] replaces.
    #[must_use]
    pub fn new(
        plan: watch::Sender<Arc<Plan>>,
        loader: Loader,
        store: Arc<dyn Store>,
        lanes: Arc<Lanes>,
        clock: Clock,
        metrics: Arc<Metrics>,
        checks: Checks,
    ) -> Self {
        let started_at = clock.wall();
        begin_metrics(&metrics, &plan.borrow());
        metrics.show_reload(true);
        Self {
            plan,
            reloads: reload::Reloads::new(loader),
            store,
            lanes,
            clock,
            metrics,
            checks,
            started_at,
            stop_until: OnceLock::new(),
        }
    }

    /// The active plan.
    #[must_use]
    pub fn plan(&self) -> Arc<Plan> {
        self.plan.borrow().clone()
    }

    /// Returns the next part of a backup.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn export(&self, from: backup::Position) -> Result<backup::Part, Error> {
        Ok(self.store.export(from).await?)
    }

    /// Lists messages, newest first.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn messages(&self, query: &Query) -> Result<Page<MessageView>, Error> {
        let plan = self.plan();
        let page = self.store.messages(query).await?;
        // Convert the messages one at a time: they may be large.
        let items = page.items.into_iter();
        let items = items
            .map(|found| self.show(&plan, &found, &Places::new()))
            .collect();
        Ok(Page {
            items,
            next: page.next.map(|cursor| cursor.to_string()),
        })
    }

    /// Returns one message with its deliveries.
    ///
    /// # Errors
    /// If no message has this id.
    pub async fn message(&self, id: MessageId) -> Result<MessageView, Error> {
        let found = self
            .store
            .find(id)
            .await?
            .ok_or_else(|| Error::NotFound(format!("no message {id}")))?;
        let places = self
            .places(&found, usize::MAX, |name| self.next_attempt_at(name))
            .await?;
        Ok(self.show(&self.plan(), &found, &places))
    }

    fn show(&self, plan: &Plan, found: &Found, places: &Places) -> MessageView {
        let deliveries = self.message_deliveries(plan, found, places);
        MessageView::of(&found.message, found.state(), deliveries, |number| {
            plan.contact(number).map(str::to_owned)
        })
    }

    /// Creates new deliveries of a message: to `destinations`, or to those of its destinations where it is dead and
    /// needs attention.
    ///
    /// # Errors
    /// If there is no such message, it was redacted, or it has no destination to be sent to.
    pub async fn resend(&self, id: MessageId, destinations: &[Name]) -> Result<Touched, Error> {
        let found = self
            .store
            .find(id)
            .await?
            .ok_or_else(|| Error::NotFound(format!("no message {id}")))?;
        if found.message.redacted_at.is_some() {
            return Err(Error::Wrong(format!(
                "the content of message {id} was removed (store.redact_after)"
            )));
        }
        let plan = self.plan();
        let targets = self.targets(&plan, &found, destinations)?;
        let now = self.clock.now();
        let deliveries = targets
            .iter()
            .map(|(to, route)| Delivery::resent(id, to.clone(), route.clone(), now));
        let ids = self.store.add_deliveries(id, deliveries.collect()).await?;
        targets.iter().for_each(|(to, _)| self.lanes.wake(to));
        for (id, (to, _)) in ids.iter().zip(&targets) {
            self.lanes.events().publish(|| Event::Delivery {
                id: *id,
                destination: to.clone(),
                state: store::MessageState::Pending,
            });
        }
        Ok(Touched {
            deliveries: ids.len() as u64,
            ids,
            ..Touched::default()
        })
    }

    fn targets(
        &self,
        plan: &Plan,
        found: &Found,
        named: &[Name],
    ) -> Result<Vec<(Name, Option<Name>)>, Error> {
        let mut targets: Vec<(Name, Option<Name>)> = Vec::new();
        if named.is_empty() {
            for delivery in &found.deliveries {
                let name = &delivery.destination;
                let is_there = |other: &Delivery| other.destination == *name && !other.needs_attention();
                let is_known = targets.iter().any(|(known, _)| known == name);
                if !is_known && !found.deliveries.iter().any(is_there) {
                    targets.push((name.clone(), delivery.route.clone()));
                }
            }
            targets.retain(|(name, _)| plan.destinations.contains_key(name));
        } else {
            for name in named.iter().collect::<BTreeSet<_>>() {
                self.planned(plan, name)?;
                // The route of an earlier delivery there, so that its template applies again.
                let mut earlier = found.deliveries.iter().filter(|other| other.destination == *name);
                let route = earlier.next_back().map(|earlier| earlier.route.clone());
                let route = route.unwrap_or_else(|| found.message.routes.first().cloned());
                targets.push((name.clone(), route));
            }
        }
        if targets.is_empty() {
            return Err(Error::Wrong(format!(
                "name the destinations for message {}: by default it is sent again only where it is dead, and it is dead \
                 nowhere",
                found.message.id
            )));
        }
        Ok(targets)
    }

    /// Pauses or resumes a destination; the pause persists over restarts.
    ///
    /// # Errors
    /// If there is no such destination.
    pub async fn set_paused(&self, name: &Name, paused: bool) -> Result<DestinationView, Error> {
        let plan = self.plan();
        self.planned(&plan, name)?;
        self.store.set_paused(name, paused).await?;
        self.lanes.set_paused(name, paused);
        let nodes = self.store.nodes().await?;
        self.destination(&plan, name, nodes.as_ref()).await
    }

    /// Deletes the findings of the store's audit, which the operator has read. Returns their number.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn acknowledge(&self) -> Result<u64, Error> {
        Ok(self.store.acknowledge().await?)
    }

    /// Sends a marked test message directly to a destination, without its lane, and stores nothing. The lane learns
    /// whether the destination works or requested a pause.
    ///
    /// # Errors
    /// If there is no such destination.
    pub async fn test(&self, name: &Name) -> Result<Tested, Error> {
        let message = self.own_message("test", "+15550100", "+15550199", TEST_TEXT.to_owned())?;
        self.send_own(name, &message, "smsbridge test").await
    }

    /// Sends a message of smsbridge itself, once, and records for the destination whether it works.
    async fn send_own(&self, name: &Name, message: &Message, from_name: &str) -> Result<Tested, Error> {
        let plan = self.plan();
        let planned = self.planned(&plan, name)?;
        let epoch = self.lanes.epoch(name);
        let (started, stopwatch) = (self.clock.now(), Stopwatch::start());
        let outcome = send_once(planned, message, from_name).await;
        let took = stopwatch.elapsed();
        let node = self.own_node().await;
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        match &outcome {
            Ok(detail) => {
                let attempt = Attempt::new(started, took, Verdict::Delivered, detail);
                self.lanes.works(name, attempt).await;
            }
            Err(failure) => {
                let attempt = Attempt::new(started, took, failure.verdict(), failure.reason().shown());
                self.lanes.pause_requested(planned, failure, attempt, epoch).await;
            }
        }
        Ok(match outcome {
            Ok(detail) => Tested {
                delivered: true,
                failure: None,
                detail,
                took_ms,
                node,
            },
            Err(failure) => Tested {
                delivered: false,
                failure: Some(kind(&failure).to_owned()),
                detail: failure.reason().shown().to_owned(),
                took_ms,
                node,
            },
        })
    }

    fn own_message(&self, id: &str, from: &str, to: &str, text: String) -> Result<Message, Error> {
        let source = "smsbridge"
            .parse()
            .map_err(|_| Error::Wrong("no name".to_owned()))?;
        Ok(Message {
            id: MessageId(uuid::Uuid::now_v7()),
            source,
            provider_id: id.to_owned(),
            from: Number::received(from),
            to: Number::received(to),
            text,
            media: Vec::new(),
            extra: std::collections::BTreeMap::new(),
            received_at: self.clock.wall(),
            routes: Vec::new(),
            redacted_at: None,
        })
    }

    fn planned<'a>(&self, plan: &'a Plan, name: &Name) -> Result<&'a PlannedDestination, Error> {
        plan.destinations
            .get(name)
            .map(|planned| &**planned)
            .ok_or_else(|| Error::NotFound(format!("no destination `{name}` is configured")))
    }
}

fn begin_metrics(metrics: &Metrics, plan: &Plan) {
    let sources = plan.sources.keys().map(Name::as_str);
    metrics.begin(sources, plan.destinations.keys().map(Name::as_str));
}

/// The body of a test message, which says that it is not from a customer.
const TEST_TEXT: &str = "This is a test from smsbridge. If you can read it, this destination works.";

async fn send_once(
    planned: &PlannedDestination,
    message: &Message,
    from_name: &str,
) -> Result<String, Failure> {
    let outbound = OutboundMessage {
        id: DeliveryId {
            message: message.id,
            ordinal: 1,
        },
        message,
        from_name: Some(from_name),
        to_name: None,
        route: None,
        template: None,
        groups: std::collections::BTreeMap::new(),
        recipients: Recipients::default(),
        thread: None,
        fallback: None,
        zone: planned.zone.as_ref(),
    };
    let _held = planned.destination.permit().await?;
    let limit = planned.attempt_max();
    match tokio::time::timeout(limit, planned.destination.deliver(&outbound)).await {
        Ok(outcome) => outcome.map(|delivered| delivered.detail),
        Err(_elapsed) => Err(Failure::unreachable(format!(
            "no answer within {}",
            seconds(limit)
        ))),
    }
}

fn seconds(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

fn kind(failure: &Failure) -> &'static str {
    match failure {
        Failure::Transient { .. } => "transient",
        Failure::Permanent { .. } => "permanent",
        Failure::Divided { others, .. } => {
            let is_over = |other: &Other| matches!(other.fate, Fate::Never { .. });
            if others.iter().any(is_over) {
                "permanent"
            } else {
                "transient"
            }
        }
        Failure::Parked { .. } => "parked",
    }
}

/// A hypothetical message.
#[derive(Clone, Debug)]
pub struct Question {
    /// Sender.
    pub from: String,
    /// Receiver.
    pub to: String,
    /// Its body.
    pub text: String,
    /// The source that receives it; by default the first one.
    pub source: Option<Name>,
    /// The time of receipt; by default now.
    pub at: Option<Timestamp>,
    /// Whether to render the payloads.
    pub render: bool,
}

impl Control {
    /// Explains which routes a message matches, and which destinations get it.
    ///
    /// # Errors
    /// If there is no such source.
    pub fn explain(&self, question: &Question) -> Result<Explanation, Error> {
        let plan = self.plan();
        let source = match &question.source {
            Some(name) if plan.sources.contains_key(name) => Some(name),
            Some(name) => return Err(Error::Wrong(format!("no source `{name}` is configured"))),
            None => plan.sources.keys().next(),
        };
        Ok(plan.explain(&DryRun {
            source: source.ok_or_else(|| Error::Wrong("no source is configured".to_owned()))?,
            from: &Number::received(&question.from),
            to: &Number::received(&question.to),
            text: &question.text,
            at: question.at.unwrap_or_else(|| self.clock.wall()),
            render: question.render,
        }))
    }

    /// The routes in the order in which they are tried, and the destinations of unmatched messages.
    #[must_use]
    pub fn routes(&self) -> RoutesView {
        RoutesView::of(&self.plan().routes)
    }

    /// Returns the warnings if messages can be accepted at the moment.
    ///
    /// # Errors
    /// A sentence for the operator that says why not.
    pub fn ready(&self) -> Result<Vec<String>, String> {
        if let Some(what) = self.stopping() {
            return Err(format!("stopping: {what}"));
        }
        self.store.ready().map(|()| self.checks.summary(&self.plan()))
    }

    /// All metrics, including the gauges of this moment, in the OpenMetrics text format.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn metrics(&self) -> Result<String, Error> {
        let plan = self.plan();
        let destinations = self.destinations(&plan).await?;
        self.metrics
            .keep_destinations(destinations.iter().map(|view| view.name.as_str()));
        for view in destinations {
            let now = self.clock.wall();
            let age = |since: Option<Timestamp>| since.map(|since| now.since(since)).unwrap_or_default();
            let oldest = age(view.oldest);
            self.metrics
                .show_destination(view.name.as_str(), view.state, view.pending, view.dead, oldest);
            self.metrics
                .show_attempt(view.name.as_str(), age(view.attempting_since));
        }
        let nodes = self.nodes().await?;
        self.metrics.nodes.show(&nodes.facts());
        let health = self.store.health();
        self.metrics
            .show_store(health.bytes, health.free, health.findings.len());
        process::show(&self.metrics, self.started_at);
        self.metrics
            .encode()
            .map_err(|error| Error::Wrong(error.to_string()))
    }
}
