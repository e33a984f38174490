//! Discord: a [webhook][1] of a channel.
//!
//! A webhook has no idempotency key. With `wait=true` Discord answers after the message is saved; without it, a message
//! that was not saved would count as delivered.
//!
//! [1]: https://discord.com/developers/docs/resources/webhook#execute-webhook

use async_trait::async_trait;
use deserr::Deserr;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use url::Url;

use super::http::{Answer, address, parse_url};
use super::service::{Meaning, Service, seconds};
use super::wording::{Limit, Unit};
use super::{BuildContext, Delivered, Destination, Failure, Kind, OutboundMessage};
use crate::mask::Mask;
use crate::model::lint::{self, Lint};
use crate::model::secret::Secrets;
use crate::model::setting::Errors;
use crate::template::{Medium, visible};

const CONTENT: Limit = Limit {
    max: 2_000,
    unit: Unit::Utf16,
};

/// Shows no preview of links.
const SUPPRESS_EMBEDS: u32 = 1 << 2;

/// `kind = "discord"`
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The URL of the webhook. A secret, because it contains the token.
    pub webhook_url: Secrets,
    /// The id of a thread in the webhook's channel.
    #[deserr(default)]
    pub thread_id: Option<String>,
}

impl Kind for Config {
    fn lints(&self) -> Vec<Lint> {
        lint::secret_url("webhook_url", Some(&self.webhook_url))
            .into_iter()
            .collect()
    }

    /// Discord accepts five messages in two seconds, and fewer over a longer time.
    fn rate_default(&self) -> Option<f64> {
        Some(1.0)
    }

    fn build(&self, context: BuildContext<'_>) -> Result<Box<dyn Destination>, String> {
        let mut url = parse_url("webhook_url", self.webhook_url.first()?.reveal())?;
        let mask = Mask::default().url(&url).secrets(&self.webhook_url);
        url.query_pairs_mut().append_pair("wait", "true");
        if let Some(id) = &self.thread_id {
            if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err("`thread_id` is not an id: turn on Discord's developer mode, and copy it from the thread's \
                            menu"
                    .to_owned());
            }
            url.query_pairs_mut().append_pair("thread_id", id);
        }
        Ok(Box::new(Discord {
            service: Service::new(context, mask),
            url,
        }))
    }
}

struct Discord {
    service: Service,
    url: Url,
}

impl Discord {
    fn payload(&self, outbound: &OutboundMessage<'_>) -> Result<Value, Failure> {
        let wording = self
            .service
            .wording(outbound, Medium::Markup(escape), |link| format!("<{link}>"))?;
        Ok(json!({
            "content": wording.whole(CONTENT),
            "allowed_mentions": { "parse": [] },
            "flags": SUPPRESS_EMBEDS,
        }))
    }
}

#[async_trait]
impl Destination for Discord {
    fn address(&self) -> Option<String> {
        address(&self.url)
    }

    async fn deliver(&self, outbound: &OutboundMessage<'_>) -> Result<Delivered, Failure> {
        let request = self.service.http.request(Method::POST, self.url.clone());
        let request = request.json(&self.payload(outbound)?);
        let answer = self.service.ask(request, self.service.deadline()).await?;
        let said = answer.members.get("message").as_str().unwrap_or(&answer.start);
        self.service.conclude(&answer, meaning(&answer), said, outbound)
    }

    fn render(&self, outbound: &OutboundMessage<'_>) -> Result<String, Failure> {
        Ok(format!("{:#}", self.payload(outbound)?))
    }
}

/// Characters that have a meaning in Discord's Markdown, or make an address a link.
const MARKED: &str = "\\`*_~|[](){}<>#+-.:/!@=";

/// A backslash before each character that could format, mention or link.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + text.len() / 8);
    for character in visible(text).chars() {
        if MARKED.contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

const REMOVED: &str =
    "the webhook was removed or its token changed: make a new one, and replace `webhook_url`";
const THREAD: &str =
    "check `thread_id`: the thread must be in the webhook's channel and not locked; a forum needs one";

fn meaning(answer: &Answer) -> Meaning {
    let code = answer.members.get("code").as_u64().unwrap_or_default();
    match (answer.status, code) {
        (StatusCode::TOO_MANY_REQUESTS, _) => {
            let asked = answer.members.get("retry_after").as_f64();
            Meaning::Limited(
                asked
                    .or(answer.number("x-ratelimit-reset-after"))
                    .and_then(seconds),
            )
        }
        // Unknown channel, wrong kind of channel, locked thread, archived thread, forum without a thread.
        (_, 10_003 | 50_024 | 160_005 | 50_083 | 220_001) => Meaning::Misconfigured(THREAD),
        // Unknown webhook, invalid token of a webhook.
        (_, 10_015 | 50_027) => Meaning::Misconfigured(REMOVED),
        (status, _) => Meaning::of(status, REMOVED),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn answers_have_a_meaning() {
        for (status, body, expected) in [
            (200, r#"{"id":"1"}"#, Meaning::Accepted),
            (204, "", Meaning::Accepted),
            (
                404,
                r#"{"message":"Unknown Webhook","code":10015}"#,
                Meaning::Misconfigured(REMOVED),
            ),
            (
                401,
                r#"{"message":"Invalid Webhook Token","code":50027}"#,
                Meaning::Misconfigured(REMOVED),
            ),
            (403, "", Meaning::Misconfigured(REMOVED)),
            (
                404,
                r#"{"message":"Unknown Channel","code":10003}"#,
                Meaning::Misconfigured(THREAD),
            ),
            (
                400,
                r#"{"message":"…","code":220001}"#,
                Meaning::Misconfigured(THREAD),
            ),
            (
                400,
                r#"{"message":"Cannot send an empty message","code":50006}"#,
                Meaning::Refused,
            ),
            (
                400,
                r#"{"message":"Invalid Form Body","code":50035}"#,
                Meaning::Refused,
            ),
            (
                429,
                r#"{"message":"You are being rate limited.","retry_after":1.5,"global":false}"#,
                Meaning::Limited(Some(Duration::from_millis(1_500))),
            ),
            (429, "error code: 1015", Meaning::Limited(None)),
            (500, "", Meaning::Busy),
        ] {
            let answer = Answer::new(StatusCode::from_u16(status).unwrap(), body);
            assert_eq!(meaning(&answer), expected, "{status} {body}");
        }
    }

    #[test]
    fn nothing_is_markdown() {
        for (text, escaped) in [
            ("**a** [b](c)", "\\*\\*a\\*\\* \\[b\\]\\(c\\)"),
            ("<@1> www.a.example", "\\<\\@1\\> www\\.a\\.example"),
            ("1. x\n# y", "1\\. x\n\\# y"),
            ("a\\b, c; 50 % \"d\"", "a\\\\b, c; 50 % \"d\""),
        ] {
            assert_eq!(escape(text), escaped);
        }
    }

    #[test]
    fn the_pause_is_read_from_the_headers_if_the_body_has_none() {
        let mut answer = Answer::new(StatusCode::TOO_MANY_REQUESTS, "");
        answer
            .headers
            .insert("x-ratelimit-reset-after", "2.5".parse().unwrap());
        assert_eq!(
            meaning(&answer),
            Meaning::Limited(Some(Duration::from_millis(2_500)))
        );
    }
}
