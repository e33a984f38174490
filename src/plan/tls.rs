//! TLS on `server.listen`: a certificate and its key, shown to fit before anything uses them.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::certificate::Validity;
use crate::config;
use crate::message::Timestamp;

/// What a TLS listener needs.
pub struct Tls {
    server: Arc<ServerConfig>,
    certificate: CertificateDer<'static>,
    validity: Option<Validity>,
}

impl Tls {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// When one is not there, is damaged, or does not fit the other.
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

    /// For handshakes.
    #[must_use]
    pub fn server(&self) -> &Arc<ServerConfig> {
        &self.server
    }

    /// The server's own certificate, the first of its chain.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// What should be looked at, if the certificate is over or will be soon. Only whoever calls can tell whether
    /// they mind, so that it is no error.
    #[must_use]
    pub fn doubt(&self, now: Timestamp) -> Option<String> {
        self.validity?.doubt(now)
    }
}

fn chain(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| {
            "`certificate` is damaged: it must be PEM, from BEGIN CERTIFICATE to END CERTIFICATE".to_owned()
        })
}

/// The cause is not repeated: it may hold a part of the key.
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
