//! The IntelePeer source: verifies and parses its inbound SMS webhook.
//!
//! Follows [Receiving SMS Messages] and [Securing Inbound SMS Webhooks]. The two pages disagree on the content of
//! `signature` (the shared code itself, or an HMAC), so the operator configures it. A source never tries several
//! schemes while receiving, because the weakest would determine the security.
//!
//! [Receiving SMS Messages]: https://docs.intelepeer.com/Atmosphere/Content/Atmosphere-SMS-Messaging/SMS-APIs/Receiving-SMS-Messages.htm
//! [Securing Inbound SMS Webhooks]: https://docs.intelepeer.com/Atmosphere/Content/Atmosphere-SMS-Messaging/SMS-APIs/Securing-Inbound-SMS-Webhooks.htm

use deserr::Deserr;

use crate::model::lint::{self, Lint};
use crate::model::secret::Secrets;
use crate::model::setting::Errors;

use super::{
    Composed, Context, Events, Incoming, Kind, Refusal, Request, Sample, Settings, Source, Upstream,
};
use body::Body;

pub mod api;
mod body;
mod compose;
pub mod detect;
mod encoding;
pub mod hmac;
mod repair;
mod text;
mod upstream;
mod verify;

/// `[source.NAME]` with `kind = "intelepeer"`.
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The required content of `signature`.
    #[deserr(default)]
    pub verify: Verify,
    /// The shared code, or the key of the HMAC.
    #[deserr(default)]
    pub secret: Option<Secrets>,
    /// The settings of the HMAC, with `verify = "hmac"`.
    #[deserr(default)]
    pub hmac: Option<hmac::Config>,
    /// The management API, for `smsbridge intelepeer webhook`.
    #[deserr(default)]
    pub api: Option<api::Config>,
}

/// How a webhook is verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserr)]
#[deserr(error = Errors)]
pub enum Verify {
    /// `signature` is the secret itself.
    #[default]
    #[deserr(rename = "shared-code")]
    SharedCode,
    /// `signature` is an HMAC with the secret as key.
    #[deserr(rename = "hmac")]
    Hmac,
    /// `signature` is not checked.
    #[deserr(rename = "none")]
    None,
}

impl Config {
    /// The `signature` that the carrier would send with this message, computed with the first secret; `None` with
    /// `verify = "none"`. Used by `smsbridge simulate`.
    ///
    /// # Errors
    /// A sentence for the operator when the configuration is invalid.
    pub fn sign(&self, signed: &hmac::Signed<'_>) -> Result<Option<String>, String> {
        Ok(verify::Signature::build(self)?.sign(signed))
    }
}

impl Kind for Config {
    fn lints(&self, settings: &Settings, exposed: bool) -> Vec<Lint> {
        let mut lints = Vec::new();
        if self.verify == Verify::None && !settings.access.is_checked() {
            let message =
                "is \"none\", and there is no `basic_auth` or `allow_from`: anyone can send messages";
            lints.push(Lint::new("verify", message));
        }
        if self.verify == Verify::None && self.secret.is_some() {
            lints.push(Lint::new("secret", "is not used, because `verify` is \"none\""));
        }
        if self.verify == Verify::Hmac {
            let found = self.hmac.clone().unwrap_or_default().warnings();
            lints.extend(found.into_iter().map(|message| Lint::new("hmac", message)));
        }
        if exposed {
            let weak = self
                .secret
                .as_ref()
                .and_then(|secrets| secrets.find(lint::weak_secret));
            lints.extend(weak.map(|message| Lint::new("secret", message)));
        }
        lints.extend(self.api.iter().flat_map(api::Config::lints));
        lints
    }

    fn names_countries(&self) -> bool {
        true
    }

    fn upstream(&self, context: &Context<'_>) -> Result<Option<Box<dyn Upstream>>, String> {
        let account = upstream::Account::build(self, context)?;
        Ok(account.map(|account| Box::new(account) as Box<dyn Upstream>))
    }

    fn build(&self, _: &Context<'_>) -> Result<Box<dyn Source>, String> {
        Ok(Box::new(Intelepeer::build(self)?))
    }
}

/// The webhook of one IntelePeer account.
#[derive(Debug)]
pub struct Intelepeer {
    signature: verify::Signature,
}

impl Intelepeer {
    /// Builds the source.
    ///
    /// # Errors
    /// A sentence for the operator, without the name of the source.
    pub fn build(config: &Config) -> Result<Self, String> {
        if let Some(api) = &config.api {
            api.validate().map_err(|error| format!("`api`: {error}"))?;
        }
        Ok(Self {
            signature: verify::Signature::build(config)?,
        })
    }

