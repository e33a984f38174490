//! Calls to the SNS host: fetches certificates, and confirms the subscription.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use reqwest::StatusCode;
use url::Url;

use super::envelope::Envelope;
use super::is_raw;
use super::limits::FetchLimits;
use super::subscription::Subscription;
use super::topic::Topic;
use crate::http_client;
use crate::model::message::Name;
use crate::resolver::Resolver;
use crate::source::verify::CertifiedKey;
use crate::source::{Exchange, Request};

/// Time limit of one call: SNS waits 15 seconds for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Upper bound of a certificate, in bytes. AWS' take 2 KiB.
const CERTIFICATE_MAX: usize = 16 * 1024;

/// Upper bound of the certificates that are kept. AWS replaces its certificate about once a year.
const CERTIFICATES_MAX: usize = 8;

/// Delay after a failed fetch. Requests are not verified at this point, so without it anyone could make the bridge call
/// AWS repeatedly.
const PAUSE: Duration = Duration::from_secs(1);

/// Delay after the host answered that there is no such certificate. Shorter than the interval in which SNS repeats a
/// request.
const PAUSE_ABSENT: Duration = Duration::from_secs(15);

/// The SNS host of one region.
pub(super) struct Host {
    source: Name,
    topic: Arc<Topic>,
    subscription: Arc<Subscription>,
    api_url: Option<Url>,
    client: reqwest::Client,
    keys: Mutex<Vec<Key>>,
    limits: Mutex<FetchLimits>,
    /// One lock for each path that is being fetched, so that it is fetched once.
    fetching: Mutex<BTreeMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

/// The key of a certificate that was fetched.
struct Key {
    path: String,
    key: CertifiedKey,
    /// True once a request to this source was signed with it.
    is_used: bool,
}

/// A failed call.
struct Failure {
    why: String,
    /// How long not to repeat it.
    pause: Duration,
}

impl Failure {
    fn new(pause: Duration, why: impl Into<String>) -> Self {
        let why = why.into();
        Self { why, pause }
    }
}

impl Host {
    /// `api_url` replaces the host.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(super) fn new(
        source: Name,
        (topic, subscription): (Arc<Topic>, Arc<Subscription>),
        api_url: Option<Url>,
        resolver: &Resolver,
    ) -> Result<Self, String> {
        let client = http_client::builder(resolver.clone())
            .timeout(TIMEOUT)
            .build()
            .map_err(|error| format!("the HTTP client cannot be set up: {error}"))?;
        Ok(Self {
            source,
            topic,
            subscription,
            api_url,
            client,
            keys: Mutex::default(),
            limits: Mutex::default(),
            fetching: Mutex::default(),
        })
    }

    /// The key of a certificate that was fetched.
    pub(super) fn key(&self, url: &Url) -> Option<CertifiedKey> {
        let keys = lock(&self.keys);
        let found = keys.iter().find(|key| key.path == url.path());
        found.map(|found| found.key.clone())
    }

    /// Notes that a request was signed with the key of this certificate, so that unverified requests cannot displace it.
    pub(super) fn used(&self, url: &Url) {
        let mut keys = lock(&self.keys);
        if let Some(found) = keys.iter_mut().find(|key| key.path == url.path()) {
            found.is_used = true;
        }
    }

    fn keep(&self, url: &Url, key: CertifiedKey) {
        let mut keys = lock(&self.keys);
        if keys.len() >= CERTIFICATES_MAX {
            let unused = keys.iter().position(|key| !key.is_used);
            keys.remove(unused.unwrap_or(0));
        }
        keys.push(Key {
            path: url.path().to_owned(),
            key,
            is_used: false,
        });
    }

    /// The lock of this path.
    fn turn(&self, path: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetching = lock(&self.fetching);
        if let Some(turn) = fetching.get(path).and_then(Weak::upgrade) {
            return turn;
        }
        fetching.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        fetching.insert(path.to_owned(), Arc::downgrade(&turn));
        turn
    }

