//! The generic source: any service that posts messages as fields of JSON, a form or a query.
//!
//! A mapping says where the fields are, which requests are messages, how they are verified and what is answered. Presets
//! are such mappings for services that are known (`presets.toml`); a key of the source wins over that of its preset.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{Method, StatusCode};
use serde::Deserialize;
use url::Url;

use super::verify::{Algorithm, Encoding};
use super::{
    Composed, Context, Defaults, Events, Kind, Outcome, Refusal, Reply, Request, Sample, Settings, Source,
};
use crate::model::lint::{self, Lint};
use crate::number::BareDigits;
use crate::secret::Secrets;
use document::Document;
use mapping::Mapping;
use proof::Proof;

mod compose;
mod document;
mod mapping;
mod proof;

/// `[source.NAME]` with `kind = "generic"`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The service whose mapping is used where a key is absent here.
    pub preset: Option<String>,
    /// What `verify` needs.
    pub secret: Option<Secrets>,
    /// `GET`, `POST`, `PUT` or `PATCH`.
    pub methods: Option<Vec<Verb>>,
    /// Where the list of messages is; the whole body otherwise.
    pub messages: Option<String>,
    /// Where the id of a message is.
    pub id: Option<String>,
    /// Where its sender is.
    pub from: Option<String>,
    /// Where its receiver is.
    pub to: Option<String>,
    /// Where its text is.
    pub text: Option<String>,
    /// Where the links of its attachments are.
    pub media: Option<String>,
    /// Where its number of parts is.
    pub segments: Option<String>,
    /// Where the time of sending is.
    pub sent_at: Option<String>,
    /// What fields must be for a request to be a message.
    pub only_if: Option<BTreeMap<String, String>>,
    /// The answer to a success.
    pub reply: Option<ReplyConfig>,
    /// How a request proves that it is the service's.
    pub verify: Option<Verify>,
}

/// A method that a service may call with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verb {
    /// Fields in the query.
    Get,
    /// Fields in the body.
    Post,
    /// The same.
    Put,
    /// The same.
    Patch,
}

/// `reply`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplyConfig {
    /// 200 to 299.
    pub status: u16,
    /// Of the body.
    pub content_type: String,
    /// What some services take for a success, or send to the sender.
    pub body: String,
}

impl Default for ReplyConfig {
    fn default() -> Self {
        Self {
            status: 200,
            content_type: "text/plain".to_owned(),
            body: String::new(),
        }
    }
}

/// `verify`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// Which proof it is.
    pub kind: ProofKind,
    /// The header with the signature or the secret.
    pub header: Option<String>,
    /// The query's parameter with the secret.
    pub parameter: Option<String>,
    /// What is signed: `{body}`, `{url}`, `{header:NAME}`, anything else as it stands.
    pub over: Option<String>,
    /// The hash inside the HMAC.
    #[serde(default = "sha256")]
    pub algorithm: Algorithm,
    /// How the signature is written.
    #[serde(default = "hex")]
    pub encoding: Encoding,
    /// The header with the signed time, in seconds, which may be five minutes off.
    pub timestamp: Option<String>,
    /// Who issues the token.
    pub issuer: Option<String>,
}

fn sha256() -> Algorithm {
    Algorithm::Sha256
}

fn hex() -> Encoding {
    Encoding::Hex
}

/// How a request proves that it is the service's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProofKind {
    /// By nothing.
    None,
    /// A header is the secret, alone or after `Bearer `.
    Header,
    /// A parameter of the query is the secret.
    Parameter,
    /// A header is an HMAC with the secret as key.
    Hmac,
    /// `Authorization` is a token signed with the secret, for this URL.
    Jwt,
    /// As standardwebhooks.com describes.
    StandardWebhooks,
}

impl Config {
    fn mapping(&self) -> Result<Mapping, String> {
        Mapping::of(self)
    }
}

impl Kind for Config {
    fn defaults(&self) -> Defaults {
        let Ok(mapping) = self.mapping() else {
            return Defaults::default();
        };
        Defaults {
            max_body: None,
            dedup_window: mapping.dedup_days.map(|days| Duration::from_secs(days * 86400)),
            bare_digits: mapping.bare_digits.unwrap_or(BareDigits::International),
        }
    }

