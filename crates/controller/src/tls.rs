//! A listener over TLS: its certificate, and what is known of the certificates of those who come.
//!
//! Whoever shows one has proved to have its key, and an authority of ours vouches for it at that moment: sessions of TLS are not resumed, so that
//! each connection is judged anew.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::HEXLOWER;
use longshore_model::Label;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};
use webpki::EndEntityCert;

/// Names of one certificate that are looked at.
const NAMES_MAX: usize = 256;
/// What comes before a group in an address of a certificate that says who may join it.
const GROUP: &str = "longshore:";

/// Why the files of a TLS listener cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One of them.
    #[error("use {}: {problem}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// They do not go together.
    #[error("set up TLS")]
    Together(#[source] rustls::Error),
}

/// Where to listen with TLS, and what is shown there.
#[derive(Debug, Clone)]
pub struct TlsListen {
    /// The address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether certificates of those who come are looked at.
    pub(crate) is_mutual: bool,
    pub(crate) server: Arc<ServerConfig>,
}

impl TlsListen {
    /// Reads a certificate with those above it, and its key; and the authorities that vouch for whoever comes, if any do. All are PEM. Blocks.
    ///
    /// # Errors
    /// A file that cannot be read or has nothing of the kind, or a key of another certificate.
    pub fn read(listen: SocketAddr, cert: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Self, TlsError> {
        let fault = |path: &Path, problem: String| TlsError::File { path: path.to_owned(), problem };
        let own_key = PrivateKeyDer::from_pem_file(key).map_err(|error| fault(key, error.to_string()))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = builder.map_err(TlsError::Together)?;
        let builder = match client_ca {
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|error| fault(path, error.to_string()))?;
                }
                // Who shows none may come with a token.
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).allow_unauthenticated().build();
                builder.with_client_cert_verifier(verifier.map_err(|error| fault(path, error.to_string()))?)
            }
            None => builder.with_no_client_auth(),
        };
        let mut server = builder.with_single_cert(certificates(cert)?, own_key).map_err(TlsError::Together)?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { listen, is_mutual: client_ca.is_some(), server: Arc::new(server) })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fault = |problem: String| TlsError::File { path: path.to_owned(), problem };
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| fault(error.to_string()))?;
    if found.is_empty() { Err(fault("no certificate is in it".to_owned())) } else { Ok(found) }
}

/// A certificate that somebody has shown, and that an authority of ours vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown(CertificateDer<'static>);

impl Shown {
    /// The first of those that were shown.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(certificate.clone().into_owned())
    }

    /// SHA-256 of it, lower-case hex.
    pub(crate) fn fingerprint(&self) -> String {
        HEXLOWER.encode(&Sha256::digest(&self.0))
    }

    /// Whether it is for a host of this name, as it would be for a server of that.
    pub(crate) fn names(&self, hostname: &str) -> bool {
        let Ok(name @ ServerName::DnsName(_)) = ServerName::try_from(hostname) else { return false };
        EndEntityCert::try_from(&self.0).is_ok_and(|read| read.verify_is_valid_for_subject_name(&name).is_ok())
    }

    /// The groups whose members it may let in: its alternative names of the form `longshore:KEY:VALUE`.
    pub(crate) fn groups(&self) -> Vec<Label> {
        let Ok(read) = EndEntityCert::try_from(&self.0) else { return Vec::new() };
        let groups =
            read.valid_uri_names().take(NAMES_MAX).filter_map(|name| name.strip_prefix(GROUP)).filter_map(|name| name.parse().ok());
        groups.collect()
    }
}
