//! Calls the API with limits for time, size and retries.

use std::time::Duration;

use reqwest::{RequestBuilder, StatusCode};
use serde_json::Value;

use super::mask_url;
use crate::http_client::{self, retry_after};
use crate::mask::{Mask, Reason};

/// Upper bound of the attempts for one request.
const ATTEMPTS_MAX: u32 = 4;

/// Upper bound of the delay between two attempts, even if the API asks for a longer one: an operator waits at a
/// terminal.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Time limit of one attempt.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Upper bound of a response, in bytes. The response for fifty numbers takes a few dozen kilobytes.
const BODY_MAX: usize = 1024 * 1024;

/// Why there is no result for any number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The API is unreachable or fails after all attempts.
    Unreachable(Reason),
    /// `username` and `password` are wrong.
    Credentials(Reason),
    /// The response has an undocumented format.
    Token(Reason),
}

impl Error {
    /// For the log and the operator.
    #[must_use]
    pub fn reason(&self) -> Reason {
        let (what, why) = match self {
            Self::Unreachable(why) => ("the provider's API did not answer usably: ", why),
            Self::Credentials(why) => ("the provider refused `api.username` and `api.password`: ", why),
            Self::Token(why) => ("the provider's API gave no token: ", why),
        };
        Reason::from(what).and(why)
    }
}

/// A final response, with any status.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// `None` if the body is not JSON; then it comes from a proxy or a wrong host.
    pub(super) body: Option<Value>,
    /// Masks the secrets that were sent.
    pub(super) mask: Mask,
}

impl Answer {
    /// Returns true if each number has its own response.
    pub(super) fn tells_apart(&self) -> bool {
        self.status == StatusCode::MULTI_STATUS
    }
}

/// A request that may be retried: all requests of this API are idempotent.
pub(super) struct Call<F> {
    pub(super) request: F,
    /// Masks the secrets that it sends.
    pub(super) mask: Mask,
    pub(super) backoff: Duration,
}

/// Why one attempt failed, and the delay that the API asked for.
struct Failed {
    reason: String,
    retry_after: Option<Duration>,
}

impl<F: Fn() -> RequestBuilder> Call<F> {
    /// Retries until there is a response other than 429 or 5xx.
    pub(super) async fn answer(&self) -> Result<Answer, Error> {
        let mut attempt = 0;
        loop {
            let failed = match self.attempt().await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            attempt += 1;
            if attempt == ATTEMPTS_MAX {
                let reason = format!("{} ({ATTEMPTS_MAX} attempts)", self.mask.error(&failed.reason));
                return Err(Error::Unreachable(reason.into()));
            }
            let backoff = self.backoff.saturating_mul(1 << (attempt - 1));
            let wait = failed.retry_after.unwrap_or_default().max(backoff);
            let reason = self.mask.error(&failed.reason);
            tracing::debug!(attempt, reason, "asking the provider's API again");
            tokio::time::sleep(wait.min(WAIT_MAX)).await;
        }
    }

    async fn attempt(&self) -> Result<Answer, Failed> {
        let response = (self.request)()
            .timeout(TIMEOUT)
            .send()
            .await
            .map_err(http_client::reason)?;
        let status = response.status();
        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            return Err(Failed {
                reason: format!("HTTP {status}"),
                retry_after: retry_after(response.headers()),
            });
        }
        let body = http_client::body(response, BODY_MAX).await?;
        Ok(Answer {
            status,
            body: serde_json::from_slice(&body).ok(),
            mask: self.mask.clone(),
        })
    }
}

impl From<String> for Failed {
    fn from(reason: String) -> Self {
        Self {
            reason: mask_url(&reason),
            retry_after: None,
        }
    }
}
