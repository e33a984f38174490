//! ntfy: [publishes][1] to a topic of ntfy.sh or of a server of your own, as JSON.
//!
//! [1]: https://docs.ntfy.sh/publish/#publish-as-json

use std::time::Duration;

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
use crate::model::message::Timestamp;
use crate::model::secret::{Secret, Secrets};
use crate::model::setting::Errors;
use crate::model::units::{Bounded, some};
use crate::template::Medium;

/// A longer message becomes an attachment, or is refused.
const MESSAGE: Limit = Limit {
    max: 4_096,
    unit: Unit::Bytes,
};

const TITLE: Limit = Limit {
    max: 250,
    unit: Unit::Characters,
};

/// `kind = "ntfy"`
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The server: `https://ntfy.sh`, or your own.
    pub url: String,
    /// The topic.
    pub topic: String,
    /// An access token, if the server or the topic needs one.
    #[deserr(default)]
    pub token: Option<Secrets>,
    /// From 1 (no sound) to 5 (repeated alarm).
    #[deserr(default, from(Bounded<1, 5>) = some)]
    pub priority: Option<u16>,
}

impl Kind for Config {
    fn lints(&self) -> Vec<Lint> {
        let what = match self.token {
            Some(_) => "the token",
            None => "every message",
        };
        [
            lint::open_url("url", Some(&self.url), what),
            lint::issued("token", self.token.as_ref()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// ntfy lets a visitor publish 60 messages at once, and one every five seconds after that.
    fn rate_default(&self) -> Option<f64> {
        Some(1.0)
    }

    fn build(&self, context: BuildContext<'_>) -> Result<Box<dyn Destination>, String> {
        let usual = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !(1..=64).contains(&self.topic.len()) || !self.topic.bytes().all(usual) {
            return Err(
                "`topic` is not a topic: 1 to 64 of a-z, A-Z, 0-9, `_` and `-`, without the server"
                    .to_owned(),
            );
        }
        let mask = self.token.iter().fold(Mask::default(), Mask::secrets);
        Ok(Box::new(Ntfy {
            url: parse_url("url", &self.url)?,
            topic: self.topic.clone(),
            token: self.token.as_ref().map(Secrets::first).transpose()?.cloned(),
            priority: self.priority,
            service: Service::new(context, mask),
        }))
    }
}

struct Ntfy {
    service: Service,
    url: Url,
    topic: String,
    token: Option<Secret>,
    priority: Option<u16>,
}

impl Ntfy {
    fn payload(&self, outbound: &OutboundMessage<'_>) -> Result<Value, Failure> {
        let wording = self.service.wording(outbound, Medium::Text, str::to_owned)?;
        let mut payload = json!({
            "topic": self.topic,
            "title": TITLE.cut(&wording.header, "…"),
            "message": wording.body(MESSAGE),
            "markdown": false,
        });
        if let Some(priority) = self.priority {
            payload["priority"] = json!(priority);
        }
        Ok(payload)
    }
}

#[async_trait]
impl Destination for Ntfy {
    fn address(&self) -> Option<String> {
        address(&self.url)
    }

    async fn deliver(&self, outbound: &OutboundMessage<'_>) -> Result<Delivered, Failure> {
        let mut request = self.service.http.request(Method::POST, self.url.clone());
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.reveal());
        }
        let request = request.json(&self.payload(outbound)?);
        let answer = self.service.ask(request, self.service.deadline()).await?;
        let said = answer.members.get("error").as_str().unwrap_or(&answer.start);
        let now = Timestamp(jiff::Timestamp::now().as_millisecond());
        self.service
            .conclude(&answer, meaning(&answer, now), said, outbound)
    }

    fn render(&self, outbound: &OutboundMessage<'_>) -> Result<String, Failure> {
        Ok(format!("{:#}", self.payload(outbound)?))
    }
}

const CREDENTIALS: &str = "check `token`, and that its user may write to `topic`";
const TOPIC: &str = "check `topic`: this server does not allow it";
const URL: &str = "check `url`: it must be the server's address without the topic";

/// [The server's codes][1] begin with the status.
///
/// [1]: https://github.com/binwiederhier/ntfy/blob/main/server/errors.go
fn meaning(answer: &Answer, now: Timestamp) -> Meaning {
    match answer.members.get("code").as_u64().unwrap_or_default() {
        42_908 => Meaning::Limited(Some(until_midnight(now))),
        // An invalid topic, a topic that the server reserves.
        40_009 | 40_010 => Meaning::Misconfigured(TOPIC),
        _ => match answer.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Meaning::Misconfigured(CREDENTIALS),
            status if status.is_success() && answer.members.get("id").is_null() => Meaning::Odd,
            status => Meaning::of(status, URL),
        },
    }
}

/// The daily quota of messages begins again at midnight UTC.
fn until_midnight(now: Timestamp) -> Duration {
    const DAY: i64 = 24 * 60 * 60 * 1000;
    Duration::from_millis(DAY.saturating_sub(now.0.rem_euclid(DAY)).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_a_meaning() {
        let now: Timestamp = "2026-09-21T23:00:00Z".parse().unwrap();
        for (status, body, expected) in [
            (200, r#"{"id":"a","event":"message"}"#, Meaning::Accepted),
            (200, "<html>", Meaning::Odd),
            (
                401,
                r#"{"code":40101,"http":401,"error":"unauthorized"}"#,
                Meaning::Misconfigured(CREDENTIALS),
            ),
            (
                403,
                r#"{"code":40301,"http":403,"error":"forbidden"}"#,
                Meaning::Misconfigured(CREDENTIALS),
            ),
            (
                400,
                r#"{"code":40009,"http":400,"error":"invalid topic"}"#,
                Meaning::Misconfigured(TOPIC),
            ),
            (
                400,
                r#"{"code":40010,"http":400,"error":"topic not allowed"}"#,
                Meaning::Misconfigured(TOPIC),
            ),
            (400, r#"{"code":40024,"http":400,"error":"…"}"#, Meaning::Refused),
            (404, "404 page not found", Meaning::Misconfigured(URL)),
            (413, r#"{"code":41301,"http":413}"#, Meaning::Refused),
            (
                429,
                r#"{"code":42901,"http":429,"error":"too many requests"}"#,
                Meaning::Limited(None),
            ),
            (
                429,
                r#"{"code":42908,"http":429,"error":"daily message quota reached"}"#,
                Meaning::Limited(Some(Duration::from_secs(3_600))),
            ),
            (507, r#"{"code":50701,"http":507}"#, Meaning::Busy),
            (502, "", Meaning::Busy),
        ] {
            let answer = Answer::new(StatusCode::from_u16(status).unwrap(), body);
            assert_eq!(meaning(&answer, now), expected, "{status} {body}");
        }
    }
}
