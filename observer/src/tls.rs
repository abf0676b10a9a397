//! TLS of the metrics listener: a certificate, and optionally who may ask.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result, anyhow};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;

use crate::config::Config;

/// What `--tls-cert`, `--tls-key` and `--tls-client-ca` ask for; none when they do not.
pub fn acceptor(config: &Config) -> Result<Option<TlsAcceptor>> {
    let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) else {
        return Ok(None);
    };
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .context("cannot set up TLS")?;
    let builder = match &config.tls_client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(authorities(path)?, provider)
                .build()
                .with_context(|| format!("--tls-client-ca {}", path.display()))?,
        ),
    };
    let chain = certificates(cert, "--tls-cert")?;
    let secret = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| anyhow!("--tls-key {}: {error}", key.display()))?;
    let mut server = builder
        .with_single_cert(chain, secret)
        .with_context(|| format!("--tls-cert {} and --tls-key do not fit", cert.display()))?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(server))))
}

fn authorities(path: &Path) -> Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, "--tls-client-ca")? {
        roots
            .add(certificate)
            .with_context(|| format!("--tls-client-ca {}", path.display()))?;
    }
    Ok(Arc::new(roots))
}

fn certificates(path: &Path, option: &str) -> Result<Vec<CertificateDer<'static>>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates = read.map_err(|error| anyhow!("{option} {}: {error}", path.display()))?;
    if certificates.is_empty() {
        return Err(anyhow!("{option} {}: holds no certificate", path.display()));
    }
    Ok(certificates)
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
