//! PagerDuty: an alert for each message, through the [Events API v2][1].
//!
//! The delivery id is the `dedup_key`: PagerDuty turns any number of attempts into one alert.
//!
//! [1]: https://developer.pagerduty.com/docs/send-alert-event

use async_trait::async_trait;
use deserr::Deserr;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use url::Url;

use super::http::{Answer, address, parse_url};
use super::service::{Meaning, Service};
use super::wording::{Limit, Unit};
use super::{BuildContext, Delivered, Destination, Failure, Kind, OutboundMessage};
use crate::mask::Mask;
use crate::model::lint::{self, Lint};
use crate::model::secret::{Secret, Secrets};
use crate::model::setting::Errors;
use crate::model::zone;
use crate::template::{Medium, one_line, safe_link};

const API: &str = "https://events.pagerduty.com";

const SUMMARY: Limit = Limit {
    max: 1_024,
    unit: Unit::Characters,
};

/// An event may have 512 KB.
const DETAIL: Limit = Limit {
    max: 200_000,
    unit: Unit::Escaped,
};

/// Upper bound of the links to attachments.
const LINKS_MAX: usize = 10;

/// `kind = "pagerduty"`
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The integration key of a service.
    pub routing_key: Secrets,
    /// The severity of the alerts.
    #[deserr(default)]
    pub severity: Severity,
    /// Another host than PagerDuty's: `https://events.eu.pagerduty.com`, a gateway or a test.
    #[deserr(default)]
    pub api_url: Option<String>,
}

/// The severity of an alert.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserr)]
#[deserr(error = Errors, rename_all = lowercase)]
pub enum Severity {
    /// The highest one.
    #[default]
    Critical,
    /// An error.
    Error,
    /// A warning.
    Warning,
    /// The lowest one.
    Info,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

impl Kind for Config {
    fn lints(&self) -> Vec<Lint> {
        [
            lint::open_url("api_url", self.api_url.as_deref(), "the integration key"),
            lint::issued("routing_key", Some(&self.routing_key)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// PagerDuty accepts about 120 events a minute for one key.
    fn rate_default(&self) -> Option<f64> {
        Some(2.0)
    }

    fn build(&self, context: BuildContext<'_>) -> Result<Box<dyn Destination>, String> {
        let api = self.api_url.as_deref().unwrap_or(API).trim_end_matches('/');
        Ok(Box::new(PagerDuty {
            url: parse_url("api_url", &format!("{api}/v2/enqueue"))?,
            routing_key: self.routing_key.first()?.clone(),
            severity: self.severity,
            service: Service::new(context, Mask::default().secrets(&self.routing_key)),
        }))
    }
}

struct PagerDuty {
    service: Service,
    url: Url,
    routing_key: Secret,
    severity: Severity,
}

impl PagerDuty {
    /// The event without the integration key.
    fn event(&self, outbound: &OutboundMessage<'_>) -> Result<Value, Failure> {
        let message = outbound.message;
        let wording = self.service.wording(outbound, Medium::Text, str::to_owned)?;
        let text = wording.text(DETAIL);
        let summary = match wording.is_whole {
            true => one_line(&text),
            false => one_line(&format!("{}: {text}", wording.header)),
        };
        let mut details = json!({
            "from": message.from.shown(),
            "to": message.to.shown(),
            "text": text,
            "received_at": zone::shown(message.received_at, outbound.zone),
            "message_id": message.id,
        });
        if let Some(note) = wording.fallback() {
            details["fallback"] = json!(note);
        }
        let links = message.media.iter().filter_map(|media| safe_link(&media.link));
        let links: Vec<Value> = links
            .take(LINKS_MAX)
            .map(|link| json!({ "href": link, "text": link }))
            .collect();
        Ok(json!({
            "event_action": "trigger",
            "dedup_key": outbound.id.to_string(),
            "payload": {
                "summary": SUMMARY.cut(&summary, "…"),
                "source": message.from.shown(),
                "severity": self.severity.as_str(),
                "timestamp": message.received_at,
                "custom_details": details,
            },
            "links": links,
        }))
    }
}

#[async_trait]
impl Destination for PagerDuty {
    fn address(&self) -> Option<String> {
        address(&self.url)
    }

    async fn deliver(&self, outbound: &OutboundMessage<'_>) -> Result<Delivered, Failure> {
        let mut event = self.event(outbound)?;
        event["routing_key"] = json!(self.routing_key.reveal());
        let request = self
            .service
            .http
            .request(Method::POST, self.url.clone())
            .json(&event);
        let answer = self.service.ask(request, self.service.deadline()).await?;
        self.service
            .conclude(&answer, meaning(&answer), &said(&answer), outbound)
    }

    fn render(&self, outbound: &OutboundMessage<'_>) -> Result<String, Failure> {
        Ok(format!("{:#}", self.event(outbound)?))
    }
}

const ADVICE: &str =
    "check `routing_key`: it is the integration key of an Events API v2 integration, 32 characters long";

/// A wrong key is a 400 like an invalid event; only the words differ.
fn meaning(answer: &Answer) -> Meaning {
    match answer.status {
        StatusCode::BAD_REQUEST if said(answer).contains("routing_key") => Meaning::Misconfigured(ADVICE),
        status => Meaning::of(status, ADVICE),
    }
}

/// The message and the errors of the answer.
fn said(answer: &Answer) -> String {
    let document = answer.document();
    let errors = document["errors"].as_array().into_iter().flatten();
    let words = document["message"].as_str().into_iter();
    let words: Vec<&str> = words.chain(errors.filter_map(Value::as_str)).collect();
    match words.is_empty() {
        true => answer.start.clone(),
        false => words.join(": "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_a_meaning() {
        let invalid = |error: &str| {
            json!({ "status": "invalid event", "message": "Event object is invalid", "errors": [error] })
                .to_string()
        };
        for (status, body, expected) in [
            (
                202,
                r#"{"status":"success","dedup_key":"k"}"#.to_owned(),
                Meaning::Accepted,
            ),
            (
                400,
                invalid("Length of 'routing_key' is incorrect (should be 32 characters)"),
                Meaning::Misconfigured(ADVICE),
            ),
            (
                400,
                invalid("'payload.summary' is missing or blank"),
                Meaning::Refused,
            ),
            (403, String::new(), Meaning::Misconfigured(ADVICE)),
            (429, String::new(), Meaning::Limited(None)),
            (500, String::new(), Meaning::Busy),
        ] {
            let answer = Answer::new(StatusCode::from_u16(status).unwrap(), &body);
            assert_eq!(meaning(&answer), expected, "{status} {body}");
        }
    }
}
