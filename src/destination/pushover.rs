//! Pushover: [messages][1] to a user or group.
//!
//! [1]: https://pushover.net/api

use std::time::Duration;

use async_trait::async_trait;
use deserr::{Deserr, IntoValue, Value, ValuePointerRef};
use http::{Method, StatusCode};
use serde_json::json;
use url::Url;

use super::http::{Answer, address, parse_url};
use super::service::{Meaning, Service, seconds};
use super::wording::{Limit, Unit};
use super::{BuildContext, Delivered, Destination, Failure, Kind, OutboundMessage};
use crate::mask::Mask;
use crate::model::lint::{self, Lint};
use crate::model::message::Timestamp;
use crate::model::secret::{Secret, Secrets};
use crate::model::setting::{Errors, Wrong};
use crate::template::Medium;

const API: &str = "https://api.pushover.net";

const MESSAGE: Limit = Limit {
    max: 1_024,
    unit: Unit::Characters,
};

const TITLE: Limit = Limit {
    max: 250,
    unit: Unit::Characters,
};

/// An emergency (priority 2) is repeated at this interval, for this long, until someone acknowledges it.
const REPEAT: Duration = Duration::from_secs(60);
const REPEAT_FOR: Duration = Duration::from_secs(60 * 60);

/// `kind = "pushover"`
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The API token of an application.
    pub token: Secrets,
    /// The key of a user or group.
    pub user: Secrets,
    /// From -2 (no notification) to 2 (repeated until acknowledged).
    #[deserr(default)]
    pub priority: Option<Priority>,
    /// Another host than Pushover's, for gateways and tests.
    #[deserr(default)]
    pub api_url: Option<String>,
}

/// The priority of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priority(i8);

impl Priority {
    const EMERGENCY: Self = Self(2);
}

impl Deserr<Errors> for Priority {
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef<'_>,
    ) -> Result<Self, Errors> {
        let number = match value {
            Value::Integer(number) => i8::try_from(number).ok(),
            Value::NegativeInteger(number) => i8::try_from(number).ok(),
            other => {
                let expected = "a whole number from -2 to 2";
                return Err(Errors::mistyped(location, expected, other.kind()));
            }
        };
        number
            .filter(|number| (-2..=2).contains(number))
            .map(Self)
            .ok_or_else(|| Errors::at(location, Wrong::Other("must be from -2 to 2".to_owned())))
    }
}

