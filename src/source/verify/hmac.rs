//! HMAC signatures over bytes that the source assembles.

use ::hmac::{KeyInit, Mac};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use deserr::Deserr;
use subtle::ConstantTimeEq as _;

use super::signing_key;
use crate::model::secret::{Secret, Secrets};
use crate::model::setting::Errors;

/// The hash function of the HMAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserr)]
#[deserr(error = Errors, rename_all = lowercase)]
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
    /// All algorithms.
    pub const ALL: [Self; 4] = [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha512];

    /// The name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The HMAC over the concatenation of `parts`. HMAC accepts keys of any length, so this is never `None` in
    /// practice.
    #[must_use]
    pub fn mac(self, key: &[u8], parts: &[&[u8]]) -> Option<Vec<u8>> {
        match self {
            Self::Md5 => finish::<::hmac::Hmac<md5::Md5>>(key, parts),
            Self::Sha1 => finish::<::hmac::Hmac<sha1::Sha1>>(key, parts),
            Self::Sha256 => finish::<::hmac::Hmac<sha2::Sha256>>(key, parts),
            Self::Sha512 => finish::<::hmac::Hmac<sha2::Sha512>>(key, parts),
        }
    }
}

fn finish<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Option<Vec<u8>> {
    let mut mac = <M as KeyInit>::new_from_slice(key).ok()?;
    parts.iter().for_each(|part| mac.update(part));
    Some(mac.finalize().into_bytes().to_vec())
}

/// The encoding of a signature. Signatures are compared after decoding, so the case of hexadecimal digits and the
/// alphabet and padding of base64 do not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserr)]
#[deserr(error = Errors)]
pub enum Encoding {
    /// Hexadecimal digits; lowercase in simulated requests.
    #[deserr(rename = "hex")]
    Hex,
    /// Hexadecimal digits; uppercase in simulated requests.
    #[deserr(rename = "HEX")]
    HexUpper,
    /// Base64, standard or URL-safe, with or without padding.
    #[deserr(rename = "base64")]
    Base64,
}

impl Encoding {
    /// The name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hex => "hex",
            Self::HexUpper => "HEX",
            Self::Base64 => "base64",
        }
    }

    /// Encodes a signature.
    #[must_use]
    pub fn encode(self, mac: &[u8]) -> String {
        match self {
            Self::Hex => hex::encode(mac),
            Self::HexUpper => hex::encode_upper(mac),
            Self::Base64 => STANDARD.encode(mac),
        }
    }

    /// Decodes a signature.
    #[must_use]
    pub fn decode(self, signature: &str) -> Option<Vec<u8>> {
        match self {
            Self::Hex | Self::HexUpper => hex::decode(signature).ok(),
            Self::Base64 => {
                let standard = signature
                    .trim_end_matches('=')
                    .replace('-', "+")
                    .replace('_', "/");
                STANDARD_NO_PAD.decode(standard).ok()
            }
        }
    }
}

/// An HMAC algorithm and its encoding, as one carrier uses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hmac {
    /// The hash function.
    pub algorithm: Algorithm,
    /// The encoding of the signature.
    pub encoding: Encoding,
}

/// Upper bound of the signatures in one request.
const SIGNATURES_MAX: usize = 8;

impl Hmac {
    /// HMAC-SHA-1 in base64.
    pub const SHA1_BASE64: Self = Self::of(Algorithm::Sha1, Encoding::Base64);
    /// HMAC-SHA-1 in hexadecimal digits.
    pub const SHA1_HEX: Self = Self::of(Algorithm::Sha1, Encoding::Hex);
    /// HMAC-SHA-256 in base64.
    pub const SHA256_BASE64: Self = Self::of(Algorithm::Sha256, Encoding::Base64);
    /// HMAC-SHA-256 in hexadecimal digits.
    pub const SHA256_HEX: Self = Self::of(Algorithm::Sha256, Encoding::Hex);

    const fn of(algorithm: Algorithm, encoding: Encoding) -> Self {
        Self { algorithm, encoding }
    }

    /// The signature over the concatenation of `parts`.
    #[must_use]
    pub fn sign(self, key: &Secret, parts: &[&[u8]]) -> Option<String> {
        let mac = self.algorithm.mac(key.reveal().as_bytes(), parts)?;
        Some(self.encoding.encode(&mac))
    }

    /// Signs a simulated request.
    ///
    /// # Errors
    /// A sentence for the operator when there is no key.
    pub fn simulate(self, keys: &Secrets, parts: &[&[u8]]) -> Result<String, String> {
        let signature = self.sign(signing_key(keys)?, parts);
        signature.ok_or_else(|| "the key cannot sign".to_owned())
    }

