//! JSON Web Tokens with HMAC-SHA-256. No other algorithm is accepted, whatever the token's header says.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::Digest as _;
use subtle::ConstantTimeEq as _;

use super::hmac::{Algorithm, Encoding, Hmac};
use super::window::wrong_time;
use crate::model::message::Timestamp;
use crate::model::secret::Secret;
use crate::source::Refusal;

const HS256: Hmac = Hmac {
    algorithm: Algorithm::Sha256,
    encoding: Encoding::Base64,
};

/// Accepted difference between the clocks, in milliseconds.
const LEEWAY: i64 = 5_000;

/// The token of an `Authorization` header with the scheme `Bearer`, in upper or lower case.
#[must_use]
pub fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// The claims of a verified token.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims(Map<String, Value>);

#[derive(Deserialize)]
struct Header {
    alg: String,
}

impl Claims {
    /// Returns the claims of `HEADER.CLAIMS.SIGNATURE` if it is signed with one of the keys. Its times must be checked
    /// separately.
    #[must_use]
    pub fn verified(token: &str, keys: &[Secret]) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header: Header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        if header.alg != "HS256" || !HS256.verify(keys, &[signed.as_bytes()], signature) {
            return None;
        }
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?)
            .ok()
            .map(Self)
    }

    /// Checks that `now` is not before `nbf` and not after `exp`, if present.
    ///
    /// # Errors
    /// 403 if one of them is not a time, and 503 if it is too early or too late.
    pub fn check_time(&self, now: Timestamp) -> Result<(), Refusal> {
        let (begin, end) = (self.time("nbf")?, self.time("exp")?);
        if let Some(begin) = begin.filter(|begin| begin.0 > now.0.saturating_add(LEEWAY)) {
            return Err(wrong_time("its token is valid from", begin, now));
        }
        if let Some(end) = end.filter(|end| end.0 < now.0.saturating_sub(LEEWAY)) {
            return Err(wrong_time("its token expired", end, now));
        }
        Ok(())
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

    /// The value of a claim that is a time in seconds.
    ///
    /// # Errors
    /// 403 if it is not a number.
    pub fn time(&self, name: &str) -> Result<Option<Timestamp>, Refusal> {
        let Some(value) = self.0.get(name) else {
            return Ok(None);
        };
        let seconds = value
            .as_i64()
            .or_else(|| value.as_f64().map(|seconds| seconds as i64))
            .ok_or_else(Refusal::forbidden)?;
        Ok(Some(Timestamp(seconds.saturating_mul(1000))))
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

    fn verified(token: &str, secret: &str) -> Option<Claims> {
        Claims::verified(token, &[Secret::new(secret)])
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
        let claims = verified(VONAGE, SECRET).unwrap();
        assert_eq!(claims.text("iss"), Some("Vonage"));
        claims.check_time(NOW).unwrap();
        assert!(claims.has_digest("payload_hash", BODY));
        assert!(!claims.has_digest("payload_hash", b"{}"));
        assert!(!claims.has_digest("no such claim", BODY));
        assert_eq!(verified(VONAGE, "another secret"), None);
        let claims = verified(HTTPSMS, "httpsms-signing-key").unwrap();
        assert_eq!(claims.text("iss"), Some("api.httpsms.com"));
    }

    #[test]
    fn a_token_does_not_choose_its_algorithm() {
        assert!(verified(&token(r#"{"alg":"HS256"}"#, "{}", "k"), "k").is_some());
        for header in [
            r#"{"alg":"none"}"#,
            r#"{"alg":"None"}"#,
            r#"{"alg":"RS256"}"#,
            r#"{"alg":"HS384"}"#,
            r#"{"alg":"hs256"}"#,
            r#"{"typ":"JWT"}"#,
            "[]",
        ] {
            assert_eq!(verified(&token(header, "{}", "k"), "k"), None, "{header}");
        }
        let unsigned = format!(
            "{}.{}.",
            URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#),
            URL_SAFE_NO_PAD.encode("{}")
        );
        for wrong in [unsigned.as_str(), "", ".", "..", "a.b", "a.b.c.d"] {
            assert_eq!(verified(wrong, "k"), None, "{wrong}");
        }
    }

    #[test]
    fn a_token_is_valid_from_nbf_to_exp() {
        for (claims, status) in [
            (r#"{"nbf":1767268800,"exp":1767268800}"#, None),
            (r#"{"nbf":1767268804,"exp":1767268796}"#, None),
            (r#"{"nbf":1767268806}"#, Some(503)),
            (r#"{"exp":1767268794}"#, Some(503)),
            (r#"{"exp":"soon"}"#, Some(403)),
            (r#"{"nbf":"now"}"#, Some(403)),
            (r#"{"exp":1767268900.5}"#, None),
        ] {
            let token = token(r#"{"alg":"HS256"}"#, claims, "k");
            let refusal = verified(&token, "k").unwrap().check_time(NOW).err();
            assert_eq!(refusal.map(|refusal| refusal.status.as_u16()), status, "{claims}");
        }
    }

    #[test]
    fn the_scheme_of_a_token_is_accepted_in_any_case() {
        for authorization in ["Bearer x", "bearer x", "BEARER x"] {
            assert_eq!(bearer(authorization), Some("x"));
        }
        for authorization in ["", "x", "Basic x", "Bearerx"] {
            assert_eq!(bearer(authorization), None);
        }
    }
}
