//! The SignalWire source: the form of an incoming message, as its compatibility API posts it.
//!
//! Follows [Webhook security]. It differs from Twilio in two things: fields that are repeated keep their order, and the
//! URL is signed as it was configured, with the user and password in it.
//!
//! [Webhook security]: https://developer.signalwire.com/platform/basics/security-and-compliance/webhook-security/

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use serde::Deserialize;
use url::Url;

use super::fields::{self, Form};
use super::twilio_form as form;
use super::verify::{Hmac, url_form};
use super::{
    BasicAuth, Composed, Context, Defaults, Events, Incoming, Kind, Outcome, Refusal, Reply, Request, Sample,
    Settings, Source, Target,
};
use crate::model::lint::{self, Lint};
use crate::number::BareDigits;
use crate::secret::Secrets;

const SIGNATURE: &str = "x-signalwire-signature";

/// The same under the name that the compatibility API took over.
const COMPATIBLE_SIGNATURE: &str = "x-twilio-signature";

/// `[source.NAME]` with `kind = "signalwire"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The signing key of the project.
    pub signing_key: Secrets,
}

impl Kind for Config {
    fn defaults(&self) -> Defaults {
        Defaults {
            bare_digits: BareDigits::International,
            ..Defaults::default()
        }
    }

    fn lints(&self, _: &Settings, _: bool) -> Vec<Lint> {
        let example = Some(&self.signing_key).and_then(|keys| keys.find(lint::example_secret));
        let lint = example.map(|message| Lint::new("signing_key", message));
        lint.into_iter().collect()
    }

    fn build(&self, context: &Context<'_>) -> Result<Box<dyn Source>, String> {
        Ok(Box::new(SignalWire {
            signing_key: self.signing_key.clone(),
            public_url: context.signed_url()?.clone(),
            path: context.path.to_owned(),
            basic_auth: context.settings.access.basic_auth.clone(),
        }))
    }
}

/// One SignalWire project's webhook.
struct SignalWire {
    signing_key: Secrets,
    public_url: Url,
    path: String,
    basic_auth: Option<BasicAuth>,
}

impl Source for SignalWire {
    fn methods(&self) -> &'static [Method] {
        const METHODS: &[Method] = &[Method::POST, Method::GET];
        METHODS
    }

    fn receive(&self, request: &Request<'_>) -> Result<Events, Refusal> {
        if request.method == Method::GET {
            self.verify(request, Hmac::SHA1_BASE64, b"")?;
            return Ok(form::read(&Form::read(request.target.query().as_bytes())));
        }
        if fields::is_json(request.headers, request.body) {
            self.verify(request, Hmac::SHA1_HEX, request.body)?;
            return Ok(document(request.body));
        }
        let form = Form::read(request.body);
        let signed = url_form::fields(&form, url_form::Repeated::Ordered);
        self.verify(request, Hmac::SHA1_BASE64, signed.as_bytes())?;
        Ok(form::read(&form))
    }

    fn reply(&self, outcome: &Outcome<'_>) -> Reply {
        form::reply(outcome)
    }

    fn compose(&self, sample: &Sample<'_>) -> Result<Composed, String> {
        let body = form::compose(sample);
        let signed = url_form::fields(&Form::read(body.as_bytes()), url_form::Repeated::Ordered);
        let target = Target {
            public_url: Some(&self.public_url),
            path_and_query: &self.path,
        };
        let url = url_form::urls(&target, None)
            .into_iter()
            .next()
            .unwrap_or_default();
        let key = self.signing_key.all().first();
        let signature = key.and_then(|key| Hmac::SHA1_BASE64.sign(key, &[url.as_bytes(), signed.as_bytes()]));
        let signature = signature.ok_or("no key to sign with")?;
        let headers = [
            (CONTENT_TYPE, "application/x-www-form-urlencoded"),
            (http::HeaderName::from_static(SIGNATURE), &signature),
        ];
        let headers = headers
            .into_iter()
            .map(|(name, value)| {
                Ok((
                    name,
                    HeaderValue::from_str(value).map_err(|error| error.to_string())?,
                ))
            })
            .collect::<Result<HeaderMap, String>>()?;
        Ok(Composed {
            method: Method::POST,
            query: None,
            headers,
            body: body.into(),
        })
    }
}

impl SignalWire {
    fn verify(&self, request: &Request<'_>, hmac: Hmac, signed: &[u8]) -> Result<(), Refusal> {
        let signature = request
            .header(SIGNATURE)
            .or_else(|| request.header(COMPATIBLE_SIGNATURE))
            .unwrap_or_default();
        let urls = url_form::urls(&request.target, self.basic_auth.as_ref());
        let right = urls.iter().fold(false, |right, url| {
            hmac.verify(self.signing_key.all(), &[url.as_bytes(), signed], signature) | right
        });
        if right { Ok(()) } else { Err(Refusal::forbidden()) }
    }
}

/// The JSON that is posted when a SWML script is set for messages. Its fields are documented by example only, so
/// whatever else is in it is kept.
fn document(body: &[u8]) -> Events {
    #[derive(Deserialize)]
    struct Document {
        message: serde_json::Map<String, serde_json::Value>,
    }
    let Ok(Document { mut message }) = serde_json::from_slice(body) else {
        return Events::message(Incoming::unreadable(body));
    };
    let mut odd = Vec::new();
    let mut take = |names: &[&str]| {
        let found = names.iter().find_map(|name| message.remove(*name));
        if found.is_none() {
            odd.extend(names.first().map(|name| format!("no `{name}`")));
        }
        found.map(fields::text).unwrap_or_default()
    };
    let id = take(&["message_id", "id", "message_sid"]);
    let (from, to, text) = (take(&["from"]), take(&["to"]), take(&["body"]));
    let mut incoming = Incoming::new(id, &from, &to, text);
    incoming.odd = odd;
    incoming.extra = fields::extra(message.into_iter().map(|(name, value)| (name, value.to_string())));
    Events::message(incoming)
}
