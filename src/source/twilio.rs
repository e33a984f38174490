//! The Twilio source: webhooks for incoming messages and Event Streams sinks, on the same path.
//!
//! Follows [Webhooks security] and [Event Streams]. Both use the same `MessageSid` for a message, so an account can
//! use both: the webhook arrives immediately, and the sink retries for hours after an outage.
//!
//! [Webhooks security]: https://www.twilio.com/docs/usage/security
//! [Event Streams]: https://www.twilio.com/docs/events/event-types/messaging/inbound-message

use std::collections::BTreeMap;

use bytes::Bytes;
use deserr::Deserr;
use http::{HeaderValue, Method};
use serde::Deserialize;
use sha2::Digest as _;
use subtle::ConstantTimeEq as _;

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
use crate::model::secret::{Secret, Secrets};
use crate::model::setting::{Errors, Members};

const SIGNATURE: &str = "x-twilio-signature";
const SETTINGS: &str = "x-twilio-webhooks-signature-settings";
const SHA256: &str = "HMAC_SHA256";

/// `[source.NAME]` with `kind = "twilio"`.
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The Auth Token of the account, the default signing key.
    #[deserr(default)]
    pub auth_token: Option<Secrets>,
    /// Shared keys by id, for webhooks that are configured to be signed with one of them.
    #[deserr(default, from(Members<Secrets>) = BTreeMap::from)]
    pub shared_keys: BTreeMap<String, Secrets>,
    /// Lists missed messages.
    #[deserr(default)]
    pub catch_up: Option<twilio_list::Config>,
}

impl Kind for Config {
    fn defaults(&self) -> Defaults {
        Defaults::international()
    }

    fn lints(&self, _: &Settings, _: bool) -> Vec<Lint> {
        let example = self
            .auth_token
            .as_ref()
            .and_then(|keys| keys.find(lint::example_secret));
        let lint = example.map(|message| Lint::new("auth_token", message));
        lint.into_iter().collect()
    }

    fn catch_up(&self, context: &Context<'_>) -> Result<Option<Box<dyn CatchUp>>, String> {
        let Some(config) = &self.catch_up else {
            return Ok(None);
        };
        let (url, token) = (Some("https://api.twilio.com"), self.auth_token.as_ref());
        Ok(Some(Box::new(List::build(config, url, token, context.resolver)?)))
    }

    fn build(&self, context: &Context<'_>) -> Result<Box<dyn Source>, String> {
        if self.auth_token.is_none() && self.shared_keys.is_empty() {
            return Err(
                "`auth_token` is missing: the Auth Token of the account (or `shared_keys`)".to_owned(),
            );
        }
        Ok(Box::new(Twilio {
            auth_token: self.auth_token.clone(),
            shared_keys: self.shared_keys.clone(),
            webhook: Webhook::new(context, Repeated::Distinct)?,
        }))
    }
}

/// The webhook of one Twilio account.
struct Twilio {
    auth_token: Option<Secrets>,
    shared_keys: BTreeMap<String, Secrets>,
    webhook: Webhook,
}

impl Source for Twilio {
    fn methods(&self) -> &'static [Method] {
        form::METHODS
    }

    fn receive(&self, request: &Request<'_>) -> Result<Events, Refusal> {
        if request.method == Method::GET {
            self.verify(request, "")?;
            return Ok(form::read(&Form::read(request.target.query().as_bytes())));
        }
        if fields::is_json(request.headers, request.body) {
            has_digest(request).then_some(()).ok_or_else(Refusal::forbidden)?;
            self.verify(request, "")?;
            return Ok(events(request.body));
        }
        let form = Form::read(request.body);
        self.verify(request, &self.webhook.signed_fields(&form))?;
        Ok(form::read(&form))
    }

    fn reply(&self, outcome: &Outcome<'_>) -> Reply {
        form::reply(outcome)
    }

    fn compose(&self, sample: &Sample<'_>) -> Result<Composed, String> {
        self.webhook.compose(sample, |parts| {
            if let Some(token) = &self.auth_token {
                return Some(vec![(SIGNATURE, sign(Hmac::SHA1_BASE64, token, parts)?)]);
            }
            let (id, key) = self.shared_keys.iter().next()?;
            Some(vec![
                (SETTINGS, format!("key={id},algorithm={SHA256}")),
                (SIGNATURE, sign(Hmac::SHA256_BASE64, key, parts)?),
            ])
        })
    }
}

