//! Signatures as specified by [standardwebhooks.com](https://www.standardwebhooks.com).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq as _;

use super::Window;
use super::hmac::Algorithm;
use crate::model::secret::Secrets;
use crate::source::{Refusal, Request};

/// The keys of one subscription.
#[derive(Clone)]
pub struct StandardWebhooks(Vec<Vec<u8>>);

impl StandardWebhooks {
    /// Parses secrets: `whsec_` followed by the key in base64.
    ///
    /// # Errors
    /// A sentence for the operator, without the name of the key.
    pub fn read(secrets: &Secrets) -> Result<Self, String> {
        let key = |secret: &crate::model::secret::Secret| {
            let text = secret.reveal();
            let base64 = text.strip_prefix("whsec_").unwrap_or(text);
            STANDARD.decode(base64).ok()
        };
        let keys: Option<Vec<_>> = secrets.all().iter().map(key).collect();
        keys.map(Self)
            .ok_or_else(|| "must be a signing key in base64, like `whsec_…`".to_owned())
    }

    /// Checks that one of the signatures in `webhook-signature` is valid and the time is within the window.
    ///
    /// # Errors
    /// 403 for an invalid signature, and 503 if only the time is wrong.
    pub fn verify(&self, request: &Request<'_>) -> Result<(), Refusal> {
        let field = |name| request.header(name);
        let (Some(id), Some(time), Some(signatures)) = (
            field("webhook-id"),
            field("webhook-timestamp"),
            field("webhook-signature"),
        ) else {
            return Err(Refusal::forbidden());
        };
        let parts: [&[u8]; 5] = [id.as_bytes(), b".", time.as_bytes(), b".", request.body];
        let given: Vec<Vec<u8>> = signatures
            .split(' ')
            .filter_map(|signature| STANDARD.decode(signature.strip_prefix("v1,")?).ok())
            .collect();
        let is_signed = self.0.iter().fold(false, |found, key| {
            let mac = Algorithm::Sha256.mac(key, &parts).unwrap_or_default();
            let right = given
                .iter()
                .fold(false, |right, given| bool::from(mac.ct_eq(given)) | right);
            right | found
        });
        if !is_signed {
            return Err(Refusal::forbidden());
        }
        Window::default().check_seconds(time, request.now)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, HeaderName};

    use super::*;
    use crate::model::message::Timestamp;

    const BODY: &[u8] = br#"{"type":"sms.received","timestamp":"2026-01-01T12:00:00Z","data":{"sms_id":"sms_01krdgeqcxet5s7t44vh8rt9mg","workspace_id":"ws_01krdgeqcxet5s7t44vh8rt9mg","to":"+15551234567","from":"+15557654321","tags":null,"metadata":null,"requested_language":null,"resolved_language":null,"template_id":null,"template_version_id":null,"template_content_hash":null,"country_code":"US","text":"STOP","segments":{"count":1,"encoding":"GSM_7BIT","characters":4}}}"#;

    /// The status of the refusal; 0 without one.
    fn verify(signature: &str, seconds: i64, body: &'static [u8]) -> u16 {
        let secrets = Secrets::from(["whsec_AAAA", "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="]);
        let headers: HeaderMap = [
            ("webhook-id", "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W"),
            ("webhook-timestamp", "1767268800"),
            ("webhook-signature", signature),
        ]
        .into_iter()
        .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
        .collect();
        let body = Bytes::from_static(body);
        let request = Request {
            now: Timestamp(seconds * 1000),
            ..Request::post([192, 0, 2, 1].into(), &headers, &body)
        };
        let refusal = StandardWebhooks::read(&secrets).unwrap().verify(&request).err();
        refusal.map_or(0, |refusal| refusal.status.as_u16())
    }

    /// Verified with Bird's own library.
    #[test]
    fn one_valid_signature_of_several_is_accepted_for_five_minutes() {
        let right = "v1,q5VM9quh0nRdlg7BbPxetelzn6rZ9aS26qEusDtM+Fc=";
        assert_eq!(verify(right, 1_767_268_800, BODY), 0);
        assert_eq!(verify(&format!("v1a,xx v1,AAAA {right}"), 1_767_269_100, BODY), 0);
        assert_eq!(verify(right, 1_767_269_101, BODY), 503);
        assert_eq!(verify(right, 1_767_268_499, BODY), 503);
        assert_eq!(verify(right, 1_767_268_800, b"{}"), 403);
        assert_eq!(verify("v1,AAAA", 1_767_269_101, BODY), 403);
        assert_eq!(verify("", 1_767_268_800, BODY), 403);
    }

    #[test]
    fn a_key_that_is_not_base64_is_rejected() {
        let secrets = Secrets::from(["whsec_*"]);
        assert!(StandardWebhooks::read(&secrets).is_err());
    }
}