    /// Returns true if the signature is valid for one of the keys. Tries all keys, so that the time does not depend
    /// on which one matches.
    #[must_use]
    pub fn verify(self, keys: &[Secret], parts: &[&[u8]], signature: &str) -> bool {
        let Some(candidate) = self.encoding.decode(signature) else {
            return false;
        };
        keys.iter().fold(false, |found, key| {
            let mac = self.algorithm.mac(key.reveal().as_bytes(), parts);
            mac.is_some_and(|mac| mac.ct_eq(&candidate).into()) | found
        })
    }

    /// Returns true if one of the signatures is valid for one of the keys. Computes only one MAC for each key and
    /// refuses more than eight signatures, because an unverified request must not cost more than that. Compares all
    /// of them, so that the time does not depend on which one matches.
    #[must_use]
    pub fn verify_any<'s>(
        self,
        keys: &[Secret],
        parts: &[&[u8]],
        signatures: impl Iterator<Item = &'s str>,
    ) -> bool {
        let given: Vec<&str> = signatures.take(SIGNATURES_MAX + 1).collect();
        if given.len() > SIGNATURES_MAX {
            return false;
        }
        let decoded = given
            .iter()
            .filter_map(|signature| self.encoding.decode(signature));
        let candidates: Vec<Vec<u8>> = decoded.collect();
        keys.iter().fold(false, |found, key| {
            let mac = self
                .algorithm
                .mac(key.reveal().as_bytes(), parts)
                .unwrap_or_default();
            candidates.iter().fold(found, |found, candidate| {
                bool::from(mac.ct_eq(candidate)) & !mac.is_empty() | found
            })
        })
    }
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
                .mac(b"Jefe", &[b"what do ya want ", b"for nothing?"])
                .unwrap();
            assert_eq!(hex::encode(mac), expected, "{algorithm:?}");
        }
    }

    #[test]
    fn a_signature_is_compared_decoded_and_under_every_key() {
        let keys = [Secret::new("old"), Secret::new("new")];
        for encoding in [Encoding::Hex, Encoding::HexUpper, Encoding::Base64] {
            let hmac = Hmac::of(Algorithm::Sha256, encoding);
            let signature = hmac.sign(&keys[1], &[b"RM"]).unwrap();
            assert!(hmac.verify(&keys, &[b"R", b"M"], &signature));
            assert!(!hmac.verify(&keys[..1], &[b"RM"], &signature));
            assert!(!hmac.verify(&keys, &[b"RM"], ""));
            assert!(!hmac.verify(&keys, &[b"RM"], "*"));
            let written_otherwise = match encoding {
                Encoding::Hex => signature.to_uppercase(),
                Encoding::HexUpper => signature.to_lowercase(),
                Encoding::Base64 => signature
                    .trim_end_matches('=')
                    .replace('+', "-")
                    .replace('/', "_"),
            };
            assert!(hmac.verify(&keys, &[b"RM"], &written_otherwise));
        }
    }

    #[test]
    fn one_valid_signature_of_up_to_eight_is_accepted() {
        let (hmac, keys) = (Hmac::SHA256_BASE64, [Secret::new("old"), Secret::new("new")]);
        let right = hmac.sign(&keys[1], &[b"RM"]).unwrap();
        let verify = |signatures: &[&str]| hmac.verify_any(&keys, &[b"RM"], signatures.iter().copied());
        assert!(verify(&[&right]));
        assert!(verify(&["AAAA", "*", "", "", "", "", "", &right]));
        assert!(!verify(&["AAAA", "*", "", "", "", "", "", "", &right]));
        assert!(!verify(&["", "AAAA", "*"]));
        assert!(!verify(&[]));
    }

    /// A webhook of Android SMS Gateway: the body, followed by the time.
    #[test]
    fn a_signature_over_body_and_time_is_valid() {
        let body = concat!(
            r#"{"deviceId":"ffffffffceb0b1db0000018e937c815b","event":"sms:received","id":"Ey6ECgOkVVFjz3CL48B8C","#,
            r#""payload":{"messageId":"abc123","message":"Android is always a sweet treat!","sender":"6505551212","#,
            r#""recipient":"+1234567890","simNumber":1,"receivedAt":"2024-06-22T15:46:11.000+07:00"},"#,
            r#""webhookId":"LreFUt-Z3sSq0JufY9uWB"}"#
        );
        let key = [Secret::new("0123456789abcdef")];
        let signature = "435e779193c655f9036b0b427f0770a356886b4c05894850d4ba9ef26fdd897d";
        assert!(Hmac::SHA256_HEX.verify(&key, &[body.as_bytes(), b"1767268800"], signature));
        assert!(!Hmac::SHA256_HEX.verify(&key, &[body.as_bytes(), b"1767268801"], signature));
    }
}