fn sign(hmac: Hmac, keys: &Secrets, parts: &[&[u8]]) -> Option<String> {
    hmac.sign(keys.all().first()?, parts)
}

impl Twilio {
    /// Checks the signature over the URL and these fields with the key that the request names, or with the Auth
    /// Token.
    fn verify(&self, request: &Request<'_>, fields: &str) -> Result<(), Refusal> {
        let (hmac, keys) = match request.headers.get(SETTINGS) {
            None => (Hmac::SHA1_BASE64, self.auth_token.as_ref()),
            Some(settings) => (Hmac::SHA256_BASE64, self.shared_key(settings)),
        };
        let keys: &[Secret] = keys.map_or(&[], Secrets::all);
        let signature = request.header(SIGNATURE).unwrap_or_default();
        let keys = (hmac, keys);
        self.webhook.verify(request, keys, fields.as_bytes(), signature)
    }

    /// Finds the key in `key=ID,algorithm=HMAC_SHA256`.
    fn shared_key(&self, settings: &HeaderValue) -> Option<&Secrets> {
        let settings = settings.to_str().ok()?;
        let value = |name: &str| {
            let mut pairs = settings.split(',').filter_map(|pair| pair.split_once('='));
            pairs
                .find(|(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim())
        };
        (value("algorithm")? == SHA256).then(|| self.shared_keys.get(value("key")?))?
    }
}

/// Returns true if the query, which is signed, contains the digest of this body.
fn has_digest(request: &Request<'_>) -> bool {
    let query = Form::read(request.target.query().as_bytes());
    let claimed = query
        .get("bodySHA256")
        .and_then(|digest| hex::decode(digest).ok());
    let digest = sha2::Sha256::digest(request.body);
    claimed.is_some_and(|claimed| digest.as_slice().ct_eq(&claimed).into())
}

/// Parses the body of an Event Streams sink: one event or a list.
fn events(body: &Bytes) -> Events {
    let list: Result<Vec<Event>, _> = match serde_json::from_slice(body) {
        Ok(OneOrMany::Many(list)) => Ok(list),
        Ok(OneOrMany::One(event)) => Ok(vec![*event]),
        Err(error) => Err(error),
    };
    let Ok(list) = list else {
        return Events::message(Incoming::unreadable(body));
    };
    let mut events = Events::default();
    for event in list {
        match event.kind.strip_prefix("com.twilio.messaging.") {
            Some("inbound-message.received") => events.messages.push(event.message()),
            Some(kind) if kind.starts_with("message.") => events.statuses += 1,
            _ => events.ignored += 1,
        }
    }
    events
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    Many(Vec<Event>),
    One(Box<Event>),
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    data: serde_json::Map<String, serde_json::Value>,
}

impl Event {
    fn message(mut self) -> Incoming {
        let mut odd = Vec::new();
        let mut take = |name: &str| {
            let value = self.data.remove(name);
            if value.is_none() {
                odd.push(format!("no `{name}`"));
            }
            value.map(fields::text).unwrap_or_default()
        };
        let (id, from, to, text) = (take("messageSid"), take("from"), take("to"), take("body"));
        let (channel, from) = form::without_channel(&from);
        let (_, to) = form::without_channel(&to);
        let mut message = Incoming::new(id, from, to, text);
        message.odd = odd;
        message.sent_at = self
            .data
            .remove("timestamp")
            .and_then(|time| time.as_str()?.parse().ok());
        let segments = self.data.remove("numSegments").map(fields::text);
        message.segments = segments.and_then(|count| count.parse().ok());
        let channel = channel.map(|channel| ("channel".to_owned(), serde_json::Value::from(channel)));
        let rest = self.data.into_iter().filter(|(_, value)| !value.is_null());
        message.set_extra(channel.into_iter().chain(rest));
        message
    }
}
