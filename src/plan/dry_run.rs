//! Shows where a message would go and why, without sending anything.

use std::fmt::Write as _;

use serde::Serialize;
use uuid::Uuid;

use super::{Plan, PlannedDestination};
use crate::destination::{OutboundMessage, Recipients};
use crate::model::delivery::DeliveryId;
use crate::model::message::{Keyword, Message, MessageId, Name, Timestamp};
use crate::model::number::Number;
use crate::routing::{Outcome, Subject, Tried};
use crate::template::{one_line, visible};

/// A hypothetical message.
#[derive(Clone, Debug)]
pub struct DryRun<'a> {
    /// The source that would receive it.
    pub source: &'a Name,
    /// Sender.
    pub from: &'a Number,
    /// Receiver.
    pub to: &'a Number,
    /// The message body.
    pub text: &'a str,
    /// The time of its receipt.
    pub at: Timestamp,
    /// Whether to render the payload of each destination.
    pub render: bool,
}

/// Where a message would go, and why.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The source.
    pub source: Name,
    /// Sender, in normal form.
    pub from: String,
    /// The contact's name for the sender.
    pub from_name: Option<String>,
    /// Receiver, in normal form.
    pub to: String,
    /// The contact's name for the receiver.
    pub to_name: Option<String>,
    /// Every route in order.
    pub routes: Vec<Tried>,
    /// Whether any route matched; otherwise the destinations are those of `unmatched`.
    pub matched: bool,
    /// The destinations that would receive it.
    pub destinations: Vec<Planned>,
}

/// A destination that would receive the message.
#[derive(Clone, Debug, Serialize)]
pub struct Planned {
    /// Its name.
    pub destination: Name,
    /// Its kind.
    pub kind: &'static str,
    /// The route that names it; `None` for `unmatched`.
    pub route: Option<Name>,
    /// The payload, if requested.
    pub payload: Option<String>,
    /// Why the payload could not be rendered.
    pub error: Option<String>,
}

impl Plan {
    /// Explains where a message would go.
    #[must_use]
    pub fn explain(&self, run: &DryRun<'_>) -> Explanation {
        let subject = Subject {
            source: run.source,
            from: run.from,
            to: run.to,
            text: run.text,
            keyword: Keyword::of(run.text),
            at: run.at,
        };
        let decision = self.routes.decide(&subject);
        let message = message(run, &decision.routes);
        let deliveries = decision.deliveries.into_iter();
        let destinations = deliveries
            .filter_map(|(destination, route)| self.planned(destination, route, &message, run.render))
            .collect();
        Explanation {
            source: run.source.clone(),
            from: run.from.to_string(),
            from_name: self.contact(run.from.normal()).map(str::to_owned),
            to: run.to.to_string(),
            to_name: self.contact(run.to.normal()).map(str::to_owned),
            routes: self.routes.explain(&subject),
            matched: !decision.routes.is_empty(),
            destinations,
        }
    }

    fn planned(
        &self,
        destination: Name,
        route: Option<Name>,
        message: &Message,
        render: bool,
    ) -> Option<Planned> {
        let planned = self.destinations.get(&destination)?;
        let rendered = render.then(|| {
            let shown = planned.shown(message);
            let outbound = self.outbound(planned, &shown, route.as_ref());
            planned.destination.render(&outbound)
        });
        let (payload, error) = match rendered {
            Some(Ok(payload)) => (Some(payload), None),
            Some(Err(failure)) => (None, Some(failure.reason().shown().to_owned())),
            None => (None, None),
        };
        Some(Planned {
            destination,
            kind: planned.kind,
            route,
            payload,
            error,
        })
    }

    fn outbound<'a>(
        &'a self,
        planned: &'a PlannedDestination,
        message: &'a Message,
        route: Option<&'a Name>,
    ) -> OutboundMessage<'a> {
        let compiled = route.and_then(|name| self.routes.get(name));
        OutboundMessage {
            id: DeliveryId {
                message: message.id,
                ordinal: 1,
            },
            message,
            from_name: self.contact(message.from.normal()),
            to_name: self.contact(message.to.normal()),
            route,
            template: compiled.and_then(|route| route.template.as_ref()),
            groups: compiled
                .map(|route| route.groups(&message.text))
                .unwrap_or_default(),
            recipients: Recipients::default(),
            thread: None,
            fallback: None,
            zone: planned.zone.as_ref(),
        }
    }
}

fn message(run: &DryRun<'_>, routes: &[Name]) -> Message {
    Message {
        id: MessageId(Uuid::nil()),
        source: run.source.clone(),
        provider_id: "DRY-RUN".to_owned(),
        from: run.from.clone(),
        to: run.to.clone(),
        text: run.text.to_owned(),
        media: Vec::new(),
        extra: Keyword::of(run.text)
            .map(|keyword| (Message::KEYWORD.to_owned(), format!("\"{keyword}\"")))
            .into_iter()
            .collect(),
        received_at: run.at,
        routes: routes.to_vec(),
        redacted_at: None,
    }
}

impl Explanation {
    /// The explanation for a terminal: one line per route, one line per destination, payloads below.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let width = self
            .routes
            .iter()
            .map(|tried| tried.route.as_str().len())
            .max()
            .unwrap_or_default();
        for tried in &self.routes {
            let _ = writeln!(
                text,
                "route {:<width$}  {}",
                tried.route,
                one_line(&outcome(&tried.outcome))
            );
        }
        if !self.matched {
            let _ = writeln!(text, "no route matched: it goes to `unmatched`");
        }
        if self.destinations.is_empty() {
            let _ = writeln!(text, "→ kept; delivered to no destination");
        }
        let width = self
            .destinations
            .iter()
            .map(|planned| planned.destination.as_str().len())
            .max()
            .unwrap_or_default();
        for planned in &self.destinations {
            let route = planned
                .route
                .as_ref()
                .map_or_else(|| "unmatched".to_owned(), |route| format!("route {route}"));
            let _ = writeln!(
                text,
                "→ {:<width$}  {}, by {route}",
                planned.destination, planned.kind
            );
            let details = planned.payload.iter().chain(&planned.error);
            for detail in details {
                for line in visible(detail).lines() {
                    let _ = writeln!(text, "    {line}");
                }
            }
        }
        text
    }
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Matched => "matched".to_owned(),
        Outcome::Failed(reason) => format!("no: {reason}"),
        Outcome::NotReached => "not reached".to_owned(),
    }
}
