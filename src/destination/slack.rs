//! Slack: an incoming webhook, or `chat.postMessage` with a bot token, which also supports threads.
//!
//! An incoming webhook does not support an idempotency key. `chat.postMessage` has `client_msg_id`, which is derived
//! from the delivery id here. Slack mentions it only in its list of errors, so it makes duplicates less likely but
//! does not exclude them.

use deserr::Deserr;
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use serde_json::{Value, json};
use sha2::Digest as _;
use tokio::time::Instant;
use url::Url;

use super::http::{Answer, Client, address, parse_url};
use super::{BuildContext, Delivered, Destination, Failure, Joins, Kind, OutboundMessage};
use crate::mask::Mask;
use crate::model::delivery::DeliveryId;
use crate::model::lint::{self, Lint};
use crate::model::secret::{Secret, Secrets};
use crate::model::setting::Errors;
use crate::template::Template;

mod answer;
mod joined;
mod mrkdwn;
mod payload;

use answer::Remedy;
use payload::Content;

const API: &str = "https://slack.com/api";

/// `kind = "slack"`: either `webhook_url`, or `token` and `channel`.
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The URL of an incoming webhook.
    #[deserr(default)]
    pub webhook_url: Option<Secrets>,
    /// A bot token (`xoxb-…`) with the scope `chat:write`.
    #[deserr(default)]
    pub token: Option<Secrets>,
    /// The id of the channel (`C0123ABCD`).
    #[deserr(default)]
    pub channel: Option<String>,
    /// The base of the Web API, for gateways and tests.
    #[deserr(default)]
    pub api_url: Option<String>,
    /// Whether each conversation has its own thread; only with `token`, where it is the default.
    #[deserr(default)]
    pub threads: Option<bool>,
}

/// Returns true if this is the id of a channel, a group, a direct conversation or a person.
fn is_id(channel: &str) -> bool {
    channel.len() >= 9
        && channel.starts_with(['C', 'G', 'D', 'U', 'W'])
        && channel
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}

impl Kind for Config {
    fn lints(&self) -> Vec<Lint> {
        let mut lints: Vec<Lint> = [
            lint::secret_url("webhook_url", self.webhook_url.as_ref()),
            lint::open_url("api_url", self.api_url.as_deref(), "the token"),
            lint::issued("token", self.token.as_ref()),
        ]
        .into_iter()
        .flatten()
        .collect();
        if self.channel.as_deref().is_some_and(|channel| !is_id(channel)) {
            let message = "is not a channel's id (C0123ABCD): copy it in Slack from the end of the channel's details; a \
                           channel may be renamed, and private ones are not found by name";
            lints.push(Lint::new("channel", message));
        }
        lints
    }

    /// Slack accepts one message per second and channel, and more in bursts.
    fn rate_default(&self) -> Option<f64> {
        Some(1.0)
    }

    fn build(&self, context: BuildContext<'_>) -> Result<Box<dyn Destination>, String> {
        Ok(Box::new(Slack::build(self, context)?))
    }
}

/// A Slack destination.
pub struct Slack {
    http: Client,
    timeout: Duration,
    template: Option<Template>,
    way: Way,
    mask: Mask,
}

enum Way {
    Webhook {
        url: Url,
    },
    Token {
        url: Url,
        token: Secret,
        channel: String,
        threads: bool,
    },
}

/// The parts that a request omits after Slack rejected it.
#[derive(Clone, Copy, Default)]
struct Without {
    blocks: bool,
    thread: bool,
    client_id: bool,
}

impl Slack {
    /// Builds the destination without a request.
    ///
    /// # Errors
    /// A sentence that names the missing or invalid key.
    pub fn build(config: &Config, context: BuildContext<'_>) -> Result<Self, String> {
        Ok(Self {
            http: context.http.clone(),
            timeout: context.timeout,
            template: context.template,
            mask: mask(config),
            way: way(config)?,
        })
    }

    fn content(&self, outbound: &OutboundMessage<'_>) -> Result<Content, Failure> {
        let template = outbound.template.or(self.template.as_ref());
        Content::new(outbound, template).map_err(|error| Failure::permanent(error.to_string()))
    }

