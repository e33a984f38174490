//! Verifies the requests to a generic source.

use super::{ProofKind, Verify};
use crate::model::secret::{Secret, Secrets};
use crate::source::fields::Form;
use crate::source::verify::jwt::{self, Claims};
use crate::source::verify::{Hmac, StandardWebhooks, Window, other_url, url_form};
use crate::source::{Context, Refusal, Request, Target};

/// The method of verification.
pub(super) enum Proof {
    None,
    Header {
        name: String,
        secrets: Secrets,
    },
    Parameter {
        name: String,
        secrets: Secrets,
    },
    Hmac(Signature),
    Jwt {
        issuer: Option<String>,
        keys: Secrets,
    },
    StandardWebhooks {
        keys: StandardWebhooks,
        secrets: Secrets,
    },
}

/// An HMAC in a header.
pub(super) struct Signature {
    pub(super) header: String,
    pub(super) hmac: Hmac,
    pub(super) over: Vec<Part>,
    pub(super) timestamp: Option<String>,
    pub(super) keys: Secrets,
}

/// One part of the signed text.
pub(super) enum Part {
    Literal(String),
    Body,
    Url,
    Header(String),
}

impl Proof {
    pub(super) fn build(
        verify: Option<&Verify>,
        secret: Option<&Secrets>,
        context: &Context<'_>,
    ) -> Result<Self, String> {
        let Some(verify) = verify.filter(|verify| verify.kind != ProofKind::None) else {
            return Ok(Self::None);
        };
        let secrets = secret
            .cloned()
            .ok_or("`secret` is missing: what `verify` checks requests with")?;
        let needed = |key: &str, value: &Option<String>| {
            value.clone().ok_or_else(|| format!("`verify.{key}` is missing"))
        };
        Ok(match verify.kind {
            ProofKind::None => Self::None,
            ProofKind::Header => Self::Header {
                name: needed("header", &verify.header)?,
                secrets,
            },
            ProofKind::Parameter => Self::Parameter {
                name: needed("parameter", &verify.parameter)?,
                secrets,
            },
            ProofKind::Hmac => Self::Hmac(Signature {
                header: needed("header", &verify.header)?,
                hmac: Hmac {
                    algorithm: verify.algorithm,
                    encoding: verify.encoding,
                },
                over: parts(verify.over.as_deref().unwrap_or("{body}"), context)?,
                timestamp: verify.timestamp.clone(),
                keys: secrets,
            }),
            ProofKind::Jwt => {
                context.signed_url()?;
                Self::Jwt {
                    issuer: verify.issuer.clone(),
                    keys: secrets,
                }
            }
            ProofKind::StandardWebhooks => Self::StandardWebhooks {
                keys: StandardWebhooks::read(&secrets).map_err(|error| format!("`secret` {error}"))?,
                secrets,
            },
        })
    }

    pub(super) fn is_checked(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Verifies a request.
    ///
    /// # Errors
    /// 403 for a wrong proof, and 503 if only its time is wrong.
    pub(super) fn check(&self, request: &Request<'_>) -> Result<(), Refusal> {
        match self {
            Self::None => Ok(()),
            Self::Header { name, secrets } => {
                let value = request.header(name).unwrap_or_default();
                refuse_unless(secrets.any_matches(jwt::bearer(value).unwrap_or(value).as_bytes()))
            }
            Self::Parameter { name, secrets } => {
                let query = Form::read(request.target.query().as_bytes());
                refuse_unless(secrets.any_matches(query.get(name).unwrap_or_default().as_bytes()))
            }
            Self::Hmac(signature) => signature.check(request),
            Self::Jwt { issuer, keys } => {
                let token = request.header("authorization").unwrap_or_default();
                let token = jwt::bearer(token).unwrap_or_default();
                let claims = Claims::verified(token, keys.all()).ok_or_else(Refusal::forbidden)?;
                let is_issuer = issuer
                    .as_deref()
                    .is_none_or(|issuer| claims.text("iss") == Some(issuer));
                refuse_unless(is_issuer)?;
                if !is_meant(&claims, &request.target) {
                    let is_named = |url: &str| claims.texts("aud").contains(&url);
                    return Err(other_url::refusal(request, None, is_named));
                }
                claims.check_time(request.now)
            }
            Self::StandardWebhooks { keys, .. } => keys.verify(request),
        }
    }
}

/// # Errors
/// 403
fn refuse_unless(is_valid: bool) -> Result<(), Refusal> {
    is_valid.then_some(()).ok_or_else(Refusal::forbidden)
}

/// Returns true if the token is for this URL, or names no URL.
fn is_meant(claims: &Claims, target: &Target<'_>) -> bool {
    let audience = claims.texts("aud");
    audience.is_empty()
        || url_form::urls(target, None)
            .iter()
            .any(|url| audience.contains(&url.as_str()))
}

impl Signature {
    fn check(&self, request: &Request<'_>) -> Result<(), Refusal> {
        let url = url_form::urls(&request.target, None)
            .into_iter()
            .next()
            .unwrap_or_default();
        let is_signed = |url: &str| self.is_signed(request, url);
        if !is_signed(&url) {
            let covers_url = self.over.iter().any(|part| matches!(part, Part::Url));
            return Err(match covers_url {
                true => other_url::refusal(request, None, is_signed),
                false => Refusal::forbidden(),
            });
        }
        match &self.timestamp {
            Some(name) => {
                let time = request.header(name).unwrap_or_default();
                Window::default().check_seconds(time, request.now)
            }
            None => Ok(()),
        }
    }

    fn is_signed(&self, request: &Request<'_>, url: &str) -> bool {
        let parts: Vec<&[u8]> = self
            .over
            .iter()
            .map(|part| match part {
                Part::Literal(text) => text.as_bytes(),
                Part::Body => &request.body[..],
                Part::Url => url.as_bytes(),
                Part::Header(name) => request.header(name).unwrap_or_default().as_bytes(),
            })
            .collect();
        let signature = request.header(&self.header).unwrap_or_default();
        self.hmac.verify(self.keys.all(), &parts, signature)
    }

    /// The key used for signing.
    pub(super) fn key(&self) -> Option<&Secret> {
        self.keys.all().first()
    }
}

fn parts(over: &str, context: &Context<'_>) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = over;
    while let Some((literal, field)) = rest.split_once('{') {
        let (name, after) = field.split_once('}').ok_or("`verify.over`: a `{` has no `}`")?;
        parts.extend((!literal.is_empty()).then(|| Part::Literal(literal.to_owned())));
        parts.push(match name.split_once(':') {
            None if name == "body" => Part::Body,
            None if name == "url" => {
                context.signed_url()?;
                Part::Url
            }
            Some(("header", header)) => Part::Header(header.to_owned()),
            _ => {
                return Err(format!(
                    "`verify.over`: there is no {{{name}}}; known are {{body}}, {{url}} and {{header:NAME}}"
                ));
            }
        });
        rest = after;
    }
    parts.extend((!rest.is_empty()).then(|| Part::Literal(rest.to_owned())));
    if !parts.iter().any(|part| matches!(part, Part::Body)) {
        return Err("`verify.over` lacks {body}: anyone could change the message".to_owned());
    }
    Ok(parts)
}
