//! The Vonage source: incoming messages of the Messages API or of the older SMS API.
//!
//! Follows [Signed webhooks] and [Inbound SMS]. An account sends with one API or the other, and each has its own proof:
//! a token that covers the body, or parameters with a signature among them. Vonage repeats a request for 24 hours.
//!
//! [Signed webhooks]: https://developer.vonage.com/en/getting-started/concepts/webhooks#signed-webhooks
//! [Inbound SMS]: https://developer.vonage.com/en/messaging/sms/guides/inbound-sms

use std::time::Duration;

use deserr::Deserr;
use http::Method;

use super::verify::window::REPEATED;
use super::{Composed, Context, Defaults, Events, Kind, Refusal, Request, Sample, Settings, Source};
use crate::model::lint::{self, Lint};
use crate::model::secret::Secrets;
use crate::model::setting::Errors;
use messages::Messages;
use signature::Signature;
use sms::Sms;

mod messages;
mod signature;
mod sms;

/// `[source.NAME]` with `kind = "vonage"`.
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The API that the account uses.
    pub api: Api,
    /// The signature secret of the account.
    #[deserr(default)]
    pub signature_secret: Option<Secrets>,
    /// How the SMS API signs; by default as a new account does.
    #[deserr(default)]
    pub signature_method: Option<SignatureMethod>,
}

/// The API that sends incoming messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserr)]
#[deserr(error = Errors, rename_all = lowercase)]
pub enum Api {
    /// The Messages API.
    Messages,
    /// The SMS API.
    Sms,
}

/// The five methods that the dashboard offers for the SMS API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserr)]
#[deserr(error = Errors)]
pub enum SignatureMethod {
    /// MD5 over the parameters, followed by the secret.
    #[default]
    #[deserr(rename = "md5-hash")]
    Md5Hash,
    /// HMAC-MD5
    #[deserr(rename = "hmac-md5")]
    HmacMd5,
    /// HMAC-SHA-1
    #[deserr(rename = "hmac-sha1")]
    HmacSha1,
    /// HMAC-SHA-256
    #[deserr(rename = "hmac-sha256")]
    HmacSha256,
    /// HMAC-SHA-512
    #[deserr(rename = "hmac-sha512")]
    HmacSha512,
}

impl Kind for Config {
    fn defaults(&self) -> Defaults {
        Defaults::international()
    }

    fn lints(&self, _: &Settings, _: bool) -> Vec<Lint> {
        let secret = self.signature_secret.as_ref();
        let example = secret.and_then(|secrets| secrets.find(lint::example_secret));
        let mut lints: Vec<Lint> = example
            .map(|message| Lint::new("signature_secret", message))
            .into_iter()
            .collect();
        if self.signature_method.is_some() && (self.api == Api::Messages || secret.is_none()) {
            let message = "is not used: it is for `api = \"sms\"` with `signature_secret`";
            lints.push(Lint::new("signature_method", message));
        }
        lints
    }

    fn replay_window(&self) -> Option<Duration> {
        self.signature_secret.as_ref().map(|_| REPEATED)
    }

    fn build(&self, context: &Context<'_>) -> Result<Box<dyn Source>, String> {
        let access = &context.settings.access;
        match (self.api, &self.signature_secret) {
            (Api::Messages, _) if access.basic_auth.is_some() => Err(
                "`basic_auth` cannot be used with `api = \"messages\"`: Vonage sends its token in the same header"
                    .to_owned(),
            ),
            (Api::Messages, None) => {
                Err("`signature_secret` is missing: it is in the dashboard's API settings".to_owned())
            }
            (Api::Messages, Some(secrets)) => Ok(Box::new(Messages(secrets.clone()))),
            (Api::Sms, None) if !access.is_checked() => Err(
                "`signature_secret` is missing: it is in the dashboard's API settings (or `basic_auth` or `allow_from`)"
                    .to_owned(),
            ),
            (Api::Sms, secrets) => Ok(Box::new(Sms(secrets.clone().map(|secrets| Signature {
                method: self.signature_method.unwrap_or_default(),
                secrets,
            })))),
        }
    }
}

impl Source for Messages {
    fn receive(&self, request: &Request<'_>) -> Result<Events, Refusal> {
        self.verify(request)?;
        Ok(messages::read(request.body))
    }

    fn compose(&self, sample: &Sample<'_>) -> Result<Composed, String> {
        self.simulate(sample)
    }
}

impl Source for Sms {
    fn methods(&self) -> &'static [Method] {
        const METHODS: &[Method] = &[Method::POST, Method::GET];
        METHODS
    }

    fn sends_parts(&self) -> bool {
        true
    }

    fn receive(&self, request: &Request<'_>) -> Result<Events, Refusal> {
        let Some(parameters) = sms::parameters(request) else {
            return self.unreadable(request);
        };
        self.verify(&parameters, request.now)?;
        Ok(sms::read(parameters))
    }

    fn compose(&self, sample: &Sample<'_>) -> Result<Composed, String> {
        self.simulate(sample)
    }
}
