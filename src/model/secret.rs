//! Secrets that are never printed: `{:?}`, `{}` and serialisation all write `***`.

use std::fmt;

use deserr::{Deserr, IntoValue, Value, ValuePointerRef};
use serde::{Serialize, Serializer};
use subtle::ConstantTimeEq as _;

use super::setting::{self, Errors, Wrong};

/// A password, token, shared code or secret URL.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// Returns the secret, only for code that sends or compares it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Compares in constant time.
    #[must_use]
    pub fn matches(&self, candidate: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(candidate).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// The configuration has already replaced `{ env | file | credential = … }` by the secret, so it is always a string
/// here.
impl Deserr<Errors> for Secret {
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef<'_>,
    ) -> Result<Self, Errors> {
        setting::text(value, location, EXPECTED, |text| {
            let is_given = !text.is_empty();
            is_given
                .then(|| Self::new(text))
                .ok_or_else(|| "a secret must not be empty".to_owned())
        })
    }
}

const EXPECTED: &str =
    "a secret: a string, { env = \"NAME\" }, { file = \"PATH\" } or { credential = \"NAME\" }";

/// The placeholder of a secret that was not read, as in `smsbridge route`. It has the form of a signing key, so that
/// kinds which decode their keys accept it.
pub const UNREAD: &str = "whsec_cGxhY2Vob2xkZXItZm9yLWEtc2VjcmV0LW5vdC1yZWFk";

/// Parses a URL of the configuration. A placeholder becomes a valid URL.
///
/// # Errors
/// When it is not a URL.
pub fn parse_url(text: &str) -> Result<url::Url, url::ParseError> {
    match text.strip_prefix(UNREAD) {
        Some(rest) => url::Url::parse("https://secret.invalid/")?.join(rest),
        None => url::Url::parse(text),
    }
}

/// One secret or a list of them, for rotation. Any of them is accepted in requests; the first one is used for
/// sending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secrets(Vec<Secret>);

impl Secrets {
    /// All secrets; never empty.
    #[must_use]
    pub fn all(&self) -> &[Secret] {
        &self.0
    }

    /// The one that is used for sending.
    ///
    /// # Errors
    /// Never in practice: the list is not empty.
    pub fn first(&self) -> Result<&Secret, String> {
        self.0.first().ok_or_else(|| "a secret is needed".to_owned())
    }

    /// The first result of `look` for any of the secrets.
    pub fn find<T>(&self, look: impl Fn(&str) -> Option<T>) -> Option<T> {
        self.0.iter().find_map(|secret| look(secret.reveal()))
    }

    /// Returns true if any of the secrets equals the candidate. Compares with all of them, so that the time does not
    /// depend on which one matches.
    #[must_use]
    pub fn any_matches(&self, candidate: &[u8]) -> bool {
        self.0
            .iter()
            .fold(false, |found, secret| secret.matches(candidate) | found)
    }
}

#[cfg(test)]
impl<const N: usize> From<[&str; N]> for Secrets {
    fn from(secrets: [&str; N]) -> Self {
        Self(secrets.into_iter().map(Secret::new).collect())
    }
}

impl From<Secret> for Secrets {
    fn from(secret: Secret) -> Self {
        Self(vec![secret])
    }
}

impl Deserr<Errors> for Secrets {
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef<'_>,
    ) -> Result<Self, Errors> {
        match value {
            Value::String(_) => Secret::deserialize_from_value(value, location).map(Self::from),
            Value::Sequence(_) => {
                let secrets = Vec::<Secret>::deserialize_from_value(value, location)?;
                if secrets.is_empty() {
                    let message = "at least one secret is needed".to_owned();
                    return Err(Errors::at(location, Wrong::Other(message)));
                }
                Ok(Self(secrets))
            }
            other => {
                let expected = format!("{EXPECTED}, or a list of them");
                Err(Errors::mistyped(location, &expected, other.kind()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_secret_prints_as_stars_everywhere() {
        let secret = Secret::new("hunter2");
        let many = Secrets(vec![secret.clone()]);
        let shown = format!(
            "{secret} {secret:?} {many:?} {}",
            serde_json::to_string(&secret).unwrap()
        );
        assert_eq!(shown, "*** *** Secrets([***]) \"***\"");
    }

    #[test]
    fn a_placeholder_is_a_valid_url() {
        let parsed = |text: &str| parse_url(text).map(String::from);
        assert_eq!(parsed("https://a.example"), Ok("https://a.example/".to_owned()));
        assert_eq!(parsed(UNREAD), Ok("https://secret.invalid/".to_owned()));
        let below = format!("{UNREAD}/chat.postMessage");
        assert_eq!(
            parsed(&below),
            Ok("https://secret.invalid/chat.postMessage".to_owned())
        );
        assert!(parsed("a.example").is_err());
    }

    #[test]
    fn any_of_several_secrets_matches() {
        let read = |toml: &str| {
            let table: BTreeMap<String, Secrets> = setting::from_toml(toml)?;
            table.into_values().next().ok_or_else(String::new)
        };
        let secrets = read("x = ['old', 'new']").unwrap();
        assert!(secrets.any_matches(b"old") && secrets.any_matches(b"new"));
        assert!(!secrets.any_matches(b"ol") && !secrets.any_matches(b""));
        assert!(read("x = []").is_err());
        assert!(read("x = ''").is_err());
    }
}
