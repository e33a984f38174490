//! The HTTP client of everything that calls out: destinations, carriers' APIs, and the commands.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;

use crate::resolver::Resolver;
use crate::retry;

/// For the TCP and TLS handshake, within the caller's own timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Begins a client. It follows no redirect (a redirected POST may lose its body, and a token would go to a host that is
/// not configured) and ignores `http_proxy` and its kin: all that is used is in the configuration.
pub fn builder(resolver: Resolver) -> reqwest::ClientBuilder {
    // There may be only one default for the process; one that was set before is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .user_agent(concat!("smsbridge/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        // The runtime's own lookups would keep a process from ending.
        .dns_resolver(resolver)
}

/// The pause that an answer asks for, in seconds or as a date.
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    retry::retry_after(value, SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_asked_for_in_seconds_or_as_a_date() {
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
