//! One call to the API: bounded in time, size and repetitions.

use std::error::Error as _;
use std::time::Duration;

use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::Value;

use super::mask_url;
use crate::http_client::retry_after;
use crate::mask::{Mask, Reason};
use crate::message::dated;

/// How often a request is sent at most.
const ATTEMPTS_MAX: u32 = 4;

/// The longest wait between two attempts, also when the API asks for more: somebody is watching a terminal.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// For one attempt.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The longest answer that is read, in bytes: fifty numbers' take a few dozen kilobytes.
const BODY_MAX: usize = 1024 * 1024;

/// Why there is no answer about any number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The API is not there, or fails, after all attempts.
    Unreachable(Reason),
    /// `username` and `password` are wrong.
    Credentials(Reason),
    /// It answered with something undocumented.
    Token(Reason),
}

impl Error {
    /// For the log and for the operator.
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

/// An answer that is final, whatever it says.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Nothing when the body is not JSON: then somebody else answered, a proxy or a wrong host.
    pub(super) body: Option<Value>,
    /// Hides what was sent.
    pub(super) mask: Mask,
}

impl Answer {
    /// Whether each number has an answer of its own.
    pub(super) fn tells_apart(&self) -> bool {
        self.status == StatusCode::MULTI_STATUS
    }
}

/// A request that may be sent again: all of this API's are harmless when repeated.
pub(super) struct Call<F> {
    pub(super) request: F,
    /// Hides what it sends.
    pub(super) mask: Mask,
    pub(super) backoff: Duration,
}

/// How one attempt failed, and how long the API asked to be left alone.
struct Failed {
    reason: String,
    retry_after: Option<Duration>,
}

impl<F: Fn() -> RequestBuilder> Call<F> {
    /// Sends until there is an answer other than 429 or 5xx.
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
        let response = (self.request)().timeout(TIMEOUT).send().await?;
        let status = response.status();
        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            return Err(Failed {
                reason: format!("HTTP {status}"),
                retry_after: retry_after(response.headers()),
            });
        }
        let body = read(response).await?;
        Ok(Answer {
            status,
            body: serde_json::from_slice(&body).ok(),
            mask: self.mask.clone(),
        })
    }
}

async fn read(mut response: Response) -> Result<Vec<u8>, Failed> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > BODY_MAX {
            return Err(Failed {
                reason: format!("its answer is longer than {BODY_MAX} bytes"),
                retry_after: None,
            });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// reqwest's own words stop before the cause ("error sending request"); the cause is what helps.
impl From<reqwest::Error> for Failed {
    fn from(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let mut reason = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            reason = format!("{reason}: {error}");
            cause = error.source();
        }
        Self {
            reason: mask_url(&dated(&reason)),
            retry_after: None,
        }
    }
}
