//! The IntelePeer source: their inbound SMS webhook, verified and read.
//!
//! Follows [Receiving SMS Messages] and [Securing Inbound SMS Webhooks]. The two pages disagree on what
//! `signature` is (the shared code itself, or an HMAC), so the operator says which: a source never tries
//! several at run time, since the weakest would then decide.
//!
//! [Receiving SMS Messages]: https://docs.intelepeer.com/Atmosphere/Content/Atmosphere-SMS-Messaging/SMS-APIs/Receiving-SMS-Messages.htm
//! [Securing Inbound SMS Webhooks]: https://docs.intelepeer.com/Atmosphere/Content/Atmosphere-SMS-Messaging/SMS-APIs/Securing-Inbound-SMS-Webhooks.htm

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};
use serde_json::json;
use url::Url;

use crate::message::Name;
use crate::model::lint::{self, Lint};
use crate::network;
use crate::resolver::Resolver;
use crate::secret::{Secret, Secrets};

use super::{Composed, Receipt, Received, Refusal, Request, Sample, Source};
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
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What the `signature` field of a webhook must be.
    #[serde(default)]
    pub verify: Verify,
    /// The shared code, or the key of the HMAC.
    pub secret: Option<Secrets>,
    /// The user name and password inside the webhook's URL.
    pub basic_auth: Option<BasicAuth>,
    /// The only addresses that may call.
    #[serde(default, deserialize_with = "networks")]
    pub allow_from: Option<Vec<IpNet>>,
    /// How the HMAC is made, with `verify = "hmac"`.
    pub hmac: Option<hmac::Config>,
    /// The management API, for `smsbridge intelepeer webhook`.
    pub api: Option<api::Config>,
}

/// How a webhook proves that the carrier sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verify {
    /// `signature` is the secret itself.
    #[default]
    SharedCode,
    /// `signature` is an HMAC with the secret as key.
    Hmac,
    /// `signature` is not looked at.
    None,
}

/// `basic_auth`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BasicAuth {
    /// Contains no colon: HTTP cannot say where such a name ends.
    pub username: String,
    /// May contain colons.
    pub password: Secrets,
}

impl Config {
    /// What is legal and probably a mistake. `exposed` says that other machines can post to the source.
    #[must_use]
    pub fn lints(&self, exposed: bool) -> Vec<Lint> {
        let mut lints = Vec::new();
        let open = self.basic_auth.is_none() && self.allow_from.is_none();
        if self.verify == Verify::None && open {
            let message =
                "is \"none\", and there is no `basic_auth` or `allow_from`: anybody can send messages";
            lints.push(Lint::new("verify", message));
        }
        if self.verify == Verify::None && self.secret.is_some() {
            lints.push(Lint::new("secret", "is not used, because `verify` is \"none\""));
        }
        if self.verify == Verify::Hmac {
            let found = self.hmac.clone().unwrap_or_default().warnings();
            lints.extend(found.into_iter().map(|message| Lint::new("hmac", message)));
        }
        let password = self.basic_auth.as_ref().map(|auth| &auth.password);
        let inward = [
            ("secret", self.secret.as_ref()),
            ("basic_auth.password", password),
        ];
        for (key, secrets) in inward.into_iter().filter(|_| exposed) {
            let weak = secrets.and_then(|secrets| secrets.find(lint::weak_secret));
            lints.extend(weak.map(|message| Lint::new(key, message)));
        }
        lints.extend(self.api.iter().flat_map(api::Config::lints));
        lints
    }