    /// Nothing in the body is trusted before the signature is verified. A verified body is accepted even if it has
    /// errors.
    fn read(&self, request: &Request<'_>) -> Result<Incoming, Refusal> {
        let Body { fields, broken } = Body::read(request.headers, request.body);
        if let Err(refusal) = self.signature.check(&fields) {
            return Err(broken.unwrap_or(refusal));
        }
        let known = request.admitted || self.signature.is_checked();
        match broken {
            Some(refusal) if !known => Err(refusal),
            Some(_) if !text::is_message(&fields) => {
                text::unreadable(&body::as_text(request.headers, request.body))
            }
            Some(refusal) => text::read(fields).map(|mut incoming| {
                incoming.odd.push(refusal.error);
                incoming
            }),
            None if !known => text::require(&fields).and_then(|()| text::read(fields)),
            None => text::read(fields),
        }
    }
}

impl Source for Intelepeer {
    fn receive(&self, request: &Request<'_>) -> Result<Events, Refusal> {
        self.read(request).map(Events::message)
    }

    fn compose(&self, sample: &Sample<'_>) -> Result<Composed, String> {
        Ok(compose::compose(self, sample))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(toml: &str) -> Result<Intelepeer, String> {
        let config: Config = crate::model::setting::from_toml(toml)?;
        Intelepeer::build(&config)
    }

    #[test]
    fn an_invalid_configuration_is_rejected_with_an_explanation() {
        for (toml, words) in [
            ("", "`secret` is missing"),
            ("verify = 'hmac'", "`secret` is missing"),
            ("verify = 'md5'", "unknown value `md5`"),
            ("secret = ''", "must not be empty"),
            ("secret = 'x'\nsigned = true", "unknown key `signed`"),
            (
                "secret = 'x'\nhmac = { algorithm = 'sha1' }",
                "`hmac` is only for",
            ),
            (
                "verify = 'hmac'\nsecret = 'x'\nhmac = { over = '{ref}' }",
                "refid, from, to, message",
            ),
            (
                "verify = 'hmac'\nsecret = 'x'\nhmac = { over = 'constant' }",
                "names no field",
            ),
            (
                "verify = 'hmac'\nsecret = 'x'\nhmac = { over = '{refid' }",
                "no `}`",
            ),
            ("secret = 'x'\napi = { username = 'u' }", "`api`: "),
        ] {
            let error = build(toml).err().unwrap_or_else(|| panic!("accepted: {toml}"));
            assert!(error.contains(words), "{toml}: {error}");
        }
    }

    #[test]
    fn a_usable_configuration_is_built() {
        for toml in [
            "secret = 'x'",
            "secret = ['old', 'new']",
            "verify = 'hmac'\nsecret = 'x'",
            "verify = 'hmac'\nsecret = 'x'\nhmac = { algorithm = 'md5', encoding = 'base64', over = '{from}|{to}' }",
            "verify = 'none'",
        ] {
            assert!(build(toml).is_ok(), "{toml}: {:?}", build(toml).err());
        }
    }

    #[test]
    fn probable_mistakes_are_reported() {
        let open = Settings::default();
        let closed = Settings {
            access: crate::model::setting::from_toml("allow_from = ['203.0.113.7']").unwrap(),
            ..Settings::default()
        };
        for (toml, settings, count) in [
            ("secret = 'x'", &open, 0),
            ("verify = 'none'", &open, 1),
            ("verify = 'none'", &closed, 0),
            ("verify = 'none'\nsecret = 'x'", &open, 2),
            ("verify = 'hmac'\nsecret = 'x'", &open, 0),
            (
                "verify = 'hmac'\nsecret = 'x'\nhmac = { over = '{from}' }",
                &open,
                2,
            ),
        ] {
            let config: Config = crate::model::setting::from_toml(toml).unwrap();
            let lints = config.lints(settings, false);
            assert_eq!(lints.len(), count, "{toml}: {lints:?}");
        }
    }

    #[test]
    fn weak_secrets_are_reported_if_other_machines_can_post() {
        let toml = "secret = ['a long secret of 32 characters', 'short']\n\
                    api = { token = 't', api_url = 'http://gateway.example.com', numbers = ['+13038675309'] }";
        let config: Config = crate::model::setting::from_toml(toml).unwrap();
        let keys = |exposed| {
            let lints = config.lints(&Settings::default(), exposed);
            lints.iter().map(|lint| lint.key).collect::<Vec<_>>()
        };
        assert_eq!(keys(true), ["secret", "api.api_url"]);
        assert_eq!(keys(false), ["api.api_url"]);
    }

    #[test]
    fn a_source_never_shows_its_secrets() {
        let toml = "secret = ['canary1', 'canary2']";
        let shown = format!(
            "{:?} {:?}",
            build(toml),
            crate::model::setting::from_toml::<Config>(toml)
        );
        assert!(!shown.contains("canary"), "{shown}");
    }
}
