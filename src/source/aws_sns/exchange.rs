//! Calls to the SNS host: fetches certificates, and confirms the subscription.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use reqwest::StatusCode;
use url::Url;

use super::envelope::Envelope;
use super::is_raw;
use super::topic::Topic;
use crate::http_client;
use crate::resolver::Resolver;
use crate::source::verify::CertifiedKey;
use crate::source::{Exchange, Request};

/// Time limit of one call: SNS waits 15 seconds for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Upper bound of a certificate, in bytes. AWS' take 2 KiB.
const CERTIFICATE_MAX: usize = 16 * 1024;

/// Upper bound of the certificates that are kept. AWS replaces its certificate about once a year.
const CERTIFICATES_MAX: usize = 8;

/// The pause after a certificate that could not be fetched. The request that names it is not verified yet, so others
/// must not make the bridge call AWS more often.
const PAUSE: Duration = Duration::from_secs(1);

/// The SNS host of one region.
pub(super) struct Host {
    topic: Arc<Topic>,
    api_url: Option<Url>,
    client: reqwest::Client,
    keys: Mutex<BTreeMap<String, CertifiedKey>>,
    /// Held while a certificate is fetched, with the time of the last failure.
    fetching: tokio::sync::Mutex<Option<Instant>>,
}

impl Host {
    /// `api_url` replaces the host.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(super) fn new(topic: Arc<Topic>, api_url: Option<Url>, resolver: &Resolver) -> Result<Self, String> {
        let client = http_client::builder(resolver.clone())
            .timeout(TIMEOUT)
            .build()
            .map_err(|error| format!("the HTTP client cannot be set up: {error}"))?;
        Ok(Self {
            topic,
            api_url,
            client,
            keys: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
        })
    }

    /// The key of a certificate that was fetched.
    pub(super) fn key(&self, url: &Url) -> Option<CertifiedKey> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.get(url.path()).cloned()
    }

    fn keep(&self, url: &Url, key: CertifiedKey) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= CERTIFICATES_MAX {
            keys.clear();
        }
        keys.insert(url.path().to_owned(), key);
    }

    async fn fetch(&self, url: &Url) -> Result<CertifiedKey, String> {
        let failed = |why: String| format!("the certificate of SNS cannot be fetched: {why}");
        let pem = self.get(url).await.map_err(failed)?;
        CertifiedKey::of_pem(&pem).ok_or_else(|| failed("the answer is not a certificate".to_owned()))
    }

    /// The body of a successful answer.
    async fn get(&self, url: &Url) -> Result<Vec<u8>, String> {
        let mut at = url.clone();
        if let Some(api_url) = &self.api_url {
            at = api_url.clone();
            at.set_path(url.path());
            at.set_query(url.query());
        }
        let mut response = self.client.get(at).send().await.map_err(|error| reason(&error))?;
        if response.status() != StatusCode::OK {
            return Err(format!("HTTP {}", response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| reason(&error))? {
            if body.len() + chunk.len() > CERTIFICATE_MAX {
                return Err(format!("the answer is over {CERTIFICATE_MAX} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

#[async_trait]
impl Exchange for Host {
    async fn prepare(&self, request: &Request<'_>) -> Result<(), String> {
        let envelope = Envelope::read(request.body).filter(|_| !is_raw(request));
        let envelope = envelope.filter(|envelope| envelope.topic_arn == self.topic.arn());
        let url = envelope.and_then(|envelope| self.topic.certificate(&envelope.signing_cert_url));
        // Without a usable URL the request is rejected anyway.
        let Some(url) = url.filter(|url| self.key(url).is_none()) else {
            return Ok(());
        };
        let mut failed_at = self.fetching.lock().await;
        if self.key(&url).is_some() {
            return Ok(());
        }
        if failed_at.is_some_and(|failed_at| failed_at.elapsed() < PAUSE) {
            return Err("a certificate of SNS could not be fetched a moment ago".to_owned());
        }
        match self.fetch(&url).await {
            Ok(key) => self.keep(&url, key),
            Err(why) => {
                *failed_at = Some(Instant::now());
                return Err(why);
            }
        }
        Ok(())
    }

    async fn confirm(&self, url: &Url) -> Result<(), String> {
        let confirmed = self.get(url).await;
        confirmed.map_err(|why| {
            format!(
                "the subscription cannot be confirmed: {why}; if SNS gives up, request the confirmation again in the AWS console"
            )
        })?;
        tracing::info!("confirmed the subscription to the topic");
        Ok(())
    }
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
