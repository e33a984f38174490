//! Sources: what a carrier posts, verified and read.
//!
//! A source is synchronous and pure: it gets our own [`Request`], so it is tested without a server, and it
//! says what the request was. A new carrier is one new file with a `Config`, and three lines here.

use std::collections::BTreeMap;
use std::net::IpAddr;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::mask::Reason;
use crate::message::{Media, MessageId, Name};
use crate::model::lint::Lint;
use crate::number::Number;
use crate::resolver::Resolver;

pub mod intelepeer;

/// A webhook request as a source sees it.
#[derive(Debug)]
pub struct Request<'a> {
    /// Who sent it: the peer, or whom a trusted proxy names.
    pub client: IpAddr,
    /// Header fields.
    pub headers: &'a HeaderMap,
    /// The whole body, already limited in size.
    pub body: &'a Bytes,
}

/// A text as its carrier sent it, before the bridge gives it an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// The carrier's id.
    pub provider_id: String,
    /// Sender.
    pub from: Number,
    /// Receiver.
    pub to: Number,
    /// The text; may be empty.
    pub text: String,
    /// Attachments.
    pub media: Vec<Media>,
    /// Unknown fields, as JSON text by name.
    pub extra: BTreeMap<String, String>,
    /// What was unusual about the request, for the log: nothing of what it said.
    pub odd: Vec<String>,
}

/// What a request turned out to be.
#[derive(Debug)]
pub enum Received {
    /// Verified texts, to be stored before anything is answered.
    Messages(Vec<Incoming>),
    /// Verified, but nothing to store.
    Ignored,
    /// Not to be answered with a text's fate: nothing of it is stored.
    Refused(Refusal),
}

/// Why a request was refused. The words go to the carrier; none tells a stranger how close a guess was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 400, 401, 403 or 415.
    pub status: StatusCode,
    /// One word for metrics, of [`crate::metrics::REASONS`].
    pub reason: &'static str,
    /// For the JSON error.
    pub error: String,
}

/// What a carrier is told about its texts, in the form it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The message's id at the bridge.
    pub id: MessageId,
    /// Whether it was stored before.
    pub duplicate: bool,
}

/// A text to be sent as the carrier would, to try a setup out.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// The carrier's id.
    pub provider_id: &'a str,
    /// Sender.
    pub from: &'a str,
    /// Receiver.
    pub to: &'a str,
    /// The text.
    pub text: &'a str,
}

/// A webhook ready to be posted.
#[derive(Clone, Debug)]
pub struct Composed {
    /// Header fields, with credentials.
    pub headers: HeaderMap,
    /// The body, signed.
    pub body: Bytes,
}

/// One configured carrier.
///
/// `receive` must not keep, log or answer anything of an unverified request, and must return every verified
/// text, however odd.
pub trait Source: Send + Sync {
    /// Verifies and reads one request.
    fn receive(&self, request: &Request<'_>) -> Received;

    /// The body of a 200 for what was stored.
    fn reply(&self, receipts: &[Receipt]) -> serde_json::Value;

    /// Plays the carrier: the request that [`Source::receive`] would accept for this text.
    fn compose(&self, sample: &Sample<'_>) -> Composed;
}

/// How one number is at the carrier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumberPoints {
    /// The number.
    pub number: Number,
    /// What is wrong and what to do; nothing when its texts come here.
    pub problem: Option<Reason>,
    /// Whether the carrier said so, or could not be asked.
    pub known: bool,
}

/// The carrier's side of the company's numbers: whether their texts still come here.
#[async_trait]
pub trait Upstream: Send + Sync {
    /// Asks the carrier about every number.
    async fn look(&self) -> Vec<NumberPoints>;
}

/// A source's own part of the configuration, by `kind`.
#[derive(Clone, Debug)]
pub enum Config {
    /// `kind = "intelepeer"`
    Intelepeer(intelepeer::Config),
}

/// The kinds that exist, for the configuration's errors.
pub const KINDS: &[&str] = &["intelepeer"];

impl Config {
    /// Reads the part of the configuration that belongs to `kind`; nothing when there is no such kind.
    ///
    /// # Errors
    /// What serde found wrong, with its place if the deserialiser knows it.
    pub fn read<'de, D: serde::Deserializer<'de>>(kind: &str, section: D) -> Option<Result<Self, D::Error>> {
        use serde::Deserialize as _;
        match kind {
            "intelepeer" => Some(intelepeer::Config::deserialize(section).map(Self::Intelepeer)),
            _ => None,
        }
    }

    /// What is legal and probably a mistake. `exposed` says that other machines can post to the source.
    #[must_use]
    pub fn lints(&self, exposed: bool) -> Vec<Lint> {
        match self {
            Self::Intelepeer(config) => config.lints(exposed),
        }
    }

    /// Returns true if the carrier always sends a short code with its country: `1-1234`.
    #[must_use]
    pub fn names_countries(&self) -> bool {
        match self {
            Self::Intelepeer(_) => true,
        }
    }

    /// The carrier's side of the numbers, if the configuration names them and `server.public_url`.
    ///
    /// # Errors
    /// A sentence for the operator, without the source's name.
    pub fn upstream(
        &self,
        public_url: Option<&url::Url>,
        path: &str,
        resolver: &Resolver,
    ) -> Result<Option<Box<dyn Upstream>>, String> {
        match self {
            Self::Intelepeer(config) => config.upstream(public_url, path, resolver),
        }
    }

    /// Makes the source ready to run.
    ///
    /// # Errors
    /// A sentence for the operator, without the source's name.
    pub fn build(&self, name: &Name) -> Result<Box<dyn Source>, String> {
        match self {
            Self::Intelepeer(config) => Ok(Box::new(intelepeer::Intelepeer::build(name, config)?)),
        }
    }
}