    fn payload(&self, content: &Content, outbound: &OutboundMessage<'_>, without: Without) -> Value {
        let payload = if without.blocks {
            content.plain()
        } else {
            content.blocks()
        };
        self.addressed(payload, outbound, client_id([outbound.id]), without)
    }

    /// The payload for the channel and the thread of this message.
    fn addressed(
        &self,
        mut payload: Value,
        outbound: &OutboundMessage<'_>,
        client_id: uuid::Uuid,
        without: Without,
    ) -> Value {
        if let Way::Token { channel, threads, .. } = &self.way {
            payload["channel"] = json!(channel);
            if !without.client_id {
                payload["client_msg_id"] = json!(client_id);
            }
            if let Some(root) = outbound.thread.filter(|_| *threads && !without.thread) {
                payload["thread_ts"] = json!(root);
            }
        }
        payload
    }

    async fn post(&self, payload: &Value, deadline: Instant) -> Result<Answer, Failure> {
        let request = match &self.way {
            Way::Webhook { url } => self.http.request(Method::POST, url.clone()),
            Way::Token { url, token, .. } => self
                .http
                .request(Method::POST, url.clone())
                .bearer_auth(token.reveal()),
        };
        let request = request.header(http::header::CONTENT_TYPE, "application/json; charset=utf-8");
        self.http
            .ask(request.body(payload.to_string()), deadline, &self.mask)
            .await
    }

    /// The thread that this response started, if threads are used.
    fn thread_begun(
        &self,
        answer: &Answer,
        outbound: &OutboundMessage<'_>,
        without: Without,
    ) -> Option<String> {
        let begun = outbound.thread.is_none() || without.thread;
        match self.way {
            Way::Token { threads: true, .. } if begun => answer.members.get("ts").as_str().map(str::to_owned),
            _ => None,
        }
    }
}

#[async_trait]
impl Destination for Slack {
    fn address(&self) -> Option<String> {
        let (Way::Webhook { url } | Way::Token { url, .. }) = &self.way;
        address(url)
    }

    async fn deliver(&self, outbound: &OutboundMessage<'_>) -> Result<Delivered, Failure> {
        let content = self.content(outbound)?;
        self.send(outbound, |without| self.payload(&content, outbound, without))
            .await
    }

    /// With threads, only the messages of one conversation share a post, in its thread.
    fn joins(&self) -> Option<Joins> {
        Some(match &self.way {
            Way::Token { threads: true, .. } => Joins::Conversation,
            Way::Token { .. } | Way::Webhook { .. } => Joins::Any,
        })
    }

