//! What operators can ask and do: one place for the admin API, the commands and the page.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::{Clock, Stopwatch};
use crate::delivery::{Delivery, DeliveryId};
use crate::destination::{Failure, Fate, Other, OutboundMessage, Recipients};
use crate::engine::lanes::Lanes;
use crate::engine::webhook_check::Drift;
use crate::events::Event;
use crate::message::{Message, MessageId, Name, Timestamp};
use crate::metrics::Metrics;
use crate::number::Number;
use crate::plan::{DryRun, Explanation, Loader, Plan, PlannedDestination};
use crate::store::{self, Found, Query, Store, backup};

mod deliveries;
mod ids;
mod pending;
mod problem;
mod process;
mod reload;
mod status;
pub mod stopping;
pub mod view;

use deliveries::Places;
pub use deliveries::{DEAD_ALREADY, DISCARDED};
pub use reload::Reloaded;
use view::{DestinationView, MessageView, Page, RoutesView, Tested, Touched};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such message, delivery or destination.
    #[error("{0}")]
    NotFound(String),
    /// What was asked makes no sense.
    #[error("{0}")]
    Wrong(String),
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// The operator's hands.
pub struct Control {
    plan: watch::Sender<Arc<Plan>>,
    reloads: reload::Reloads,
    store: Arc<dyn Store>,
    lanes: Arc<Lanes>,
    clock: Clock,
    metrics: Arc<Metrics>,
    drift: Arc<Drift>,
    started_at: Timestamp,
    /// When attempts in flight are cut off, once the daemon is stopping.
    stop_until: OnceLock<Timestamp>,
}

