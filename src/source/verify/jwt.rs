//! JSON Web Tokens with HMAC-SHA-256. No other algorithm is accepted, whatever the token's header says.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::Digest as _;
use subtle::ConstantTimeEq as _;

use super::hmac::{Algorithm, Encoding, Hmac};
use crate::model::message::Timestamp;
use crate::model::secret::Secret;

const HS256: Hmac = Hmac {
    algorithm: Algorithm::Sha256,
    encoding: Encoding::Base64,
};

/// Accepted difference between the clocks, in seconds.
const LEEWAY: i64 = 5;

/// The claims of a verified token.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims(Map<String, Value>);

#[derive(Deserialize)]
struct Header {
    alg: String,
}

impl Claims {
    /// Returns the claims of `HEADER.CLAIMS.SIGNATURE` if it is signed with one of the keys, and `now` is not before
    /// `nbf` and not after `exp`, if present.
    #[must_use]
    pub fn verified(token: &str, keys: &[Secret], now: Timestamp) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header: Header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        if header.alg != "HS256" || !HS256.verify(keys, &[signed.as_bytes()], signature) {
            return None;
        }
        let claims = Self(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?);
        let seconds = now.0 / 1000;
        let begun = claims
            .time("nbf")
            .is_none_or(|begin| begin <= seconds.saturating_add(LEEWAY));
        let valid = claims
            .time("exp")
            .is_none_or(|end| end >= seconds.saturating_sub(LEEWAY));
        (begun && valid).then_some(claims)
    }

    /// The value of a claim that is a string.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// The values of a claim that is a string or a list of strings; empty if it is absent.
    #[must_use]
    pub fn texts(&self, name: &str) -> Vec<&str> {
        match self.0.get(name) {
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// The value of a claim that is a time in seconds. A value that is not a number counts as invalid at any time.
    #[must_use]
    pub fn time(&self, name: &str) -> Option<i64> {
        let value = self.0.get(name)?;
        let seconds = value
            .as_i64()
            .or_else(|| value.as_f64().map(|seconds| seconds as i64));
        Some(seconds.unwrap_or(if name == "nbf" { i64::MAX } else { i64::MIN }))
    }

    /// Returns true if this claim is the SHA-256 of these bytes, in hexadecimal digits.
    #[must_use]
    pub fn has_digest(&self, name: &str, bytes: &[u8]) -> bool {
        let Some(claimed) = self.text(name).and_then(|hex| hex::decode(hex).ok()) else {
            return false;
        };
        sha2::Sha256::digest(bytes).as_slice().ct_eq(&claimed).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "signature_secret_abcdefghijklmnop";
    const NOW: Timestamp = Timestamp(1_767_268_800_000);
    const BODY: &[u8] = br#"{"channel":"sms","message_uuid":"aaaaaaaa-bbbb-4ccc-8ddd-0123456789ab","to":"447700900000","from":"447700900001","timestamp":"2026-01-01T12:00:00.000Z","message_type":"text","text":"Hello From Vonage!","sms":{"num_messages":"1","keyword":"HELLO"},"usage":{"currency":"EUR","price":"0.0333"}}"#;
    const VONAGE: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpYXQiOjE3NjcyNjg4MDAsImp0aSI6ImM1YmE4ZjI0LTFhMTQtNGMxMC1iZmRmLTNmYmU4Y2U1MTFiNSIsImlzcyI6IlZvbmFnZSIsInBheWxvYWRfaGFzaCI6IjY3MDcyN2M1NzMxYTMxYzYyNTIwMDA4M2U1MzU1NjRiODgwNWFmNTY2NjNkNWE5NjBhMGUxYTgyYTNlZTE5NmYiLCJhcGlfa2V5IjoiYWJjZDEyMzQiLCJhcHBsaWNhdGlvbl9pZCI6ImFhYWFhYWFhLWJiYmItY2NjYy1kZGRkLTAxMjM0NTY3ODlhYiJ9.dBsDo_GnLJaleVaPATc4BNqpEtkebUbKVaqg7wDFmfU";
    const HTTPSMS: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJhcGkuaHR0cHNtcy5jb20iLCJzdWIiOiJXQjdEUkRXckpaUkdiWXJ2MkNLR2txYnp2cWRDIiwiYXVkIjpbImh0dHBzOi8vc21zLmV4YW1wbGUuY29tL2luYm91bmQvaHR0cHNtcyJdLCJleHAiOjQxMDI0NDQ4MDAsIm5iZiI6MTc2NzI2ODIwMCwiaWF0IjoxNzY3MjY4ODAwfQ.vqRGbSpugqth_-MhP7gbgCdgE82kLxpMr6K_ZAGxSwU";

    fn verified(token: &str, secret: &str, now: Timestamp) -> Option<Claims> {
        Claims::verified(token, &[Secret::new(secret)], now)
    }

    fn token(header: &str, claims: &str, secret: &str) -> String {
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let mac = Algorithm::Sha256
            .mac(secret.as_bytes(), &[signed.as_bytes()])
            .unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac))
    }

    /// Tokens created by the carriers' own libraries.
    #[test]
    fn tokens_of_carriers_are_valid_and_bound_to_their_body() {
        let claims = verified(VONAGE, SECRET, NOW).unwrap();
        assert_eq!(claims.text("iss"), Some("Vonage"));
        assert!(claims.has_digest("payload_hash", BODY));
        assert!(!claims.has_digest("payload_hash", b"{}"));
        assert!(!claims.has_digest("no such claim", BODY));
        assert_eq!(verified(VONAGE, "another secret", NOW), None);
        let claims = verified(HTTPSMS, "httpsms-signing-key", NOW).unwrap();
        assert_eq!(claims.text("iss"), Some("api.httpsms.com"));
    }

    #[test]
    fn a_token_does_not_choose_its_algorithm() {
        assert!(verified(&token(r#"{"alg":"HS256"}"#, "{}", "k"), "k", NOW).is_some());
        for header in [
            r#"{"alg":"none"}"#,
            r#"{"alg":"None"}"#,
            r#"{"alg":"RS256"}"#,
            r#"{"alg":"HS384"}"#,
            r#"{"alg":"hs256"}"#,
            r#"{"typ":"JWT"}"#,
            "[]",
        ] {
            assert_eq!(verified(&token(header, "{}", "k"), "k", NOW), None, "{header}");
        }
        let unsigned = format!(
            "{}.{}.",
            URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#),
            URL_SAFE_NO_PAD.encode("{}")
        );
        for wrong in [unsigned.as_str(), "", ".", "..", "a.b", "a.b.c.d"] {
            assert_eq!(verified(wrong, "k", NOW), None, "{wrong}");
        }
    }

    #[test]
    fn a_token_is_valid_from_nbf_to_exp() {
        for (claims, good) in [
            (r#"{"nbf":1767268800,"exp":1767268800}"#, true),
            (r#"{"nbf":1767268804,"exp":1767268796}"#, true),
            (r#"{"nbf":1767268806}"#, false),
            (r#"{"exp":1767268794}"#, false),
            (r#"{"exp":"soon"}"#, false),
            (r#"{"nbf":"now"}"#, false),
            (r#"{"exp":1767268900.5}"#, true),
        ] {
            let token = token(r#"{"alg":"HS256"}"#, claims, "k");
            assert_eq!(verified(&token, "k", NOW).is_some(), good, "{claims}");
        }
    }
}
