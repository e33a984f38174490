//! Checks that a request is the carrier's, as shared blocks: pure, compared in constant time, each tested with signatures
//! that the carriers' own libraries made.
//!
//! A source uses exactly the block that its carrier documents. It never tries several schemes on one request, since the
//! weakest would then decide.

pub mod ed25519;
pub mod hmac;
pub mod jwt;
pub mod standard_webhooks;
pub mod url_form;
pub mod window;

pub use ed25519::Ed25519;
pub use hmac::{Algorithm, Encoding, Hmac};
pub use standard_webhooks::StandardWebhooks;
pub use window::Window;
