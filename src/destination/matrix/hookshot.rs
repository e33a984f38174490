//! A [matrix-hookshot generic webhook][1]: no token, no threads, no idempotency key.
//!
//! It answers before it has written into the room (unless it runs with `waitForComplete`), so a delivery here
//! means that matrix-hookshot has it.
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

/// One webhook of matrix-hookshot.
pub struct Hookshot {
    /// The client.
    pub http: Client,
    /// The webhook; a secret.
    pub url: Url,
    /// Hides the webhook.
    pub mask: Mask,
    /// The name to show.
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

    /// Always with `html`: without it matrix-hookshot reads `text` as Markdown, and a text could make links.
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

/// matrix-hookshot decides about `m.mentions`, not we: a word joiner keeps `@room` from being the keyword.
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
