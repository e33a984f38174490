//! RSA signatures (PKCS #1 v1.5) with the key of a certificate.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::model::der::{self, BIT_STRING, SEQUENCE};

/// The hash function of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RsaHash {
    /// SHA-1, only for signatures that are still made with it.
    Sha1,
    /// SHA-256
    Sha256,
}

/// The public key in a certificate. Issuer, chain and validity are not checked: the caller must have fetched the
/// certificate from a trusted URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertifiedKey(Arc<[u8]>);

impl CertifiedKey {
    /// The key of the first certificate in this PEM file; `None` if there is none.
    #[must_use]
    pub fn of_pem(pem: &[u8]) -> Option<Self> {
        let certificate = CertificateDer::from_pem_slice(pem).ok()?;
        let mut rest = der::signed_part(&certificate)?;
        for _ in [
            "serial number",
            "signature algorithm",
            "issuer",
            "validity",
            "subject",
        ] {
            (_, _, rest) = der::item(rest)?;
        }
        let (SEQUENCE, information, _) = der::item(rest)? else {
            return None;
        };
        let (_, _, rest) = der::item(information)?;
        let (BIT_STRING, bits, _) = der::item(rest)? else {
            return None;
        };
        let (0, key) = bits.split_first()? else {
            return None;
        };
        Some(Self(key.into()))
    }

    /// Returns true if this signature, in base64, is valid for these bytes.
    #[must_use]
    pub fn verify(&self, hash: RsaHash, signed: &[u8], signature: &str) -> bool {
        let Ok(signature) = STANDARD.decode(signature) else {
            return false;
        };
        let algorithm = match hash {
            RsaHash::Sha1 => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
            RsaHash::Sha256 => &RSA_PKCS1_2048_8192_SHA256,
        };
        UnparsedPublicKey::new(algorithm, &self.0)
            .verify(signed, &signature)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &[u8] =
        include_bytes!("../../../tests/fixtures/sns/SimpleNotificationService-0000000000000000000000.pem");
    const SIGNED: &str = concat!(
        "Message\n",
        r#"{"originationNumber":"+14255550182","destinationNumber":"+12125550101","messageKeyword":"JOIN","messageBody":"EXAMPLE","inboundMessageId":"cae173d2-66b9-564c-8309-21f858e9fb84","previousPublishedMessageId":"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLE"}"#,
        "\nMessageId\n22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324\nTimestamp\n2026-01-01T12:00:00.000Z\n",
        "TopicArn\narn:aws:sns:us-east-1:123456789012:inbound-sms\nType\nNotification\n"
    );
    const SHA256: &str = "cokAZrJ7jp1tp12FSpUEDTOdxKT+AcQtqISXuj9isikT87GMEAgnJi1Us/IKrWmd8I9RzW+Q0sdhA4UOH6Xtahug+DcK5RN/5NMmOFTqvPA39NgRpnbWLMWhYogD1LfbK7RbG2iRgIFmEGZE6gcZ5qOu3RXf0ER1zBqLwnUVjEcKTuiI3NnWLTQM9JJdjRLbTOz4e/9YZBUg/Ghf/f28FubTDBoVvGHg/dpvv42qOwry1iwVHV4Wc2XtgbjANveycn64QUEHbLQuzRuepS07vAg1HPjA8RrH3r2+zKBA0AZf/zXW/Z8BVODOQMMKaBZNmCwTuMEpRoJll5kMAcqj/g==";
    const SHA1: &str = "qkGbjxM+yzFiYCjqGcbCM5uEDH0hgYqAMFboAK4KqTekQtuaqJxNnrkNV/GCgnWE3Ka2akL6tzKK0R+RpTSs4bjgKpW+Uz+05NzpSV26SvNgkDNcRf29eG7OYgNgzFhEOJHBOZatp+wPDfWbSdtpHGYoMJ0CBoCA5cbyAY8BCH9DeOBXfiycH088OTLLD/KJgfcaqmeXbQmkgp4teMdUsOVwoVIsstmunXVggJHSH//zXNepGZGKxt8/OuBtTwZ5p0ACOaqwfRohajpunPy4tEzNRYF0UnYYPltiE62ZYqJ6Mhp/3cpmFBLBqPB6XUpLbmhWJs6+ttqrvZavH8XJNA==";

    /// Amazon's own library accepts both.
    #[test]
    fn signatures_of_sns_are_valid_with_their_hash_only() {
        let key = CertifiedKey::of_pem(CERTIFICATE).unwrap();
        for (hash, right, wrong) in [(RsaHash::Sha256, SHA256, SHA1), (RsaHash::Sha1, SHA1, SHA256)] {
            assert!(key.verify(hash, SIGNED.as_bytes(), right), "{hash:?}");
            assert!(!key.verify(hash, SIGNED.as_bytes(), wrong), "{hash:?}");
            assert!(!key.verify(hash, &SIGNED.as_bytes()[1..], right), "{hash:?}");
            assert!(!key.verify(hash, SIGNED.as_bytes(), ""), "{hash:?}");
            assert!(!key.verify(hash, SIGNED.as_bytes(), "*"), "{hash:?}");
        }
    }

    #[test]
    fn only_a_certificate_has_a_key() {
        let text = std::str::from_utf8(CERTIFICATE).unwrap();
        let cut: String = text.lines().filter(|line| !line.starts_with("Sf")).collect();
        for wrong in [
            "",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &cut,
        ] {
            assert_eq!(CertifiedKey::of_pem(wrong.as_bytes()), None);
        }
    }
}
