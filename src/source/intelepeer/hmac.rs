//! HMAC signatures: what is signed, with which algorithm, and the encoding of the result.
//!
//! The provider documents that `signature` is an HMAC of the reference id, the message body and the account secret,
//! but neither the algorithm nor the order nor the encoding. So all three are configurable.

use deserr::Deserr;

use crate::model::secret::Secret;
use crate::model::setting::Errors;
use crate::source::verify::Hmac;

pub use crate::source::verify::{Algorithm, Encoding};

/// The length of a `refid` according to the provider.
pub const REFID_LENGTH: usize = 32;

/// `hmac`
#[derive(Clone, Debug, PartialEq, Eq, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The hash function of the HMAC.
    #[deserr(default = Self::default().algorithm)]
    pub algorithm: Algorithm,
    /// The encoding of the signature.
    #[deserr(default = Self::default().encoding)]
    pub encoding: Encoding,
    /// The signed text: fields in braces; anything else is literal.
    #[deserr(default = Self::default().over)]
    pub over: String,
    /// The length of every `refid`; a message with another length is rejected. Fields are signed without a separator,
    /// so moving a character from the body to the id would keep the signature valid and turn an old message into a
    /// new one.
    #[deserr(default = Self::default().refid_length)]
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
    /// The attacks that such a signature does not prevent if an attacker has seen one request.
    pub(super) fn warnings(&self) -> Vec<String> {
        [
            ("{refid}", "send a message again under a new id"),
            ("{message}", "change the message"),
        ]
        .into_iter()
        .filter(|(field, _)| !self.over.contains(field))
        .map(|(field, harm)| format!("`hmac.over` lacks {field}: anyone who saw one request can {harm}"))
        .collect()
    }
}

/// The fields of a message that can be signed, as received; empty if missing.
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

/// A validated [`Config`].
#[derive(Clone, Debug)]
pub struct Scheme {
    hmac: Hmac,
    over: Vec<Part>,
    refid_length: usize,
}

impl Scheme {
    /// Validates `over`.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn build(config: &Config) -> Result<Self, String> {
        let over = parts(&config.over).map_err(|error| format!("`hmac.over`: {error}"))?;
        Ok(Self {
            hmac: Hmac {
                algorithm: config.algorithm,
                encoding: config.encoding,
            },
            over,
            refid_length: config.refid_length,
        })
    }

    /// The required length of a `refid`, in bytes.
    #[must_use]
    pub fn refid_length(&self) -> usize {
        self.refid_length
    }

    /// The signature that the carrier would send.
    #[must_use]
    pub fn sign(&self, key: &Secret, signed: &Signed<'_>) -> Option<String> {
        self.hmac.sign(key, &self.parts(signed))
    }

    /// Returns true if the signature is valid for one of the keys.
    #[must_use]
    pub fn verify(&self, keys: &[Secret], signed: &Signed<'_>, signature: &str) -> bool {
        self.hmac.verify(keys, &self.parts(signed), signature)
    }

    fn parts<'a>(&'a self, signed: &Signed<'a>) -> Vec<&'a [u8]> {
        self.over.iter().map(|part| part.of(signed).as_bytes()).collect()
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
        return Err("names no field, so every message would have the same signature".to_owned());
    }
    parts.extend((!rest.is_empty()).then(|| Part::Literal(rest.to_owned())));
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_signed_unchanged() {
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
        let mac = Algorithm::Sha256.mac(b"k", &[b"v1:+1|+2\n"]).unwrap();
        assert_eq!(scheme.sign(&Secret::new("k"), &signed), Some(hex::encode(mac)));
    }
}
