//! The SignalWire source: incoming messages as its compatibility API posts them.
//!
//! Follows [Webhook security]. There are two differences from Twilio: repeated fields keep their order, and the
//! signature covers the URL as configured, including user and password.
//!
//! [Webhook security]: https://developer.signalwire.com/platform/basics/security-and-compliance/webhook-security/

use deserr::Deserr;
use http::Method;
use serde::Deserialize;

use super::fields::{self, Form};
use super::twilio_form::{self as form, Webhook};
use super::twilio_list::{self, List};
use super::verify::Hmac;
use super::verify::url_form::Repeated;
use super::{
    CatchUp, Composed, Context, Defaults, Events, Incoming, Kind, Outcome, Refusal, Reply, Request, Sample,
    Settings, Source,
};
use crate::model::lint::{self, Lint};
use crate::model::secret::Secrets;
use crate::model::setting::Errors;

const SIGNATURE: &str = "x-signalwire-signature";

/// The name of the same header in Twilio's API, which the compatibility API also uses.
const COMPATIBLE_SIGNATURE: &str = "x-twilio-signature";

/// `[source.NAME]` with `kind = "signalwire"`.
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The signing key of the project.
    pub signing_key: Secrets,
    /// Lists missed messages.
    #[deserr(default)]
    pub catch_up: Option<twilio_list::Config>,
}

impl Kind for Config {
    fn defaults(&self) -> Defaults {
        Defaults::international()
    }

    fn lints(&self, _: &Settings, _: bool) -> Vec<Lint> {
        let example = Some(&self.signing_key).and_then(|keys| keys.find(lint::example_secret));
        let lint = example.map(|message| Lint::new("signing_key", message));
        lint.into_iter().collect()
    }

    fn catch_up(&self, context: &Context<'_>) -> Result<Option<Box<dyn CatchUp>>, String> {
        let Some(config) = &self.catch_up else {
            return Ok(None);
        };
        Ok(Some(Box::new(List::build(config, None, None, context.resolver)?)))
    }

    fn build(&self, context: &Context<'_>) -> Result<Box<dyn Source>, String> {
        Ok(Box::new(SignalWire {
            signing_key: self.signing_key.clone(),
            webhook: Webhook::new(context, Repeated::Ordered)?,
        }))
    }
}

/// The webhook of one SignalWire project.
struct SignalWire {
    signing_key: Secrets,
    webhook: Webhook,
}

impl Source for SignalWire {
    fn methods(&self) -> &'static [Method] {
        form::METHODS
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
        let signed = self.webhook.signed_fields(&form);
        self.verify(request, Hmac::SHA1_BASE64, signed.as_bytes())?;
        Ok(form::read(&form))
    }

    fn reply(&self, outcome: &Outcome<'_>) -> Reply {
        form::reply(outcome)
    }

    fn compose(&self, sample: &Sample<'_>) -> Result<Composed, String> {
        self.webhook.compose(sample, |parts| {
            let signature = Hmac::SHA1_BASE64.sign(self.signing_key.all().first()?, parts)?;
            Some(vec![(SIGNATURE, signature)])
        })
    }
}

impl SignalWire {
    fn verify(&self, request: &Request<'_>, hmac: Hmac, signed: &[u8]) -> Result<(), Refusal> {
        let signature = request
            .header(SIGNATURE)
            .or_else(|| request.header(COMPATIBLE_SIGNATURE))
            .unwrap_or_default();
        let keys = (hmac, self.signing_key.all());
        self.webhook.verify(request, keys, signed, signature)
    }
}

/// Parses the JSON that is posted by a SWML script for messages. Its fields are documented by example only, so
/// unknown ones are kept.
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
    incoming.set_extra(message);
    Events::message(incoming)
}
