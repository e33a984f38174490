//! Who may send texts: the caller's address and Basic auth, and the body's signature.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, StatusCode, header};
use ipnet::IpNet;
use subtle::ConstantTimeEq as _;

use crate::secret::Secrets;

use super::body::Fields;
use super::hmac::{Scheme, Signed};
use super::{BasicAuth, Config, Refusal, Verify, malformed};

/// What is checked before the body is looked at.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    allow_from: Option<Vec<IpNet>>,
    basic_auth: Option<BasicAuth>,
}

impl Caller {
    pub(super) fn build(config: &Config) -> Result<Self, String> {
        if config.allow_from.as_ref().is_some_and(Vec::is_empty) {
            return Err(
                "`allow_from` is empty, so nobody could call: list a network, or leave it out".to_owned(),
            );
        }
        if config
            .basic_auth
            .as_ref()
            .is_some_and(|auth| auth.username.contains(':'))
        {
            return Err("`basic_auth.username` must not contain a colon".to_owned());
        }
        Ok(Self {
            allow_from: config.allow_from.clone(),
            basic_auth: config.basic_auth.clone(),
        })
    }

    pub(super) fn basic_auth(&self) -> Option<&BasicAuth> {
        self.basic_auth.as_ref()
    }

    /// Whether anything about the caller is checked at all.
    pub(super) fn is_checked(&self) -> bool {
        self.allow_from.is_some() || self.basic_auth.is_some()
    }

    pub(super) fn check(&self, client: IpAddr, headers: &HeaderMap) -> Result<(), Refusal> {
        let client = client.to_canonical();
        if let Some(networks) = &self.allow_from
            && !networks.iter().any(|network| network.contains(&client))
        {
            return Err(forbidden());
        }
        if let Some(auth) = &self.basic_auth
            && !auth.accepts(headers)
        {
            return Err(refused(StatusCode::UNAUTHORIZED, "unauthorized"));
        }
        Ok(())
    }
}

impl BasicAuth {
    fn accepts(&self, headers: &HeaderMap) -> bool {
        let Some(credentials) = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| basic(value.as_bytes()))
        else {
            return false;
        };
        let colon = credentials
            .iter()
            .position(|&byte| byte == b':')
            .unwrap_or(credentials.len());
        let (username, password) = credentials.split_at(colon);
        let username: bool = self.username.as_bytes().ct_eq(username).into();
        username
            & self
                .password
                .any_matches(password.strip_prefix(b":").unwrap_or_default())
    }
}

/// `USER:PASSWORD` from the value of an `Authorization` header.
fn basic(value: &[u8]) -> Option<Vec<u8>> {
    const BASE64: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let (scheme, encoded) = value.split_at_checked("Basic ".len())?;
    scheme
        .eq_ignore_ascii_case(b"Basic ")
        .then(|| BASE64.decode(encoded.trim_ascii()).ok())
        .flatten()
}

/// What the `signature` field must be.
#[derive(Clone, Debug)]
pub(super) enum Signature {
    Unchecked,
    SharedCode(Secrets),
    Hmac(Scheme, Secrets),
}

impl Signature {
    pub(super) fn build(config: &Config) -> Result<Self, String> {
        if config.hmac.is_some() && config.verify != Verify::Hmac {
            return Err("`hmac` is only for `verify = \"hmac\"`".to_owned());
        }
        let secret = || {
            config.secret.clone().ok_or_else(|| {
                "`secret` is missing: the code set in the carrier's portal (or `verify = \"none\"`)"
                    .to_owned()
            })
        };
        Ok(match config.verify {
            Verify::None => Self::Unchecked,
            Verify::SharedCode => Self::SharedCode(secret()?),
            Verify::Hmac => Self::Hmac(
                Scheme::build(&config.hmac.clone().unwrap_or_default())?,
                secret()?,
            ),
        })
    }

    pub(super) fn check(&self, fields: &Fields) -> Result<(), Refusal> {
        let right = match self {
            Self::Unchecked => true,
            Self::SharedCode(secrets) => secrets.any_matches(fields.required_text("signature")?.as_bytes()),
            Self::Hmac(scheme, secrets) => {
                let signature = fields.required_text("signature")?;
                let [refid, from, to, message] =
                    ["refid", "from", "to", "message"].map(|name| fields.text(name));
                let signed = Signed {
                    refid: &refid,
                    from: &from,
                    to: &to,
                    message: &message,
                };
                if signed.refid.len() != scheme.refid_length() {
                    let length = scheme.refid_length();
                    return Err(malformed(format!(
                        "`refid` must have {length} characters (`hmac.refid_length`)"
                    )));
                }
                scheme.verify(secrets.all(), &signed, signature)
            }
        };
        if right { Ok(()) } else { Err(forbidden()) }
    }

    /// Whether it is looked at.
    pub(super) fn is_checked(&self) -> bool {
        !matches!(self, Self::Unchecked)
    }

    /// The signature the carrier would send.
    pub(super) fn sign(&self, signed: &Signed<'_>) -> Option<String> {
        match self {
            Self::Unchecked => None,
            Self::SharedCode(secrets) => secrets.all().first().map(|secret| secret.reveal().to_owned()),
            Self::Hmac(scheme, secrets) => secrets.all().first().and_then(|key| scheme.sign(key, signed)),
        }
    }
}

fn forbidden() -> Refusal {
    refused(StatusCode::FORBIDDEN, "forbidden")
}

/// The same words for every cause, so that no answer tells how close a guess was.
fn refused(status: StatusCode, reason: &'static str) -> Refusal {
    Refusal {
        status,
        reason,
        error: "refused".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_auth_takes_any_of_several_passwords_even_with_colons() {
        let auth: BasicAuth = toml::from_str("username = 'carrier'\npassword = ['old', 'a:b:c']").unwrap();
        for (credentials, expected) in [
            ("Basic Y2FycmllcjpvbGQ=", true),     // carrier:old
            ("basic Y2FycmllcjpvbGQ", true),      // the same without padding
            ("Basic Y2FycmllcjphOmI6Yw==", true), // carrier:a:b:c
            ("Basic Y2FycmllcjphOmI=", false),    // carrier:a:b
            ("Basic Y2FycmllcjI6b2xk", false),    // carrier2:old
            ("Basic Y2Fycmllcg==", false),        // carrier
            ("Bearer Y2FycmllcjpvbGQ=", false),
            ("Basic *", false),
            ("Basic", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, credentials.parse().unwrap())]);
            assert_eq!(auth.accepts(&headers), expected, "{credentials}");
        }
        assert!(!auth.accepts(&HeaderMap::new()));
    }

    #[test]
    fn an_ipv4_address_is_recognised_inside_ipv6() {
        let config: Config = toml::from_str("secret = 'x'\nallow_from = ['203.0.113.0/24']").unwrap();
        let caller = Caller::build(&config).unwrap();
        for (client, allowed) in [
            ("203.0.113.9", true),
            ("::ffff:203.0.113.9", true),
            ("203.0.114.9", false),
        ] {
            assert_eq!(
                caller.check(client.parse().unwrap(), &HeaderMap::new()).is_ok(),
                allowed,
                "{client}"
            );
        }
    }
}
