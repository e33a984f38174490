//! A [matrix-hookshot generic webhook][1]: no token, no threads, no idempotency key.
//!
//! matrix-hookshot responds before it has sent the event (unless it runs with `waitForComplete`), so "delivered"
//! means that matrix-hookshot has accepted the message.
//!
//! [1]: https://matrix-org.github.io/matrix-hookshot/latest/setup/webhooks.html

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;
use url::Url;

use super::super::http::{Answer, Client};
use super::super::{Delivered, Failure, OutboundMessage};
use super::content::{Words, Written};
use crate::mask::Mask;

/// A webhook of matrix-hookshot.
pub struct Hookshot {
    /// The HTTP client.
    pub http: Client,
    /// The URL of the webhook; a secret.
    pub url: Url,
    /// Masks the URL.
    pub mask: Mask,
    /// The sender's name to show.
    pub username: Option<String>,
}

impl Hookshot {
    /// Posts one message.
    pub async fn deliver(
        &self,
        outbound: &OutboundMessage<'_>,
        words: &Words,
        deadline: Instant,
    ) -> Result<Delivered, Failure> {
        let payload = self.payload(outbound, words)?;
        let answer = self
            .http
            .send(
                self.http.request(Method::POST, self.url.clone()).json(&payload),
                deadline,
                &self.mask,
            )
            .await?;
        judge(&answer)
    }

    /// Always contains `html`: without it matrix-hookshot interprets `text` as Markdown, and a message could contain
    /// links.
    pub fn payload(&self, outbound: &OutboundMessage<'_>, words: &Words) -> Result<Value, Failure> {
        words.fit(outbound, |written: &Written| {
            let mut payload = json!({ "text": quiet(&written.body), "html": quiet(&written.formatted) });
            if let Some(username) = &self.username {
                payload["username"] = json!(username);
            }
            payload
        })
    }
}

/// matrix-hookshot sets `m.mentions` itself, so a word joiner is inserted into `@room`.
fn quiet(text: &str) -> String {
    text.replace("@room", "@\u{2060}room")
}

fn judge(answer: &Answer) -> Result<Delivered, Failure> {
    let said = format!("matrix-hookshot says {}", answer.status_line());
    Err(match answer.status {
        status if status.is_success() => {
            return Ok(Delivered {
                detail: said,
                thread: None,
            });
        }
        StatusCode::TOO_MANY_REQUESTS => answer.busy(said),
        status if status.is_server_error() => answer.busy(said),
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
            Failure::permanent(said)
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::GONE => {
            Failure::parked(format!(
                "{said}: check `webhook_url`, the webhook may have been removed"
            ))
        }
        status if status.is_redirection() => {
            Failure::parked(format!("{said}: redirects are not followed, check `webhook_url`"))
        }
        _ => answer.odd(said),
    })
}
