//! HMAC signatures: what is signed, how, and how the result is written.
//!
//! The provider says that `signature` is an HMAC of the reference id, the message body and the account
//! secret, and not which, in what order or encoding; so all three are configurable.

use ::hmac::{Hmac, KeyInit, Mac};
use base64::Engine as _;
use serde::Deserialize;
use subtle::ConstantTimeEq as _;

use crate::secret::Secret;

/// The length of a `refid`, as the provider documents it.
pub const REFID_LENGTH: usize = 32;

/// `hmac`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The hash inside.
    pub algorithm: Algorithm,
    /// How the signature is written.
    pub encoding: Encoding,
    /// What is signed: fields in braces, anything else as it stands.
    pub over: String,
    /// The length every `refid` has; a text with another is refused. Fields are signed run together, so a
    /// character moved from the text to the id would keep the signature, and make a "new" text of an old one.
    pub refid_length: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Sha256,
            encoding: Encoding::Hex,
            over: "{refid}{message}".to_owned(),
            refid_length: REFID_LENGTH,
        }
    }
}

impl Config {
    /// What a signature like this leaves open to somebody who saw one request.
    pub(super) fn warnings(&self) -> Vec<String> {
        [
            ("{refid}", "send a text again under a new id"),
            ("{message}", "change the text"),
        ]
        .into_iter()
        .filter(|(field, _)| !self.over.contains(field))
        .map(|(field, harm)| format!("`hmac.over` lacks {field}: whoever saw one request can {harm}"))
        .collect()
    }
}

/// The hash inside the HMAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// HMAC-MD5
    Md5,
    /// HMAC-SHA-1
    Sha1,
    /// HMAC-SHA-256
    Sha256,
    /// HMAC-SHA-512
    Sha512,
}

impl Algorithm {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha512];

    /// As in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The HMAC, or nothing if the key is unusable, which no key is: never something that could match.
    #[must_use]
    pub fn mac(self, key: &Secret, data: &[u8]) -> Option<Vec<u8>> {
        let key = key.reveal().as_bytes();
        match self {
            Self::Md5 => finish::<Hmac<md5::Md5>>(key, data),
            Self::Sha1 => finish::<Hmac<sha1::Sha1>>(key, data),
            Self::Sha256 => finish::<Hmac<sha2::Sha256>>(key, data),
            Self::Sha512 => finish::<Hmac<sha2::Sha512>>(key, data),
        }
    }
}

fn finish<M: Mac + KeyInit>(key: &[u8], data: &[u8]) -> Option<Vec<u8>> {
    let mut mac = <M as KeyInit>::new_from_slice(key).ok()?;
    mac.update(data);
    Some(mac.finalize().into_bytes().to_vec())
}

/// How a signature is written. It is compared decoded, so that neither the case of hexadecimal digits nor
/// base64's alphabet and padding matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Encoding {
    /// Hexadecimal digits, lowercase when the bridge writes them.
    #[serde(rename = "hex")]
    Hex,
    /// Hexadecimal digits, uppercase when the bridge writes them.
    #[serde(rename = "HEX")]
    HexUpper,
    /// Base64, standard or URL-safe, with or without padding.
    #[serde(rename = "base64")]
    Base64,
}

impl Encoding {
    /// As in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hex => "hex",
            Self::HexUpper => "HEX",
            Self::Base64 => "base64",
        }
    }

    /// The signature as the carrier would write it.
    #[must_use]
    pub fn encode(self, mac: &[u8]) -> String {
        match self {
            Self::Hex => hex::encode(mac),
            Self::HexUpper => hex::encode_upper(mac),
            Self::Base64 => base64::engine::general_purpose::STANDARD.encode(mac),
        }
    }

    /// The bytes of a signature as received.
    #[must_use]
    pub fn decode(self, signature: &str) -> Option<Vec<u8>> {
        match self {
            Self::Hex | Self::HexUpper => hex::decode(signature).ok(),
            Self::Base64 => {
                let standard = signature
                    .trim_end_matches('=')
                    .replace('-', "+")
                    .replace('_', "/");
                base64::engine::general_purpose::STANDARD_NO_PAD
                    .decode(standard)
                    .ok()
            }
        }
    }
}

/// The fields of a text that a signature can be made over, as received; empty where there is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Signed<'a> {
    /// `refid`
    pub refid: &'a str,
    /// `from`
    pub from: &'a str,
    /// `to`
    pub to: &'a str,
    /// `message`
    pub message: &'a str,
}

/// A [`Config`] that was checked.
#[derive(Clone, Debug)]
pub struct Scheme {
    algorithm: Algorithm,
    encoding: Encoding,
    over: Vec<Part>,
    refid_length: usize,
}

