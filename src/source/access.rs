//! Access control of a source, the same for every kind: `allow_from` and `basic_auth`.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use deserr::Deserr;
use http::{HeaderMap, HeaderValue, header};
use ipnet::IpNet;
use subtle::ConstantTimeEq as _;
use url::Url;

use super::Refusal;
use crate::model::lint::{self, Lint};
use crate::model::secret::{Secret, Secrets};
use crate::model::setting::Errors;
use crate::model::units::{Network, some_list};

/// The conditions that a caller must meet before its request is read.
#[derive(Clone, Debug, Default, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Access {
    /// The user name and password that the carrier sends.
    #[deserr(default)]
    pub basic_auth: Option<BasicAuth>,
    /// The networks that may call.
    #[deserr(default, from(Vec<Network>) = some_list)]
    pub allow_from: Option<Vec<IpNet>>,
}

/// `basic_auth`
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct BasicAuth {
    /// Contains no colon: in Basic authentication the first colon ends the user name.
    pub username: String,
    /// May contain colons.
    pub password: Secrets,
}

impl Access {
    /// Checks what the types do not enforce.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn validate(&self) -> Result<(), String> {
        if self.allow_from.as_ref().is_some_and(Vec::is_empty) {
            return Err(
                "`allow_from` is empty, so every request would be rejected: list a network, or remove the key".to_owned(),
            );
        }
        let auth = self.basic_auth.as_ref();
        if auth.is_some_and(|auth| auth.username.contains(':')) {
            return Err("`basic_auth.username` must not contain a colon".to_owned());
        }
        Ok(())
    }

    /// Settings that are legal but probably a mistake. `exposed` means that other machines can post to the source.
    #[must_use]
    pub fn lints(&self, exposed: bool) -> Vec<Lint> {
        let auth = self.basic_auth.as_ref().filter(|_| exposed);
        let weak = auth.and_then(|auth| auth.password.find(lint::weak_secret));
        let lint = weak.map(|message| Lint::new("basic_auth.password", message));
        lint.into_iter().collect()
    }

    /// Returns true if anything about the caller is checked.
    #[must_use]
    pub fn is_checked(&self) -> bool {
        self.allow_from.is_some() || self.basic_auth.is_some()
    }

    /// Rejects callers from other addresses and callers without valid credentials.
    ///
    /// # Errors
    /// 403 or 401.
    pub fn check(&self, client: IpAddr, headers: &HeaderMap) -> Result<(), Refusal> {
        let client = client.to_canonical();
        if let Some(networks) = &self.allow_from
            && !networks.iter().any(|network| network.contains(&client))
        {
            return Err(Refusal::forbidden());
        }
        if let Some(auth) = &self.basic_auth
            && !auth.accepts(headers)
        {
            return Err(Refusal::unauthorized());
        }
        Ok(())
    }

    /// The URL to configure at the carrier: `public_url` and the path of the source, including `basic_auth`. A
    /// secret, because it contains the password.
    ///
    /// # Errors
    /// A sentence for the operator when the URL cannot contain a user name.
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

    /// A value of the `Authorization` header that is accepted.
    #[must_use]
    pub fn authorization(&self) -> Option<HeaderValue> {
        let password = self.password.all().first()?;
        let pair = format!("{}:{}", self.username, password.reveal());
        let mut value = HeaderValue::from_str(&format!(
            "Basic {}",
            base64::prelude::BASE64_STANDARD.encode(pair)
        ))
        .ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// Decodes `USER:PASSWORD` from the value of an `Authorization` header.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn access(toml: &str) -> Result<Access, String> {
        let access: Access = crate::model::setting::from_toml(toml)?;
        access.validate().map(|()| access)
    }

    #[test]
    fn access_settings_that_cannot_work_are_rejected() {
        for (toml, words) in [
            ("allow_from = []", "`allow_from` is empty"),
            ("allow_from = ['example.com']", "is not an address like"),
            ("basic_auth = { username = 'a:b', password = 'c' }", "colon"),
        ] {
            let error = access(toml).err().unwrap_or_else(|| panic!("accepted: {toml}"));
            assert!(error.contains(words), "{toml}: {error}");
        }
        assert!(access("allow_from = ['203.0.113.7', '2001:db8::/32']").is_ok());
    }

    #[test]
    fn a_weak_password_is_reported_if_other_machines_can_post() {
        let access = access("basic_auth = { username = 'u', password = 'change-me' }").unwrap();
        assert_eq!(access.lints(true).len(), 1);
        assert_eq!(access.lints(false), []);
    }

    #[test]
    fn basic_auth_takes_any_of_several_passwords_even_with_colons() {
        let auth: BasicAuth =
            crate::model::setting::from_toml("username = 'carrier'\npassword = ['old', 'a:b:c']").unwrap();
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
        let own = HeaderMap::from_iter([(header::AUTHORIZATION, auth.authorization().unwrap())]);
        assert!(auth.accepts(&own));
    }

    /// The example in Bandwidth's documentation, for the user `bwuser` with a colon and an `@` in the password.
    #[test]
    fn a_password_may_contain_url_delimiters() {
        let auth: BasicAuth =
            crate::model::setting::from_toml("username = 'bwuser'\npassword = 'p@ss:word'").unwrap();
        assert_eq!(auth.authorization().unwrap(), "Basic Ynd1c2VyOnBAc3M6d29yZA==");
    }

    #[test]
    fn an_ipv4_address_is_recognised_inside_ipv6() {
        let access = access("allow_from = ['203.0.113.0/24']").unwrap();
        for (client, allowed) in [
            ("203.0.113.9", true),
            ("::ffff:203.0.113.9", true),
            ("203.0.114.9", false),
        ] {
            assert_eq!(
                access.check(client.parse().unwrap(), &HeaderMap::new()).is_ok(),
                allowed,
                "{client}"
            );
        }
    }

    #[test]
    fn the_webhook_url_carries_basic_auth_and_keeps_the_public_path() {
        let access = access("basic_auth = { username = 'c r', password = ['p:/@', 'old'] }").unwrap();
        let url = access
            .webhook_url(&Url::parse("https://sms.example.com/b/").unwrap(), "/inbound/x")
            .unwrap();
        assert_eq!(
            url.reveal(),
            "https://c%20r:p%3A%2F%40@sms.example.com/b/inbound/x"
        );
    }
}
