//! TLS on `server.listen`: a certificate and its key, verified to belong together.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::certificate::Validity;
use crate::config;
use crate::model::message::Timestamp;

/// Certificate and key of a TLS listener.
pub struct Tls {
    server: Arc<ServerConfig>,
    certificate: CertificateDer<'static>,
    validity: Option<Validity>,
}

impl Tls {
    /// Parses certificate and key.
    ///
    /// # Errors
    /// When one is missing or damaged, or they do not belong together.
    pub(super) fn compile(typed: &config::Tls) -> Result<Self, String> {
        let chain = chain(typed.certificate.reveal())?;
        let certificate = chain
            .first()
            .cloned()
            .ok_or("there is no certificate in `certificate`")?;
        let key = PrivateKeyDer::from_pem_slice(typed.key.reveal().as_bytes()).map_err(no_key)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| unusable(&error))?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            server: Arc::new(server),
            validity: Validity::of(&certificate),
            certificate,
        })
    }

    /// The configuration for handshakes.
    #[must_use]
    pub fn server(&self) -> &Arc<ServerConfig> {
        &self.server
    }

    /// The certificate of the server, the first in its chain.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A warning if the certificate is not valid or expires soon. Not an error, because callers may still accept it.
    #[must_use]
    pub fn warning(&self, now: Timestamp) -> Option<String> {
        self.validity?.warning(now)
    }
}

fn chain(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| {
            "`certificate` is damaged: it must be PEM, from BEGIN CERTIFICATE to END CERTIFICATE".to_owned()
        })
}

/// The error does not quote the cause, which may contain a part of the key.
fn no_key(error: pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => {
            "there is no private key in `key`; it must be PEM and without a passphrase"
        }
        _ => "`key` is damaged: it must be PEM, from BEGIN PRIVATE KEY to END PRIVATE KEY",
    }
    .to_owned()
}

fn unusable(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            "`key` is not the key of the first certificate in `certificate`".to_owned()
        }
        _ => format!("`certificate` and `key` cannot be used: {error}"),
    }
}
