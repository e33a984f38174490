//! Ed25519 signatures over bytes that the source assembles.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, UnparsedPublicKey};

/// A carrier's public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ed25519([u8; 32]);

impl Ed25519 {
    /// Parses a public key in base64.
    ///
    /// # Errors
    /// A sentence for the operator, without the name of the key.
    pub fn read(base64: &str) -> Result<Self, String> {
        let bytes = STANDARD.decode(base64.trim()).ok();
        let key = bytes.and_then(|bytes| bytes.try_into().ok());
        key.map(Self)
            .ok_or_else(|| "must be 32 bytes in base64: copy it from the carrier's portal".to_owned())
    }

    /// Returns true if this signature, in base64, is valid for these bytes.
    #[must_use]
    pub fn verify(&self, signed: &[u8], signature: &str) -> bool {
        let Ok(signature) = STANDARD.decode(signature) else {
            return false;
        };
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(signed, &signature)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"data":{"event_type":"message.received","id":"b301ed3f-1490-491f-995f-6e64e69674d4","occurred_at":"2026-01-01T12:00:00.000+00:00","payload":{"direction":"inbound","from":{"phone_number":"+13125550001","carrier":"T-Mobile USA","line_type":"Wireless"},"id":"84cca175-9755-4859-b67f-4730d7f58aa3","media":[],"messaging_profile_id":"740572b6-099c-44a1-89b9-6c92163bc68d","parts":1,"received_at":"2026-01-01T12:00:00.000+00:00","record_type":"message","text":"Hello from Telnyx!","to":[{"phone_number":"+17735550002","status":"webhook_delivered"}],"type":"SMS"},"record_type":"event"},"meta":{"attempt":1,"delivered_to":"https://sms.example.com/inbound/telnyx"}}"#;

    /// Signed with the seed 00…1f; verified with Telnyx' own library.
    #[test]
    fn a_telnyx_signature_is_valid() {
        let key = Ed25519::read("A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=").unwrap();
        let signature =
            "DXcrs0NdXhOtEA5JqoXqHuiE4iDkGPW3HtSXUV+BLZfIOHXd4yOaMdbZS7Pc5Ly7aBHODiwdUAg8cHR3ncQ4BA==";
        assert!(key.verify(format!("1767268800|{BODY}").as_bytes(), signature));
        assert!(!key.verify(format!("1767268801|{BODY}").as_bytes(), signature));
        assert!(!key.verify(format!("1767268800|{BODY}").as_bytes(), "AAAA"));
        assert!(!key.verify(format!("1767268800|{BODY}").as_bytes(), "*"));
        let other = Ed25519::read("BKEHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=").unwrap();
        assert!(!other.verify(format!("1767268800|{BODY}").as_bytes(), signature));
    }

    #[test]
    fn a_key_of_wrong_length_is_rejected() {
        for wrong in ["", "*", "AAAA", "change-me"] {
            assert!(Ed25519::read(wrong).is_err(), "{wrong}");
        }
    }
}
