//! The HTTP client of all destinations. It limits time and size, and does not reveal secrets.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::{Failure, Scope};
use crate::http_client::{self, retry_after};
use crate::mask::{Mask, Reason};
use crate::model::message::{Message, dated};
use crate::model::secret;
use crate::resolver::Resolver;

mod members;

pub use members::Members;

/// Bytes read of a response if only its status matters.
const PLAIN_MAX: usize = 8 * 1024;

/// Bytes read of a response if its JSON members matter. Only the members are kept.
const MEMBERS_READ_MAX: usize = 1024 * 1024;

/// The size from which a response counts as long, in bytes. The buffer of the connection grows with the response up
/// to half a megabyte, so only [`LONG_AT_ONCE`] long responses are read at the same time. Others wait up to
/// [`LONG_WAIT`] and are then cut off.
const LONG: usize = 64 * 1024;
const LONG_AT_ONCE: usize = 16;
const LONG_WAIT: Duration = Duration::from_secs(1);

/// Bytes of the body that are kept unchanged.
const START_MAX: usize = 2 * 1024;

/// A client with our limits.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    resolver: Resolver,
    /// Permits for responses that are longer than [`LONG`].
    long: Arc<Semaphore>,
}

impl Client {
    /// Creates a client; clones share its connections.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new() -> Result<Self, String> {
        Self::with(Resolver::default())
    }

    /// Like `new`, with a resolver that is shared with others.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn with(resolver: Resolver) -> Result<Self, String> {
        http_client::builder(resolver.clone())
            .pool_idle_timeout(Duration::from_secs(60))
            .build()
            .map(|http| Self {
                http,
                resolver,
                long: Arc::new(Semaphore::new(LONG_AT_ONCE)),
            })
            .map_err(|error| format!("the HTTP client cannot be set up: {}", explain(error)))
    }

    /// The resolver for host names.
    #[must_use]
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// Starts a request.
    pub fn request(&self, method: http::Method, url: url::Url) -> reqwest::RequestBuilder {
        self.http.request(method, url)
    }

    /// Sends a request and reads the beginning of the response, both before `deadline`.
    ///
    /// # Errors
    /// A transient failure of the whole destination when there is no response. Any status counts as a response.
    pub async fn send(
        &self,
        request: reqwest::RequestBuilder,
        deadline: Instant,
        mask: &Mask,
    ) -> Result<Answer, Failure> {
        self.exchange(request, deadline, mask, PLAIN_MAX).await
    }

    /// Like `send`, for an API that responds with a JSON object: reads its members wherever they are in the response.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn ask(
        &self,
        request: reqwest::RequestBuilder,
        deadline: Instant,
        mask: &Mask,
    ) -> Result<Answer, Failure> {
        self.exchange(request, deadline, mask, MEMBERS_READ_MAX).await
    }

    async fn exchange(
        &self,
        request: reqwest::RequestBuilder,
        deadline: Instant,
        mask: &Mask,
        max: usize,
    ) -> Result<Answer, Failure> {
        let left = deadline.saturating_duration_since(Instant::now());
        let sent = request.timeout(left).send().await;
        let mut response = sent.map_err(|error| Failure::unreachable(unreached(error, mask)))?;
        let (start, members) = self.read(&mut response, max).await;
        Ok(Answer {
            status: response.status(),
            retry_after: retry_after(response.headers()),
            headers: response.headers().clone(),
            start,
            members,
        })
    }

    /// If the connection breaks, the part that was read is used, because the status is known.
    async fn read(&self, response: &mut reqwest::Response, max: usize) -> (String, Members) {
        let (mut start, mut members, mut read) = (Vec::new(), Members::default(), 0);
        let mut permit = None;
        while read < max {
            if read >= LONG && permit.is_none() {
                permit = match tokio::time::timeout(LONG_WAIT, self.long.acquire()).await {
                    Ok(Ok(permit)) => Some(permit),
                    Ok(Err(_)) | Err(_) => break,
                };
            }
            let Ok(Some(chunk)) = response.chunk().await else {
                break;
            };
            read += chunk.len();
            members.feed(&chunk);
            let room = START_MAX - start.len();
            start.extend_from_slice(&chunk[..chunk.len().min(room)]);
        }
        (String::from_utf8_lossy(&start).into_owned(), members)
    }
}

/// The response of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The delay from `Retry-After`.
    pub retry_after: Option<Duration>,
    /// All headers.
    pub headers: HeaderMap,
    /// The first 2 KiB of the body; less if the connection broke. Must be masked before it is shown.
    pub start: String,
    /// The members of the body, if it is a JSON object.
    pub members: Members,
}

impl Answer {
    /// A response with this body and without `Retry-After`.
    #[cfg(test)]
    pub fn new(status: StatusCode, body: &str) -> Self {
        let mut members = Members::default();
        members.feed(body.as_bytes());
        Self {
            status,
            retry_after: None,
            headers: HeaderMap::new(),
            start: body.to_owned(),
            members,
        }
    }

