//! The HTTP client for all outgoing requests: destinations, carrier APIs and commands.

use std::error::Error as _;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;

use crate::model::message::dated;
use crate::resolver::Resolver;
use crate::retry;

/// Time limit for the TCP and TLS handshakes, within the caller's timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns a builder for a client that follows no redirects (a redirected POST may lose its body, and a token would
/// be sent to a host that is not configured) and ignores `http_proxy` and similar variables, so that only the
/// configuration decides where requests go.
pub fn builder(resolver: Resolver) -> reqwest::ClientBuilder {
    // Fails only if a default was installed before, which is equally good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .user_agent(concat!("smsbridge/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        // The resolver of the runtime would keep the process from ending.
        .dns_resolver(resolver)
}

/// The delay that a response asks for, in seconds or as a date.
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    retry::retry_after(value, SystemTime::now())
}

/// Reads a body of at most `max` bytes.
///
/// # Errors
/// The reason, if it is longer or the connection breaks.
pub async fn body(mut response: reqwest::Response, max: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(reason)? {
        if body.len() + chunk.len() > max {
            return Err(format!("the answer is longer than {max} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// An error with its causes, which its own message ("error sending request") omits. The URL is removed, because it may
/// be a secret.
#[must_use]
pub fn reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        reason = format!("{reason}: {error}");
        cause = error.source();
    }
    dated(&reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let asked = |value: String| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            retry_after(&headers)
        };
        assert_eq!(asked("30".to_owned()), Some(Duration::from_secs(30)));
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(60));
        let pause = asked(date).unwrap();
        assert!((58..=60).contains(&pause.as_secs()), "{pause:?}");
        assert_eq!(asked("soon".to_owned()), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
