//! Remembers the sources whose requests are signed for another URL than `server.public_url`, until one is accepted.
//!
//! All messages of such a source are rejected, and nothing else shows why: the signature is only known to be wrong.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::message::{Name, Timestamp};
use crate::plan::Plan;

/// The sources with this problem.
#[derive(Default)]
pub struct UrlCheck(Mutex<BTreeMap<Name, Mismatch>>);

/// A source whose requests are signed for another URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The base of that URL, as the value of `server.public_url`.
    pub signed_for: String,
    /// Since when.
    pub since: Timestamp,
}

impl UrlCheck {
    /// Records a request that was rejected because it is signed for another URL.
    pub fn rejected(&self, source: &Name, signed_for: &str, now: Timestamp) {
        let mut found = self.found();
        let since = found.get(source).map_or(now, |known| known.since);
        let signed_for = signed_for.to_owned();
        found.insert(source.clone(), Mismatch { signed_for, since });
    }

    /// Ends the problem of a source: one of its requests was verified.
    pub fn verified(&self, source: &Name) {
        self.found().remove(source);
    }

    /// The problems of the configured sources, as sentences, with the time at which each began.
    #[must_use]
    pub fn problems(&self, plan: &Plan) -> Vec<(String, Timestamp)> {
        let found = self.found();
        let found = found
            .iter()
            .filter(|(source, _)| plan.sources.contains_key(*source));
        found
            .map(|(source, mismatch)| {
                let message = format!(
                    "source {source} rejects the carrier's requests, so messages may be lost: {}; an accepted request \
                     ends this problem",
                    advice(plan, &mismatch.signed_for)
                );
                (message, mismatch.since)
            })
            .collect()
    }

    /// The problem for the public health check, without any URL.
    #[must_use]
    pub fn summary(&self, plan: &Plan) -> Vec<String> {
        let found = self.found();
        let sources = found.keys().filter(|source| plan.sources.contains_key(*source));
        sources
            .map(|source| {
                format!("source {source}: requests are signed for another URL than server.public_url")
            })
            .collect()
    }

    fn found(&self) -> MutexGuard<'_, BTreeMap<Name, Mismatch>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The cause and the remedy.
#[must_use]
pub fn advice(plan: &Plan, signed_for: &str) -> String {
    let public_url = plan.server.public_url.as_ref().map_or("", url::Url::as_str);
    format!(
        "the signature is valid for {signed_for}, but `server.public_url` is {}; set it to {signed_for}, or correct the \
         webhook's URL at the carrier",
        public_url.trim_end_matches('/')
    )
}
