//! Verifies the `signature` field of the body.

use crate::model::secret::Secrets;

use super::body::Fields;
use super::hmac::{Scheme, Signed};
use super::{Config, Refusal, Verify};

/// The required content of `signature`.
#[derive(Clone, Debug)]
pub(super) enum Signature {
    Unchecked,
    SharedCode(Secrets),
    Hmac(Scheme, Secrets),
}

impl Signature {
    pub(super) fn build(config: &Config) -> Result<Self, String> {
        if config.hmac.is_some() && config.verify != Verify::Hmac {
            return Err("`hmac` is only for `verify = \"hmac\"`".to_owned());
        }
        let secret = || {
            config.secret.clone().ok_or_else(|| {
                "`secret` is missing: the code set in the carrier's portal (or `verify = \"none\"`)"
                    .to_owned()
            })
        };
        Ok(match config.verify {
            Verify::None => Self::Unchecked,
            Verify::SharedCode => Self::SharedCode(secret()?),
            Verify::Hmac => Self::Hmac(
                Scheme::build(&config.hmac.clone().unwrap_or_default())?,
                secret()?,
            ),
        })
    }

    pub(super) fn check(&self, fields: &Fields) -> Result<(), Refusal> {
        let right = match self {
            Self::Unchecked => true,
            Self::SharedCode(secrets) => secrets.any_matches(fields.required_text("signature")?.as_bytes()),
            Self::Hmac(scheme, secrets) => {
                let signature = fields.required_text("signature")?;
                let [refid, from, to, message] =
                    ["refid", "from", "to", "message"].map(|name| fields.text(name));
                let signed = Signed {
                    refid: &refid,
                    from: &from,
                    to: &to,
                    message: &message,
                };
                if signed.refid.len() != scheme.refid_length() {
                    let length = scheme.refid_length();
                    return Err(Refusal::malformed(format!(
                        "`refid` must have {length} characters (`hmac.refid_length`)"
                    )));
                }
                scheme.verify(secrets.all(), &signed, signature)
            }
        };
        if right { Ok(()) } else { Err(Refusal::forbidden()) }
    }

    /// Returns true if it is checked.
    pub(super) fn is_checked(&self) -> bool {
        !matches!(self, Self::Unchecked)
    }

    /// The signature that the carrier would send.
    pub(super) fn sign(&self, signed: &Signed<'_>) -> Option<String> {
        match self {
            Self::Unchecked => None,
            Self::SharedCode(secrets) => secrets.all().first().map(|secret| secret.reveal().to_owned()),
            Self::Hmac(scheme, secrets) => secrets.all().first().and_then(|key| scheme.sign(key, signed)),
        }
    }
}
