//! The TLS configuration for a mail server.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls_platform_verifier::Verifier;

use super::wire::Tls;

/// Trusts the certificate authorities of the system and those in `ca_file`.
///
/// # Errors
/// Names the invalid key and the reason.
pub(super) fn client(host: &str, ca_file: Option<&str>) -> Result<Tls, String> {
    let name =
        ServerName::try_from(host.to_owned()).map_err(|_| format!("host: {host:?} is not a host name"))?;
    let extra = ca_file.map(authorities).transpose()?.unwrap_or_default();
    let failed = |error: rustls::Error| match ca_file {
        Some(_) => format!("ca_file: {error}"),
        None => format!("TLS: {error}"),
    };
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier::new_with_extra_roots(extra, provider.clone()).map_err(failed)?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Tls {
        config: Arc::new(config),
        name,
    })
}

fn authorities(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err("ca_file has no PEM certificate".to_owned()),
        Err(_) => Err("ca_file has no valid PEM certificate".to_owned()),
    }
}