    fn fitting(&self, outbound: &[OutboundMessage<'_>]) -> usize {
        let contents = outbound.iter().map_while(|one| self.content(one).ok());
        joined::fitting(contents)
    }

    async fn deliver_joined(&self, outbound: &[OutboundMessage<'_>]) -> Result<Delivered, Failure> {
        let contents: Result<Vec<Content>, Failure> = outbound.iter().map(|one| self.content(one)).collect();
        let contents = contents?;
        let first = outbound
            .first()
            .ok_or_else(|| Failure::permanent("there is no message to send"))?;
        let id = client_id(outbound.iter().map(|one| one.id));
        self.send(first, |without| {
            let payload = match without.blocks {
                true => joined::plain(&contents),
                false => joined::blocks(&contents),
            };
            self.addressed(payload, first, id, without)
        })
        .await
    }

    fn render(&self, outbound: &OutboundMessage<'_>) -> Result<String, Failure> {
        let payload = self.payload(&self.content(outbound)?, outbound, Without::default());
        Ok(format!("{payload:#}"))
    }
}

impl Slack {
    /// Posts what `payload` returns, in the thread of this message.
    async fn send(
        &self,
        outbound: &OutboundMessage<'_>,
        payload: impl Fn(Without) -> Value + Send + Sync,
    ) -> Result<Delivered, Failure> {
        let deadline = Instant::now() + self.timeout;
        let mut without = Without::default();
        // Each rejection that can be avoided removes one part of the request, so the loop ends.
        loop {
            let answer = self.post(&payload(without), deadline).await?;
            if answer::accepted(&answer) {
                let thread = self.thread_begun(&answer, outbound, without);
                return Ok(Delivered {
                    detail: answer.status_line(),
                    thread,
                });
            }
            match answer::remedy(&answer) {
                Some(Remedy::Plain) if !without.blocks => without.blocks = true,
                Some(Remedy::Unthreaded) if !without.thread => without.thread = true,
                Some(Remedy::WithoutClientId) if !without.client_id => without.client_id = true,
                _ => {
                    let may_tell = |code: &str| self.mask.permits(code, Some(outbound.message));
                    return Err(answer::failure(&answer, may_tell));
                }
            }
        }
    }
}

/// Masks the secrets that a response could contain.
fn mask(config: &Config) -> Mask {
    let urls = config.webhook_url.iter().flat_map(Secrets::all);
    let urls = urls.filter_map(|url| Url::parse(url.reveal()).ok());
    let mask = urls.fold(Mask::default(), |mask, url| mask.url(&url));
    config.token.iter().fold(mask, Mask::secrets)
}

fn way(config: &Config) -> Result<Way, String> {
    match (&config.webhook_url, &config.token, &config.channel) {
        (Some(url), None, None) => {
            if config.threads == Some(true) {
                return Err(
                    "`threads` needs `token` and `channel`: a webhook does not return the id of its message"
                        .to_owned(),
                );
            }
            if config.api_url.is_some() {
                return Err(
                    "`api_url` is for `token`; a webhook has its whole address in `webhook_url`".to_owned(),
                );
            }
            Ok(Way::Webhook {
                url: parse_url("webhook_url", url.first()?.reveal())?,
            })
        }
        (None, Some(token), Some(channel)) => {
            let api = config.api_url.as_deref().unwrap_or(API).trim_end_matches('/');
            Ok(Way::Token {
                url: parse_url("api_url", &format!("{api}/chat.postMessage"))?,
                token: token.first()?.clone(),
                channel: channel.clone(),
                threads: config.threads.unwrap_or(true),
            })
        }
        (None, Some(_), None) => Err("`token` needs `channel`, the channel's id (`C0123ABCD`)".to_owned()),
        (None, None, _) => Err("either `webhook_url`, or `token` and `channel`, is needed".to_owned()),
        (Some(_), _, _) => Err("`webhook_url` has its channel: leave `token` and `channel` out".to_owned()),
    }
}

/// A UUID that is the same for every attempt at the same deliveries in one post.
fn client_id(ids: impl IntoIterator<Item = DeliveryId>) -> uuid::Uuid {
    let ids: Vec<String> = ids.into_iter().map(|id| id.to_string()).collect();
    let digest = sha2::Sha256::digest(ids.join(" "));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(toml: &str) -> Result<Way, String> {
        way(&crate::model::setting::from_toml(toml).unwrap())
    }

    #[test]
    fn webhook_and_token_exclude_each_other() {
        assert!(matches!(
            built("webhook_url = 'https://hooks.example/x'"),
            Ok(Way::Webhook { .. })
        ));
        assert!(matches!(
            built("token = 't'\nchannel = 'C1'"),
            Ok(Way::Token { threads: true, .. })
        ));
        for (toml, named) in [
            ("", "is needed"),
            ("channel = 'C1'", "is needed"),
            ("token = 't'", "`channel`"),
            ("webhook_url = 'https://hooks.example/x'\nchannel = 'C1'", "leave"),
            (
                "webhook_url = 'https://hooks.example/x'\nthreads = true",
                "`threads` needs",
            ),
            ("webhook_url = 'hooks.example'", "`webhook_url`"),
            ("token = 't'\nchannel = 'C1'\napi_url = 'x'", "`api_url`"),
        ] {
            let error = built(toml).err().unwrap_or_default();
            assert!(error.contains(named), "{toml}: {error}");
        }
    }

    #[test]
    fn the_client_id_is_the_same_at_every_attempt() {
        let id: DeliveryId = "00000000000000000000000000000007-1".parse().unwrap();
        let other: DeliveryId = "00000000000000000000000000000007-2".parse().unwrap();
        assert_eq!(client_id([id]), client_id([id]));
        assert_ne!(client_id([id]), client_id([other]));
        assert_ne!(client_id([id]), client_id([id, other]));
    }
}