    fn lints(&self, settings: &Settings, exposed: bool) -> Vec<Lint> {
        let mut lints = Vec::new();
        let is_verified = self.mapping().is_ok_and(|mapping| {
            mapping
                .verify
                .is_some_and(|verify| verify.kind != ProofKind::None)
        });
        if !is_verified && !settings.access.is_checked() {
            let message = "is \"generic\", and there is no `verify`, `basic_auth` or `allow_from`: anyone can send messages";
            lints.push(Lint::new("kind", message));
        }
        if !is_verified && self.secret.is_some() {
            lints.push(Lint::new("secret", "is not used, because there is no `verify`"));
        }
        let weak = self.secret.as_ref().filter(|_| exposed);
        let weak = weak.and_then(|secrets| secrets.find(lint::weak_secret));
        lints.extend(weak.map(|message| Lint::new("secret", message)));
        lints
    }

    fn build(&self, context: &Context<'_>) -> Result<Box<dyn Source>, String> {
        let mapping = self.mapping()?;
        let proof = Proof::build(mapping.verify.as_ref(), self.secret.as_ref(), context)?;
        Ok(Box::new(Generic {
            reply: reply(mapping.reply.clone().unwrap_or_default())?,
            methods: methods(mapping.methods.as_deref())?,
            public_url: context.public_url.cloned(),
            path: context.path.to_owned(),
            proof,
            mapping,
        }))
    }
}

/// One service's webhook.
struct Generic {
    mapping: Mapping,
    public_url: Option<Url>,
    path: String,
    proof: Proof,
    methods: &'static [Method],
    reply: Success,
}

/// The answer to a success.
struct Success {
    status: StatusCode,
    content_type: Option<&'static str>,
    body: String,
}

impl Source for Generic {
    fn methods(&self) -> &'static [Method] {
        self.methods
    }

    fn receive(&self, request: &Request<'_>) -> Result<Events, Refusal> {
        if !self.proof.holds(request) {
            return Err(Refusal::forbidden());
        }
        let known = request.admitted || self.proof.is_checked();
        match Document::read(request) {
            Some(document) if known => Ok(self.mapping.events(document)),
            Some(document) => {
                self.mapping.require(&document)?;
                Ok(self.mapping.events(document))
            }
            None if known => Ok(Events::message(super::Incoming::unreadable(request.body))),
            None => Err(Refusal::malformed("the body is neither JSON nor a form")),
        }
    }

    /// A service may send the body of any answer to the sender, so an answer that says nothing by itself has no body.
    fn reply(&self, outcome: &Outcome<'_>) -> Reply {
        let (status, is_success) = match outcome {
            Outcome::Stored(_) => (self.reply.status, true),
            Outcome::Refused(refusal) => (refusal.status, false),
            Outcome::Failing(_) => (StatusCode::SERVICE_UNAVAILABLE, false),
        };
        let body = if is_success { self.reply.body.as_str() } else { "" };
        Reply {
            status,
            content_type: self.reply.content_type.filter(|_| !body.is_empty()),
            body: body.to_owned().into(),
        }
    }

    fn compose(&self, sample: &Sample<'_>) -> Result<Composed, String> {
        compose::compose(self, sample)
    }
}

/// One of the sets that can be made of the methods.
fn methods(verbs: Option<&[Verb]>) -> Result<&'static [Method], String> {
    const GET: &[Method] = &[Method::GET];
    const POST: &[Method] = &[Method::POST];
    const BOTH: &[Method] = &[Method::GET, Method::POST];
    const BODY: &[Method] = &[Method::POST, Method::PUT, Method::PATCH];
    const ALL: &[Method] = &[Method::GET, Method::POST, Method::PUT, Method::PATCH];
    let Some(verbs) = verbs else { return Ok(POST) };
    let has = |verb| verbs.contains(&verb);
    let other = has(Verb::Put) || has(Verb::Patch);
    match (has(Verb::Get), has(Verb::Post), other) {
        (false, false, false) => Err("`methods` is empty, so every request would be rejected".to_owned()),
        (true, false, false) => Ok(GET),
        (false, true, false) => Ok(POST),
        (true, true, false) => Ok(BOTH),
        (false, _, true) => Ok(BODY),
        (true, _, true) => Ok(ALL),
    }
}

fn reply(config: ReplyConfig) -> Result<Success, String> {
    let status = StatusCode::from_u16(config.status)
        .ok()
        .filter(StatusCode::is_success)
        .ok_or("`reply.status` must be from 200 to 299")?;
    let content_type = match config.content_type.as_str() {
        "text/plain" => "text/plain",
        "text/xml" => "text/xml",
        "application/xml" => "application/xml",
        "application/json" => "application/json",
        _ => {
            return Err(
                "`reply.content_type` must be text/plain, text/xml, application/xml or application/json"
                    .to_owned(),
            );
        }
    };
    Ok(Success {
        status,
        content_type: (!config.body.is_empty()).then_some(content_type),
        body: config.body,
    })
}