    /// The body as JSON, with its nested values; null if it is longer than what is kept of it, or no JSON.
    #[must_use]
    pub fn document(&self) -> serde_json::Value {
        serde_json::from_str(&self.start).unwrap_or_default()
    }

    /// The value of a header that is a number.
    #[must_use]
    pub fn number(&self, header: &str) -> Option<f64> {
        let number: f64 = self.headers.get(header)?.to_str().ok()?.trim().parse().ok()?;
        number.is_finite().then_some(number)
    }

    /// `HTTP 503 Service Unavailable`
    #[must_use]
    pub fn status_line(&self) -> String {
        format!("HTTP {}", self.status)
    }

    /// The status and the error message of the server, masked for `message`.
    #[must_use]
    pub fn reason(&self, mask: &Mask, message: &Message) -> Reason {
        let said = mask.excerpt(&self.start, Some(message));
        Reason::from(self.status_line()).quote(": ", &said)
    }

    /// A transient failure of the whole destination, to be retried after `Retry-After`.
    #[must_use]
    pub fn busy(&self, reason: impl Into<Reason>) -> Failure {
        // A 429 is a request for a pause, even if it does not say how long.
        let unsaid = (self.status == StatusCode::TOO_MANY_REQUESTS).then_some(Duration::ZERO);
        let retry_after = self.retry_after.or(unsaid);
        Failure::Transient {
            reason: reason.into(),
            retry_after,
            scope: Scope::Destination,
        }
    }

    /// A transient failure of this message only, for a status with no known meaning.
    #[must_use]
    pub fn odd(&self, reason: impl Into<Reason>) -> Failure {
        let retry_after = self.retry_after;
        Failure::Transient {
            reason: reason.into(),
            retry_after,
            scope: Scope::Message,
        }
    }
}

/// Parses the URL of a destination.
///
/// # Errors
/// A sentence that does not quote the URL, because many URLs contain a token.
pub fn parse_url(key: &str, text: &str) -> Result<url::Url, String> {
    let url = secret::parse_url(text).map_err(|error| format!("`{key}` is not a URL: {error}"))?;
    if matches!(url.scheme(), "http" | "https") && url.has_host() {
        Ok(url)
    } else {
        Err(format!("`{key}` must begin with `https://` or `http://`"))
    }
}

/// The host and port of a URL; the rest may contain a token.
#[must_use]
pub fn address(url: &url::Url) -> Option<String> {
    Some(match (url.host_str()?, url.port_or_known_default()) {
        (host, Some(port)) => format!("{host}:{port}"),
        (host, None) => host.to_owned(),
    })
}

fn unreached(error: reqwest::Error, mask: &Mask) -> String {
    let host = error
        .url()
        .and_then(address)
        .unwrap_or_else(|| "the destination".to_owned());
    if error.is_timeout() && !error.is_connect() {
        format!("{host} did not answer in time")
    } else if is_closed(&error) {
        format!("{host} closed the connection without an answer")
    } else {
        format!("cannot reach {host}: {}", mask.error(&explain(error)))
    }
}

/// Whether the connection ended after the request and before an answer.
fn is_closed(error: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        if let Some(error) = next.downcast_ref::<hyper::Error>() {
            return error.is_incomplete_message();
        }
        cause = next.source();
    }
    false
}

/// The innermost cause, which is what the operator can act on; the outer errors only state that a request was sent.
/// The URL is removed because it may be a secret.
fn explain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(next) = cause {
        words = next.to_string();
        cause = next.source();
    }
    dated(&words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_url_is_not_quoted() {
        for url in [
            "hooks.example/secret-token",
            "ftp://secret-token.example/",
            "https://",
        ] {
            let error = parse_url("webhook_url", url).unwrap_err();
            assert!(
                error.contains("webhook_url") && !error.contains("secret-token"),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn a_connection_that_is_closed_without_an_answer_is_told_so() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut request).await;
        });
        let client = Client::new().unwrap();
        let url = parse_url("url", &format!("http://{closed}/secret-token")).unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        let failure = client
            .send(
                client.request(http::Method::POST, url),
                deadline,
                &Mask::default(),
            )
            .await
            .unwrap_err();
        server.await.unwrap();
        assert_eq!(
            failure.reason().shown(),
            format!("{closed} closed the connection without an answer")
        );
    }

    #[tokio::test]
    async fn an_unreachable_host_is_named_but_not_its_path() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let client = Client::new().unwrap();
        let url = parse_url("url", &format!("http://{closed}/secret-token")).unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        let failure = client
            .send(
                client.request(http::Method::POST, url),
                deadline,
                &Mask::default(),
            )
            .await
            .unwrap_err();
        assert!(
            matches!(
                failure,
                Failure::Transient {
                    scope: Scope::Destination,
                    ..
                }
            ),
            "{failure:?}"
        );
        assert!(
            failure
                .reason()
                .shown()
                .starts_with(&format!("cannot reach {closed}: ")),
            "{failure:?}"
        );
        assert!(!failure.reason().shown().contains("secret-token"), "{failure:?}");
    }
}
