//! Gotify: an [application's message][1] on a server of your own.
//!
//! [1]: https://gotify.net/docs/pushmsg

use async_trait::async_trait;
use deserr::Deserr;
use http::Method;
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
use crate::model::units::{Bounded, some};
use crate::template::Medium;

/// Gotify documents no limit; phones show only the beginning.
const MESSAGE: Limit = Limit {
    max: 16_000,
    unit: Unit::Characters,
};

const TITLE: Limit = Limit {
    max: 250,
    unit: Unit::Characters,
};

/// `kind = "gotify"`
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The server.
    pub url: String,
    /// The token of an application.
    pub token: Secrets,
    /// From 0 (nothing) to 10; by default that of the application.
    #[deserr(default, from(Bounded<0, 10>) = some)]
    pub priority: Option<u16>,
}

impl Kind for Config {
    fn lints(&self) -> Vec<Lint> {
        [
            lint::open_url("url", Some(&self.url), "the token"),
            lint::issued("token", Some(&self.token)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn build(&self, context: BuildContext<'_>) -> Result<Box<dyn Destination>, String> {
        let base = self.url.trim_end_matches('/');
        Ok(Box::new(Gotify {
            url: parse_url("url", &format!("{base}/message"))?,
            token: self.token.first()?.clone(),
            priority: self.priority,
            service: Service::new(context, Mask::default().secrets(&self.token)),
        }))
    }
}

struct Gotify {
    service: Service,
    url: Url,
    token: Secret,
    priority: Option<u16>,
}

impl Gotify {
    fn payload(&self, outbound: &OutboundMessage<'_>) -> Result<Value, Failure> {
        let wording = self.service.wording(outbound, Medium::Text, str::to_owned)?;
        let mut payload = json!({
            "title": TITLE.cut(&wording.header, "…"),
            "message": wording.body(MESSAGE),
            "extras": { "client::display": { "contentType": "text/plain" } },
        });
        if let Some(priority) = self.priority {
            payload["priority"] = json!(priority);
        }
        Ok(payload)
    }
}

#[async_trait]
impl Destination for Gotify {
    fn address(&self) -> Option<String> {
        address(&self.url)
    }

    async fn deliver(&self, outbound: &OutboundMessage<'_>) -> Result<Delivered, Failure> {
        let request = self.service.http.request(Method::POST, self.url.clone());
        let request = request
            .header("X-Gotify-Key", self.token.reveal())
            .json(&self.payload(outbound)?);
        let answer = self.service.ask(request, self.service.deadline()).await?;
        let said = answer
            .members
            .get("errorDescription")
            .as_str()
            .unwrap_or(&answer.start);
        self.service.conclude(&answer, meaning(&answer), said, outbound)
    }

    fn render(&self, outbound: &OutboundMessage<'_>) -> Result<String, Failure> {
        Ok(format!("{:#}", self.payload(outbound)?))
    }
}

const ADVICE: &str = "check `url`, and that `token` is the token of an application (not of a client)";

fn meaning(answer: &Answer) -> Meaning {
    match answer.status {
        status if status.is_success() && answer.members.get("id").is_null() => Meaning::Odd,
        status => Meaning::of(status, ADVICE),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn answers_have_a_meaning() {
        for (status, body, expected) in [
            (200, r#"{"id":25,"appid":1}"#, Meaning::Accepted),
            (200, "<html>", Meaning::Odd),
            (
                400,
                r#"{"error":"Bad Request","errorCode":400}"#,
                Meaning::Refused,
            ),
            (
                401,
                r#"{"error":"Unauthorized","errorCode":401}"#,
                Meaning::Misconfigured(ADVICE),
            ),
            (403, "", Meaning::Misconfigured(ADVICE)),
            (404, "", Meaning::Misconfigured(ADVICE)),
            (429, "", Meaning::Limited(None)),
            (
                500,
                r#"{"error":"Internal Server Error","errorCode":500}"#,
                Meaning::Busy,
            ),
        ] {
            let answer = Answer::new(StatusCode::from_u16(status).unwrap(), body);
            assert_eq!(meaning(&answer), expected, "{status} {body}");
        }
    }
}