    /// The URL of the certificate that this request names, if it has not been fetched. Without a usable URL the request
    /// is rejected anyway.
    fn missing(&self, request: &Request<'_>) -> Option<Url> {
        let envelope = Envelope::read(request.body).filter(|_| !is_raw(request))?;
        let url = self.topic.certificate(&envelope.signing_cert_url)?;
        (envelope.topic_arn == self.topic.arn() && self.key(&url).is_none()).then_some(url)
    }

    async fn fetch(&self, url: &Url) -> Result<CertifiedKey, Failure> {
        let pem = self.get(url).await?;
        CertifiedKey::of_pem(&pem)
            .ok_or_else(|| Failure::new(PAUSE_ABSENT, "the answer is not a certificate"))
    }

    /// The body of a successful answer.
    async fn get(&self, url: &Url) -> Result<Vec<u8>, Failure> {
        let failed = |error| Failure::new(PAUSE, reason(&error));
        let mut at = url.clone();
        if let Some(api_url) = &self.api_url {
            at = api_url.clone();
            at.set_path(url.path());
            at.set_query(url.query());
        }
        let mut response = self.client.get(at).send().await.map_err(failed)?;
        let status = response.status();
        if status != StatusCode::OK {
            let is_absent = matches!(status, StatusCode::NOT_FOUND | StatusCode::FORBIDDEN);
            let pause = if is_absent { PAUSE_ABSENT } else { PAUSE };
            return Err(Failure::new(pause, format!("HTTP {status}")));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > CERTIFICATE_MAX {
                let why = format!("the answer is over {CERTIFICATE_MAX} bytes");
                return Err(Failure::new(PAUSE_ABSENT, why));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

#[async_trait]
impl Exchange for Host {
    async fn prepare(&self, request: &Request<'_>) -> Result<(), String> {
        let Some(url) = self.missing(request) else {
            return Ok(());
        };
        let turn = self.turn(url.path());
        let _turn = turn.lock().await;
        if self.key(&url).is_some() {
            return Ok(());
        }
        lock(&self.limits).permit(url.path(), request.client, Instant::now())?;
        match self.fetch(&url).await {
            Ok(key) => self.keep(&url, key),
            Err(Failure { why, pause }) => {
                lock(&self.limits).failed(url.path(), pause, Instant::now());
                return Err(format!("the certificate of SNS cannot be fetched: {why}"));
            }
        }
        Ok(())
    }

    async fn confirm(&self, url: &Url) -> Result<(), String> {
        let confirmed = self.get(url).await;
        confirmed.map_err(|failure| {
            format!(
                "the subscription cannot be confirmed: {}; if SNS gives up, request the confirmation again in the AWS console",
                failure.why
            )
        })?;
        self.subscription.note_confirmed();
        let (source, topic) = (&self.source, self.topic.arn());
        tracing::info!(%source, "confirmed the subscription of source {source} to topic {topic}");
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The innermost cause. The URL is left out, because it contains the token of the subscription.
fn reason(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    while let Some(inner) = cause.and_then(std::error::Error::source) {
        cause = Some(inner);
    }
    match cause {
        Some(cause) => cause.to_string(),
        None if error.is_timeout() => "no answer in time".to_owned(),
        None => "no answer".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &[u8] =
        include_bytes!("../../../tests/fixtures/sns/SimpleNotificationService-0000000000000000000000.pem");

    #[test]
    fn unverified_requests_displace_no_key_that_was_used() {
        let arn = "arn:aws:sns:us-east-1:123456789012:inbound-sms";
        let topic = Arc::new(Topic::parse(arn).unwrap());
        let about = (topic, Arc::default());
        let host = Host::new("aws".parse().unwrap(), about, None, &Resolver::default()).unwrap();
        let url = |name: usize| Url::parse(&format!("https://sns.invalid/{name:x}.pem")).unwrap();
        let key = CertifiedKey::of_pem(CERTIFICATE).unwrap();
        host.keep(&url(0), key.clone());
        host.used(&url(0));
        for name in 1..100 {
            host.keep(&url(name), key.clone());
        }
        assert!(host.key(&url(0)).is_some());
        assert!(host.key(&url(99)).is_some() && host.key(&url(1)).is_none());
        assert_eq!(lock(&host.keys).len(), CERTIFICATES_MAX);
    }
}
