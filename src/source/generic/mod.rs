//! The generic source: any service that posts messages as fields of JSON, of a form or of a query.
//!
//! A mapping defines where the fields are, which requests are messages, how they are verified and how they are
//! answered. Presets are mappings for known services (`presets.toml`); a key of the source has precedence over that
//! of its preset.

use std::collections::BTreeMap;
use std::time::Duration;

use deserr::Deserr;
use http::{Method, StatusCode};
use url::Url;

use super::verify::{Algorithm, Encoding};
use super::{
    Composed, Context, Defaults, Events, Kind, Outcome, Refusal, Reply, Request, Sample, Settings, Source,
};
use crate::model::lint::{self, Lint};
use crate::model::number::BareDigits;
use crate::model::secret::Secrets;
use crate::model::setting::{Errors, Members};
use crate::model::units::{Bounded, some};
use document::Document;
use mapping::Mapping;
use proof::Proof;

mod compose;
mod document;
mod mapping;
mod proof;

/// `[source.NAME]` with `kind = "generic"`.
#[derive(Clone, Debug, Default, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The service whose mapping applies to keys that are missing here.
    #[deserr(default)]
    pub preset: Option<String>,
    /// The secret for `verify`.
    #[deserr(default)]
    pub secret: Option<Secrets>,
    /// `GET`, `POST`, `PUT` or `PATCH`.
    #[deserr(default)]
    pub methods: Option<Vec<Verb>>,
    /// The place of the list of messages; if missing, the body is one message.
    #[deserr(default)]
    pub messages: Option<String>,
    /// The place of the message id.
    #[deserr(default)]
    pub id: Option<String>,
    /// The place of the sender.
    #[deserr(default)]
    pub from: Option<String>,
    /// The place of the recipient.
    #[deserr(default)]
    pub to: Option<String>,
    /// The place of the message body.
    #[deserr(default)]
    pub text: Option<String>,
    /// The place of the links of the attachments.
    #[deserr(default)]
    pub media: Option<String>,
    /// The place of the number of parts.
    #[deserr(default)]
    pub segments: Option<String>,
    /// The place of the time of sending.
    #[deserr(default)]
    pub sent_at: Option<String>,
    /// Values that fields must have for a request to be a message.
    #[deserr(default, from(Members<String>) = some)]
    pub only_if: Option<BTreeMap<String, String>>,
    /// The response to an accepted request.
    #[deserr(default)]
    pub reply: Option<ReplyConfig>,
    /// How requests are verified.
    #[deserr(default)]
    pub verify: Option<Verify>,
}

/// An HTTP method of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserr)]
#[deserr(error = Errors)]
pub enum Verb {
    /// Fields in the query.
    #[deserr(rename = "GET")]
    Get,
    /// Fields in the body.
    #[deserr(rename = "POST")]
    Post,
    /// Fields in the body.
    #[deserr(rename = "PUT")]
    Put,
    /// Fields in the body.
    #[deserr(rename = "PATCH")]
    Patch,
}

/// `reply`
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct ReplyConfig {
    /// 200 to 299.
    #[deserr(default = Self::default().status, from(Bounded<200, 299>) = u16::from)]
    pub status: u16,
    /// The `Content-Type` of the body.
    #[deserr(default = Self::default().content_type)]
    pub content_type: String,
    /// The body. Some services require a certain body; others send it to the sender.
    #[deserr(default = Self::default().body)]
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
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Verify {
    /// The kind of verification.
    pub kind: ProofKind,
    /// The header that contains the signature or the secret.
    #[deserr(default)]
    pub header: Option<String>,
    /// The query parameter that contains the secret.
    #[deserr(default)]
    pub parameter: Option<String>,
    /// The signed text: `{body}`, `{url}`, `{header:NAME}`; anything else is literal.
    #[deserr(default)]
    pub over: Option<String>,
    /// The hash function of the HMAC.
    #[deserr(default = sha256())]
    pub algorithm: Algorithm,
    /// The encoding of the signature.
    #[deserr(default = hex())]
    pub encoding: Encoding,
    /// The header that contains the signed time, in seconds, which may differ by five minutes.
    #[deserr(default)]
    pub timestamp: Option<String>,
    /// The issuer of the token.
    #[deserr(default)]
    pub issuer: Option<String>,
}

fn sha256() -> Algorithm {
    Algorithm::Sha256
}

fn hex() -> Encoding {
    Encoding::Hex
}

/// How requests are verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserr)]
#[deserr(error = Errors)]
pub enum ProofKind {
    /// Not verified.
    #[deserr(rename = "none")]
    None,
    /// A header contains the secret, alone or after `Bearer `.
    #[deserr(rename = "header")]
    Header,
    /// A query parameter contains the secret.
    #[deserr(rename = "parameter")]
    Parameter,
    /// A header contains an HMAC with the secret as key.
    #[deserr(rename = "hmac")]
    Hmac,
    /// `Authorization` contains a token for this URL, signed with the secret.
    #[deserr(rename = "jwt")]
    Jwt,
    /// As specified by standardwebhooks.com.
    #[deserr(rename = "standard-webhooks")]
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

/// The webhook of one service.
struct Generic {
    mapping: Mapping,
    public_url: Option<Url>,
    path: String,
    proof: Proof,
    methods: &'static [Method],
    reply: Success,
}

/// The response to an accepted request.
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
        self.proof.check(request)?;
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

    /// A service may send the body of any response to the sender, so an error has an empty body.
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

/// The constant list for a combination of methods.
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