    /// What the carrier must call: `public_url` and the source's path, with `basic_auth` inside. A secret,
    /// because of the password.
    ///
    /// # Errors
    /// A sentence for the operator when the URL can have no user name.
    pub fn webhook_url(&self, public_url: &Url, path: &str) -> Result<Secret, String> {
        let mut url = public_url.clone();
        url.set_path(&format!(
            "{}/{}",
            public_url.path().trim_end_matches('/'),
            path.trim_start_matches('/')
        ));
        if let Some(auth) = &self.basic_auth {
            let password = auth.password.all().first().map(Secret::reveal);
            let set = url
                .set_username(&auth.username)
                .and_then(|()| url.set_password(password));
            set.map_err(|()| {
                "`server.public_url` cannot carry `basic_auth`: it must be an https URL".to_owned()
            })?;
        }
        Ok(Secret::new(url.as_str()))
    }

    /// The account's numbers, to be looked after; nothing when there is nothing to look after.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn upstream(
        &self,
        public_url: Option<&Url>,
        path: &str,
        resolver: &Resolver,
    ) -> Result<Option<Box<dyn super::Upstream>>, String> {
        let account = upstream::Account::build(self, public_url, path, resolver)?;
        Ok(account.map(|account| Box::new(account) as Box<dyn super::Upstream>))
    }

    /// The `signature` the carrier would send with this text, made with the first secret; nothing with
    /// `verify = "none"`. `smsbridge simulate` plays the carrier with it.
    ///
    /// # Errors
    /// A sentence for the operator when the configuration could not be built either.
    pub fn sign(&self, signed: &hmac::Signed<'_>) -> Result<Option<String>, String> {
        Ok(verify::Signature::build(self)?.sign(signed))
    }
}

/// One IntelePeer account's webhook.
#[derive(Debug)]
pub struct Intelepeer {
    caller: verify::Caller,
    signature: verify::Signature,
}

impl Intelepeer {
    /// Makes the source ready to run.
    ///
    /// # Errors
    /// A sentence for the operator, without the source's name.
    pub fn build(_name: &Name, config: &Config) -> Result<Self, String> {
        if let Some(api) = &config.api {
            api.validate().map_err(|error| format!("`api`: {error}"))?;
        }
        Ok(Self {
            caller: verify::Caller::build(config)?,
            signature: verify::Signature::build(config)?,
        })
    }