impl Scheme {
    /// Checks `over`.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn build(config: &Config) -> Result<Self, String> {
        let over = parts(&config.over).map_err(|error| format!("`hmac.over`: {error}"))?;
        Ok(Self {
            algorithm: config.algorithm,
            encoding: config.encoding,
            over,
            refid_length: config.refid_length,
        })
    }

    /// The length a `refid` must have, in bytes.
    #[must_use]
    pub fn refid_length(&self) -> usize {
        self.refid_length
    }

    /// The signature the carrier would send.
    #[must_use]
    pub fn sign(&self, key: &Secret, signed: &Signed<'_>) -> Option<String> {
        self.mac(key, signed).map(|mac| self.encoding.encode(&mac))
    }

    /// Whether the signature is right under any of the keys; all are tried, so that time tells nothing.
    #[must_use]
    pub fn verify(&self, keys: &[Secret], signed: &Signed<'_>, signature: &str) -> bool {
        let Some(candidate) = self.encoding.decode(signature) else {
            return false;
        };
        keys.iter().fold(false, |found, key| {
            self.mac(key, signed)
                .is_some_and(|mac| mac.ct_eq(&candidate).into())
                | found
        })
    }

    fn mac(&self, key: &Secret, signed: &Signed<'_>) -> Option<Vec<u8>> {
        let data: String = self.over.iter().map(|part| part.of(signed)).collect();
        self.algorithm.mac(key, data.as_bytes())
    }
}

#[derive(Clone, Debug)]
enum Part {
    Literal(String),
    Refid,
    From,
    To,
    Message,
}

impl Part {
    fn of<'a>(&'a self, signed: &Signed<'a>) -> &'a str {
        match self {
            Self::Literal(text) => text,
            Self::Refid => signed.refid,
            Self::From => signed.from,
            Self::To => signed.to,
            Self::Message => signed.message,
        }
    }
}

fn parts(over: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = over;
    while let Some((literal, field)) = rest.split_once('{') {
        let (name, after) = field.split_once('}').ok_or("a `{` has no `}`")?;
        parts.extend((!literal.is_empty()).then(|| Part::Literal(literal.to_owned())));
        parts.push(match name {
            "refid" => Part::Refid,
            "from" => Part::From,
            "to" => Part::To,
            "message" => Part::Message,
            _ => {
                return Err(format!(
                    "there is no field {{{name}}}; known are refid, from, to, message"
                ));
            }
        });
        rest = after;
    }
    if parts.is_empty() {
        return Err("names no field, so every text would have the same signature".to_owned());
    }
    parts.extend((!rest.is_empty()).then(|| Part::Literal(rest.to_owned())));
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 2202 and RFC 4231, test case 2.
    #[test]
    fn the_macs_are_those_of_the_rfcs() {
        for (algorithm, expected) in [
            (Algorithm::Md5, "750c783e6ab0b503eaa86e310a5db738"),
            (Algorithm::Sha1, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
            (
                Algorithm::Sha256,
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
        ] {
            let mac = algorithm
                .mac(&Secret::new("Jefe"), b"what do ya want for nothing?")
                .unwrap();
            assert_eq!(hex::encode(mac), expected, "{algorithm:?}");
        }
    }

    #[test]
    fn a_signature_is_compared_decoded() {
        let signed = Signed {
            refid: "R",
            message: "M",
            ..Signed::default()
        };
        let keys = [Secret::new("old"), Secret::new("new")];
        for encoding in [Encoding::Hex, Encoding::HexUpper, Encoding::Base64] {
            let scheme = Scheme::build(&Config {
                encoding,
                ..Config::default()
            })
            .unwrap();
            let signature = scheme.sign(&keys[1], &signed).unwrap();
            assert!(scheme.verify(&keys, &signed, &signature));
            assert!(!scheme.verify(&keys[..1], &signed, &signature));
            assert!(!scheme.verify(&keys, &signed, ""));
            assert!(!scheme.verify(&keys, &signed, "*"));
            let written_otherwise = match encoding {
                Encoding::Hex => signature.to_uppercase(),
                Encoding::HexUpper => signature.to_lowercase(),
                Encoding::Base64 => signature
                    .trim_end_matches('=')
                    .replace('+', "-")
                    .replace('/', "_"),
            };
            assert!(scheme.verify(&keys, &signed, &written_otherwise));
        }
    }

    #[test]
    fn literals_are_signed_as_they_stand() {
        let over = "v1:{from}|{to}\n".to_owned();
        let scheme = Scheme::build(&Config {
            over,
            ..Config::default()
        })
        .unwrap();
        let signed = Signed {
            from: "+1",
            to: "+2",
            ..Signed::default()
        };
        let mac = Algorithm::Sha256.mac(&Secret::new("k"), b"v1:+1|+2\n").unwrap();
        assert_eq!(scheme.sign(&Secret::new("k"), &signed), Some(hex::encode(mac)));
    }
}