impl Kind for Config {
    fn lints(&self) -> Vec<Lint> {
        [
            lint::open_url("api_url", self.api_url.as_deref(), "the token"),
            lint::issued("token", Some(&self.token)),
            lint::issued("user", Some(&self.user)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn build(&self, context: BuildContext<'_>) -> Result<Box<dyn Destination>, String> {
        let api = self.api_url.as_deref().unwrap_or(API).trim_end_matches('/');
        let mask = Mask::default().secrets(&self.token).secrets(&self.user);
        Ok(Box::new(Pushover {
            url: parse_url("api_url", &format!("{api}/1/messages.json"))?,
            token: self.token.first()?.clone(),
            user: self.user.first()?.clone(),
            priority: self.priority,
            service: Service::new(context, mask),
        }))
    }
}

struct Pushover {
    service: Service,
    url: Url,
    token: Secret,
    user: Secret,
    priority: Option<Priority>,
}

impl Pushover {
    /// All parameters but the secrets.
    fn parameters(&self, outbound: &OutboundMessage<'_>) -> Result<Vec<(&'static str, String)>, Failure> {
        let wording = self.service.wording(outbound, Medium::Text, str::to_owned)?;
        let mut parameters = vec![
            ("title", TITLE.cut(&wording.header, "…").into_owned()),
            ("message", wording.body(MESSAGE)),
            ("timestamp", (outbound.message.received_at.0 / 1000).to_string()),
        ];
        if let Some(Priority(priority)) = self.priority {
            parameters.push(("priority", priority.to_string()));
        }
        if self.priority == Some(Priority::EMERGENCY) {
            parameters.push(("retry", REPEAT.as_secs().to_string()));
            parameters.push(("expire", REPEAT_FOR.as_secs().to_string()));
        }
        Ok(parameters)
    }
}

#[async_trait]
impl Destination for Pushover {
    fn address(&self) -> Option<String> {
        address(&self.url)
    }

    async fn deliver(&self, outbound: &OutboundMessage<'_>) -> Result<Delivered, Failure> {
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("token", self.token.reveal())
            .append_pair("user", self.user.reveal())
            .extend_pairs(self.parameters(outbound)?)
            .finish();
        let request = self
            .service
            .http
            .request(Method::POST, self.url.clone())
            .header(http::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form);
        let answer = self.service.ask(request, self.service.deadline()).await?;
        let now = Timestamp(jiff::Timestamp::now().as_millisecond());
        self.service
            .conclude(&answer, meaning(&answer, now), &said(&answer), outbound)
    }

    fn render(&self, outbound: &OutboundMessage<'_>) -> Result<String, Failure> {
        let parameters = self.parameters(outbound)?;
        let shown: serde_json::Map<_, _> = parameters
            .into_iter()
            .map(|(name, value)| (name.to_owned(), json!(value)))
            .collect();
        Ok(format!("{:#}", serde_json::Value::from(shown)))
    }
}

const TOKEN: &str = "check `token`, the API token of an application";
const USER: &str = "check `user`, the key of a user or group";
const ADDRESS: &str = "check `api_url`";

/// Pushover answers every mistake with 400 and names the parameter.
fn meaning(answer: &Answer, now: Timestamp) -> Meaning {
    let document = answer.document();
    let is_wrong = |parameter: &str| document[parameter] == "invalid";
    match answer.status {
        StatusCode::TOO_MANY_REQUESTS => Meaning::Limited(until_reset(answer, now)),
        _ if is_wrong("token") => Meaning::Misconfigured(TOKEN),
        _ if is_wrong("user") => Meaning::Misconfigured(USER),
        status if status.is_success() => match document["status"].as_u64() {
            Some(1) => Meaning::Accepted,
            Some(_) => Meaning::Refused,
            None => Meaning::Odd,
        },
        status => Meaning::of(status, ADDRESS),
    }
}

/// A 429 means that the messages of the month are used up; the header says when the next month begins.
fn until_reset(answer: &Answer, now: Timestamp) -> Option<Duration> {
    let reset = answer.number("x-limit-app-reset")?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "a time in seconds is exact in a double"
    )]
    let now = (now.0 / 1000) as f64;
    seconds(reset - now)
}

fn said(answer: &Answer) -> String {
    let document = answer.document();
    let errors = document["errors"].as_array().into_iter().flatten();
    let words: Vec<&str> = errors.filter_map(serde_json::Value::as_str).collect();
    match words.is_empty() {
        true => answer.start.clone(),
        false => words.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_a_meaning() {
        for (status, body, expected) in [
            (200, r#"{"status":1,"request":"r"}"#, Meaning::Accepted),
            (200, r#"{"status":0,"request":"r"}"#, Meaning::Refused),
            (200, "<html>", Meaning::Odd),
            (
                400,
                r#"{"token":"invalid","errors":["application token is invalid"],"status":0}"#,
                Meaning::Misconfigured(TOKEN),
            ),
            (
                400,
                r#"{"user":"invalid","errors":["user identifier is invalid"],"status":0}"#,
                Meaning::Misconfigured(USER),
            ),
            (
                400,
                r#"{"message":"cannot be blank","errors":["message cannot be blank"],"status":0}"#,
                Meaning::Refused,
            ),
            (404, "", Meaning::Misconfigured(ADDRESS)),
            (429, r#"{"status":0}"#, Meaning::Limited(None)),
            (500, "", Meaning::Busy),
        ] {
            let answer = Answer::new(StatusCode::from_u16(status).unwrap(), body);
            assert_eq!(meaning(&answer, Timestamp(0)), expected, "{status} {body}");
        }
    }

    #[test]
    fn a_used_up_quota_waits_for_the_next_month() {
        let mut answer = Answer::new(StatusCode::TOO_MANY_REQUESTS, "");
        answer
            .headers
            .insert("x-limit-app-reset", "1790000600".parse().unwrap());
        let ten_minutes = Meaning::Limited(Some(Duration::from_secs(600)));
        assert_eq!(meaning(&answer, Timestamp(1_790_000_000_000)), ten_minutes);
    }

    #[test]
    fn the_priority_is_from_minus_two_to_two() {
        let priority = |value: &str| {
            crate::model::setting::from_toml::<Config>(&format!(
                "token = 't'\nuser = 'u'\npriority = {value}"
            ))
        };
        assert_eq!(priority("-2").unwrap().priority, Some(Priority(-2)));
        assert_eq!(priority("2").unwrap().priority, Some(Priority::EMERGENCY));
        for wrong in ["3", "-3", "'high'", "300"] {
            assert!(priority(wrong).unwrap_err().contains("-2 to 2"), "{wrong}");
        }
    }
}