impl Control {
    /// Takes what it works with; `plan` is what runs, and what [`Control::reload`] replaces.
    #[must_use]
    pub fn new(
        plan: watch::Sender<Arc<Plan>>,
        loader: Loader,
        store: Arc<dyn Store>,
        lanes: Arc<Lanes>,
        clock: Clock,
        metrics: Arc<Metrics>,
        drift: Arc<Drift>,
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
            drift,
            started_at,
            stop_until: OnceLock::new(),
        }
    }

    /// What runs at the moment.
    #[must_use]
    pub fn plan(&self) -> Arc<Plan> {
        self.plan.borrow().clone()
    }

    /// The next part of a backup.
    ///
    /// # Errors
    /// The store's.
    pub async fn export(&self, from: backup::Position) -> Result<backup::Part, Error> {
        Ok(self.store.export(from).await?)
    }

    /// Messages, newest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn messages(&self, query: &Query) -> Result<Page<MessageView>, Error> {
        let plan = self.plan();
        let page = self.store.messages(query).await?;
        // One after the other goes as it is shown: the messages may be large.
        let items = page.items.into_iter();
        let items = items
            .map(|found| self.show(&plan, &found, &Places::new()))
            .collect();
        Ok(Page {
            items,
            next: page.next.map(|cursor| cursor.to_string()),
        })
    }

    /// One message with its deliveries.
    ///
    /// # Errors
    /// When there is none with this id.
    pub async fn message(&self, id: MessageId) -> Result<MessageView, Error> {
        let found = self
            .store
            .find(id)
            .await?
            .ok_or_else(|| Error::NotFound(format!("no message {id}")))?;
        let places = self.places(&found, usize::MAX).await?;
        Ok(self.show(&self.plan(), &found, &places))
    }

    fn show(&self, plan: &Plan, found: &Found, places: &Places) -> MessageView {
        let deliveries = self.message_deliveries(plan, found, places);
        MessageView::of(&found.message, found.state(), deliveries, |number| {
            plan.contact(number).map(str::to_owned)
        })
    }

    /// Delivers a message once more: to `destinations`, or to those of its destinations where it is dead and needs
    /// attention.
    ///
    /// # Errors
    /// When there is no such message, it was redacted, or nobody to send it to.
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
        let (now, none_yet) = (
            self.clock.now(),
            DeliveryId {
                message: id,
                ordinal: 0,
            },
        );
        let deliveries = targets
            .iter()
            .map(|(to, route)| Delivery::new(none_yet, to.clone(), route.clone(), now));
        let ids = self.store.owe(id, deliveries.collect()).await?;
        targets.iter().for_each(|(to, _)| self.lanes.wake(to));
        for (id, (to, _)) in ids.iter().zip(&targets) {
            self.lanes.events().tell(|| Event::Delivery {
                id: *id,
                destination: to.clone(),
                state: store::MessageState::Pending,
            });
        }
        Ok(Touched {
            deliveries: ids.len() as u64,
            redacted: 0,
            ids,
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
                targets.push((name.clone(), found.message.routes.first().cloned()));
            }
        }
        if targets.is_empty() {
            return Err(Error::Wrong(format!(
                "name the destinations that get message {} again: without a name it is sent only to those where it is dead, \
                 and there are none",
                found.message.id
            )));
        }
        Ok(targets)
    }

    /// Stops a destination's lane, or lets it go; remembered over restarts.
    ///
    /// # Errors
    /// When there is no such destination.
    pub async fn set_paused(&self, name: &Name, paused: bool) -> Result<DestinationView, Error> {
        let plan = self.plan();
        self.planned(&plan, name)?;
        self.store.set_paused(name, paused).await?;
        self.lanes.set_paused(name, paused);
        self.destination(&plan, name).await
    }

    /// Forgets what was found wrong with the store: the operator has read it. Says how many findings those were.
    ///
    /// # Errors
    /// The store's.
    pub async fn acknowledge(&self) -> Result<u64, Error> {
        Ok(self.store.acknowledge().await?)
    }

    /// Sends a marked test message straight to a destination, past its lane, and stores nothing. The lane learns that the
    /// destination works, or that it asked for a pause.
    ///
    /// # Errors
    /// When there is no such destination.
    pub async fn test(&self, name: &Name) -> Result<Tested, Error> {
        let plan = self.plan();
        let planned = self.planned(&plan, name)?;
        let epoch = self.lanes.epoch(name);
        let stopwatch = Stopwatch::start();
        let outcome = send_test(planned, &self.test_message()?).await;
        let took_ms = u64::try_from(stopwatch.elapsed().as_millis()).unwrap_or(u64::MAX);
        match &outcome {
            Ok(_) => self.lanes.works(name).await,
            Err(failure) => self.lanes.asked(planned, failure, epoch).await,
        }
        Ok(match outcome {
            Ok(detail) => Tested {
                delivered: true,
                failure: None,
                detail,
                took_ms,
            },
            Err(failure) => Tested {
                delivered: false,
                failure: Some(kind(&failure).to_owned()),
                detail: failure.reason().shown().to_owned(),
                took_ms,
            },
        })
    }

    fn test_message(&self) -> Result<Message, Error> {
        let number = |text: &str| Number::parse(text).map_err(|error| Error::Wrong(error.to_string()));
        let source = "smsbridge"
            .parse()
            .map_err(|_| Error::Wrong("no name".to_owned()))?;
        Ok(Message {
            id: MessageId(uuid::Uuid::now_v7()),
            source,
            provider_id: "test".to_owned(),
            from: number("+15550100")?,
            to: number("+15550199")?,
            text: TEST_TEXT.to_owned(),
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

/// What a test says, so that nobody takes it for a customer's.
const TEST_TEXT: &str = "This is a test from smsbridge. If you can read it, this destination works.";

async fn send_test(planned: &PlannedDestination, message: &Message) -> Result<String, Failure> {
    let outbound = OutboundMessage {
        id: DeliveryId {
            message: message.id,
            ordinal: 1,
        },
        message,
        from_name: Some("smsbridge test"),
        to_name: None,
        route: None,
        template: None,
        groups: std::collections::BTreeMap::new(),
        recipients: Recipients::default(),
        thread: None,
        fallback: None,
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

/// A text that is only asked about.
#[derive(Clone, Debug)]
pub struct Question {
    /// Sender.
    pub from: String,
    /// Receiver.
    pub to: String,
    /// The text.
    pub text: String,
    /// The source it comes from; the first otherwise.
    pub source: Option<Name>,
    /// When; now otherwise.
    pub at: Option<Timestamp>,
    /// Whether to render payloads.
    pub render: bool,
}

impl Control {
    /// Where a text would go, and why.
    ///
    /// # Errors
    /// When there is no such source.
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

    /// The routes in the order they are tried, and who gets the rest.
    #[must_use]
    pub fn routes(&self) -> RoutesView {
        RoutesView::of(&self.plan().routes)
    }

    /// Whether texts can be accepted at the moment, and what is odd nevertheless.
    ///
    /// # Errors
    /// Why not, for the operator.
    pub fn ready(&self) -> Result<Vec<String>, String> {
        if let Some(what) = self.stopping() {
            return Err(format!("stopping: {what}"));
        }
        self.store.ready().map(|()| self.drift.summary())
    }

    /// Everything that is counted, with the gauges of this moment, in OpenMetrics' text form.
    ///
    /// # Errors
    /// The store's.
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
                .show_destination(view.name.as_str(), &view.state, view.pending, view.dead, oldest);
            self.metrics
                .show_attempt(view.name.as_str(), age(view.attempting_since));
        }
        let health = self.store.health();
        self.metrics
            .show_store(health.bytes, health.free, health.findings.len());
        process::show(&self.metrics, self.started_at);
        self.metrics
            .encode()
            .map_err(|error| Error::Wrong(error.to_string()))
    }
}
