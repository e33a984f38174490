//! Verifies that a request comes from the carrier. The functions are pure, compare in constant time, and are tested
//! with signatures created by the carriers' own libraries.
//!
//! A source uses only the scheme that its carrier documents. It never tries several schemes on one request, because
//! the weakest would determine the security.

pub mod ed25519;
pub mod hmac;
pub mod jwt;
pub mod other_url;
pub mod rsa;
pub mod standard_webhooks;
pub mod url_form;
pub mod window;

pub use ed25519::Ed25519;
pub use hmac::{Algorithm, Encoding, Hmac};
pub use rsa::{CertifiedKey, RsaHash};
pub use standard_webhooks::StandardWebhooks;
pub use window::Window;

use crate::model::secret::{Secret, Secrets};

/// The key that signs simulated requests: the first one.
///
/// # Errors
/// A sentence for the operator when there is no key.
pub fn signing_key(keys: &Secrets) -> Result<&Secret, String> {
    let key = keys.all().first();
    key.ok_or_else(|| "no key to sign with".to_owned())
}