    /// Cheap checks first, and nothing of the body is believed before its signature is right. What is known to be
    /// the carrier's is read however odd it is.
    fn read(&self, request: &Request<'_>) -> Result<super::Incoming, Refusal> {
        self.caller.check(request.client, request.headers)?;
        let Body { fields, broken } = Body::read(request.headers, request.body);
        if let Err(refusal) = self.signature.check(&fields) {
            return Err(broken.unwrap_or(refusal));
        }
        let known = self.caller.is_checked() || self.signature.is_checked();
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
    fn receive(&self, request: &Request<'_>) -> Received {
        match self.read(request) {
            Ok(incoming) => Received::Messages(vec![incoming]),
            Err(refusal) => Received::Refused(refusal),
        }
    }

    /// The carrier only looks at the status; the body is for whoever debugs with curl.
    fn reply(&self, receipts: &[Receipt]) -> serde_json::Value {
        match receipts.first() {
            Some(Receipt { id, duplicate: false }) => json!({ "status": "accepted", "id": id }),
            Some(Receipt { id, duplicate: true }) => json!({ "status": "duplicate", "id": id }),
            None => json!({ "status": "ignored" }),
        }
    }

    fn compose(&self, sample: &Sample<'_>) -> Composed {
        compose::compose(self, sample)
    }
}

fn malformed(error: impl Into<String>) -> Refusal {
    Refusal {
        status: http::StatusCode::BAD_REQUEST,
        reason: "malformed",
        error: error.into(),
    }
}

/// Networks, or single addresses without their `/32`.
fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<IpNet>>, D::Error> {
    let read = |text: &String| {
        network::parse(text).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "`{text}` is neither a network (`203.0.113.0/24`) nor an address (`203.0.113.7`)"
            ))
        })
    };
    Vec::<String>::deserialize(deserializer)?
        .iter()
        .map(read)
        .collect::<Result<_, _>>()
        .map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(toml: &str) -> Result<Intelepeer, String> {
        let config: Config = toml::from_str(toml).map_err(|error| error.message().to_owned())?;
        Intelepeer::build(&"carrier".parse().unwrap(), &config)
    }

    #[test]
    fn a_configuration_that_cannot_work_is_refused_in_words() {
        for (toml, words) in [
            ("", "`secret` is missing"),
            ("verify = 'hmac'", "`secret` is missing"),
            ("verify = 'md5'", "unknown variant `md5`"),
            ("secret = ''", "must not be empty"),
            ("secret = 'x'\nsigned = true", "unknown field `signed`"),
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
            ("verify = 'none'\nallow_from = []", "`allow_from` is empty"),
            (
                "verify = 'none'\nallow_from = ['example.com']",
                "neither a network",
            ),
            (
                "verify = 'none'\nbasic_auth = { username = 'a:b', password = 'c' }",
                "colon",
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
            "verify = 'none'\nallow_from = ['203.0.113.7', '2001:db8::/32']",
        ] {
            assert!(build(toml).is_ok(), "{toml}: {:?}", build(toml).err());
        }
    }

    #[test]
    fn what_is_probably_not_meant_is_warned_of() {
        for (toml, count) in [
            ("secret = 'x'", 0),
            ("verify = 'none'", 1),
            ("verify = 'none'\nallow_from = ['203.0.113.7']", 0),
            ("verify = 'none'\nsecret = 'x'", 2),
            ("verify = 'hmac'\nsecret = 'x'", 0),
            ("verify = 'hmac'\nsecret = 'x'\nhmac = { over = '{from}' }", 2),
        ] {
            let config: Config = toml::from_str(toml).unwrap();
            let lints = config.lints(false);
            assert_eq!(lints.len(), count, "{toml}: {lints:?}");
        }
    }

    #[test]
    fn weak_secrets_are_warned_of_where_others_can_post() {
        let toml = "secret = ['a long secret of 32 characters', 'short']\n\
                    basic_auth = { username = 'u', password = 'change-me' }\n\
                    api = { token = 't', api_url = 'http://gateway.example.com', numbers = ['+13038675309'] }";
        let config: Config = toml::from_str(toml).unwrap();
        let keys = |exposed| {
            let lints = config.lints(exposed);
            lints.iter().map(|lint| lint.key).collect::<Vec<_>>()
        };
        assert_eq!(keys(true), ["secret", "basic_auth.password", "api.api_url"]);
        assert_eq!(keys(false), ["api.api_url"]);
    }

    #[test]
    fn the_reply_tells_new_from_repeated() {
        let source = build("secret = 'x'").unwrap();
        let receipt = Receipt {
            id: "00000000000000000000000000000007".parse().unwrap(),
            duplicate: false,
        };
        let id = "00000000000000000000000000000007";
        assert_eq!(
            source.reply(&[receipt]),
            json!({ "status": "accepted", "id": id })
        );
        let again = Receipt {
            duplicate: true,
            ..receipt
        };
        assert_eq!(source.reply(&[again]), json!({ "status": "duplicate", "id": id }));
    }

    #[test]
    fn the_webhook_url_carries_basic_auth_and_keeps_the_public_path() {
        let config: Config =
            toml::from_str("secret = 'x'\nbasic_auth = { username = 'c r', password = ['p:/@', 'old'] }")
                .unwrap();
        let url = config
            .webhook_url(&Url::parse("https://sms.example.com/b/").unwrap(), "/inbound/x")
            .unwrap();
        assert_eq!(
            url.reveal(),
            "https://c%20r:p%3A%2F%40@sms.example.com/b/inbound/x"
        );
    }

    #[test]
    fn a_source_never_shows_its_secrets() {
        let toml = "secret = 'canary1'\nbasic_auth = { username = 'u', password = 'canary2' }";
        let shown = format!("{:?} {:?}", build(toml), toml::from_str::<Config>(toml));
        assert!(!shown.contains("canary"), "{shown}");
    }
}
