//! The signature of the SMS API: over all parameters, as one of them.

use md5::Digest as _;
use subtle::ConstantTimeEq as _;

use super::SignatureMethod;
use crate::model::secret::{Secret, Secrets};
use crate::source::verify::{Algorithm, Encoding, signing_key};

/// The method and the secrets of an account.
pub(super) struct Signature {
    pub(super) method: SignatureMethod,
    pub(super) secrets: Secrets,
}

/// The name of the parameter with the signature.
pub(super) const NAME: &str = "sig";

impl Signature {
    /// Returns true if `sig` is valid for the other parameters under any of the secrets.
    pub(super) fn verify<'a>(&self, parameters: impl Iterator<Item = (&'a str, &'a str)>) -> bool {
        let (given, signed): (Vec<_>, Vec<_>) = parameters.partition(|(name, _)| *name == NAME);
        let given = given.first().and_then(|(_, sig)| Encoding::Hex.decode(sig));
        let Some(given) = given else {
            return false;
        };
        let signed = text(signed);
        self.secrets.all().iter().fold(false, |found, secret| {
            let mac = self.mac(secret, &signed).unwrap_or_default();
            bool::from(mac.ct_eq(&given)) | found
        })
    }

    /// The signature of these parameters with the first secret.
    ///
    /// # Errors
    /// A sentence for the operator when there is no secret.
    pub(super) fn sign<'a>(
        &self,
        parameters: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<String, String> {
        let signed = text(parameters.collect());
        let mac = self.mac(signing_key(&self.secrets)?, &signed);
        Ok(hex::encode(mac.ok_or("the secret cannot sign")?))
    }

    fn mac(&self, secret: &Secret, signed: &str) -> Option<Vec<u8>> {
        let key = secret.reveal().as_bytes();
        let algorithm = match self.method {
            SignatureMethod::Md5Hash => {
                let hasher = md5::Md5::new().chain_update(signed).chain_update(key);
                return Some(hasher.finalize().to_vec());
            }
            SignatureMethod::HmacMd5 => Algorithm::Md5,
            SignatureMethod::HmacSha1 => Algorithm::Sha1,
            SignatureMethod::HmacSha256 => Algorithm::Sha256,
            SignatureMethod::HmacSha512 => Algorithm::Sha512,
        };
        algorithm.mac(key, &[signed.as_bytes()])
    }
}

/// The signed text: every parameter as `&name=value`, sorted by name, with `_` for `&` and `=` in values.
fn text(mut parameters: Vec<(&str, &str)>) -> String {
    parameters.sort_by_key(|(name, _)| *name);
    let one = |(name, value): (&str, &str)| format!("&{name}={}", value.replace(['&', '='], "_"));
    parameters.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::fields::Form;

    const QUERY: &str = "msisdn=447700900001&to=447700900000&messageId=0A0000000123ABCD1&text=Hello+%26+good%3Dday&type=text&keyword=HELLO&api-key=abcd1234&message-timestamp=2026-01-01+12%3A00%3A00&timestamp=1767268800&nonce=aaaaaaaa-bbbb-cccc-dddd-0123456789ab";

    /// The HMACs were created by Vonage's own library, which has no plain MD5 any more.
    const SIGNATURES: [(SignatureMethod, &str); 5] = [
        (SignatureMethod::Md5Hash, "df1a3e435f32c2cebc6232d553c273bc"),
        (SignatureMethod::HmacMd5, "6e6d3ef3ab21ce75b49074ef89ba1ac6"),
        (
            SignatureMethod::HmacSha1,
            "a8187e2b47e5159ec4205a8568567af3171f26c3",
        ),
        (
            SignatureMethod::HmacSha256,
            "6e4c68975120defb1e1c0cf9cd08a862928f5ffe5967a6dd89ff124c161bc048",
        ),
        (
            SignatureMethod::HmacSha512,
            "8432fd0cdf1f03ee754df8d6e71f6fac9be7972787923636660079a277f82f60088263750780c2c1cc0937a0cbed72b8f5adee6d1fbd9f4b94c424a3e81300ed",
        ),
    ];

    fn is_valid(method: SignatureMethod, query: &str) -> bool {
        let secrets = ["another", "signature_secret_abcdefghijklmnop"].into();
        let form = Form::read(query.as_bytes());
        let pairs = form.pairs().iter().map(|(name, value)| (&**name, &**value));
        Signature { method, secrets }.verify(pairs)
    }

    #[test]
    fn each_method_accepts_its_own_signature_in_upper_and_lower_case() {
        for (method, signature) in SIGNATURES {
            assert!(
                is_valid(method, &format!("{QUERY}&sig={signature}")),
                "{method:?}"
            );
            let upper = signature.to_uppercase();
            assert!(is_valid(method, &format!("sig={upper}&{QUERY}")), "{method:?}");
            let changed = QUERY.replace("Hello", "Hullo");
            assert!(
                !is_valid(method, &format!("{changed}&sig={signature}")),
                "{method:?}"
            );
            assert!(!is_valid(method, &format!("{QUERY}&sig=")), "{method:?}");
            assert!(!is_valid(method, QUERY), "{method:?}");
            let others = SIGNATURES.iter().filter(|(other, _)| *other != method);
            for (_, other) in others {
                assert!(!is_valid(method, &format!("{QUERY}&sig={other}")), "{method:?}");
            }
        }
    }

    #[test]
    fn a_value_cannot_become_another_parameter() {
        assert_eq!(text(vec![("b", "x&a=y"), ("a", "1")]), "&a=1&b=x_a_y");
    }
}
