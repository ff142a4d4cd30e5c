//! What can be wrong with a secure connection, in terms that whoever set it up can act on.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};

use async_nats::ConnectOptions;
use async_nats::rustls::pki_types::pem::PemObject;
use async_nats::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use async_nats::rustls::{AlertDescription, CertificateError, Error as RustlsError};

use super::config::{ClientCertificate, Tls};

/// Why there is no secure connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsFault {
    /// A file cannot be read, or does not hold what it should.
    #[error("{} {problem}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The broker's certificate is of an authority that we do not trust.
    #[error("its certificate was issued by an authority that is not trusted here")]
    UnknownAuthority,
    /// The broker's certificate is for another name.
    #[error("its certificate is not for the name it was called by: {0}")]
    WrongName(String),
    /// The broker's certificate is expired or not valid yet.
    #[error("its certificate is expired, or not valid yet")]
    Expired,
    /// The broker wants a certificate of ours, and takes none or not this one.
    #[error("it does not take our certificate, or wants one and was shown none: {0}")]
    ClientRefused(String),
    /// The broker does not speak TLS.
    #[error("it does not speak TLS")]
    NotSpoken,
    /// Something else.
    #[error("{0}")]
    Other(String),
}

impl Tls {
    /// Whether anything is asked for.
    fn is_wanted(&self) -> bool {
        self.ca.is_some() || self.client.is_some()
    }

    /// Sets a connection up, once the files are known to hold what they should.
    pub(super) fn apply(&self, mut options: ConnectOptions) -> Result<ConnectOptions, TlsFault> {
        if let Some(ca) = &self.ca {
            certificates(ca)?;
            options = options.add_root_certificates(ca.clone());
        }
        if let Some(ClientCertificate { cert, key }) = &self.client {
            certificates(cert)?;
            PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| fault(key, "holds no private key in PEM form"))?;
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        Ok(options.require_tls(self.is_wanted()))
    }
}

fn certificates(path: &Path) -> Result<(), TlsFault> {
    let found = CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<Vec<_>, _>>();
    if found.is_ok_and(|found| !found.is_empty()) { Ok(()) } else { Err(fault(path, "holds no certificate in PEM form")) }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsFault> {
    std::fs::read(path).map_err(|error| fault(path, &format!("cannot be read: {error}")))
}

fn fault(path: &Path, problem: &str) -> TlsFault {
    TlsFault::File { path: path.to_owned(), problem: problem.to_owned() }
}

/// What TLS has to say about a connection that could not be made; nothing if it was not asked.
pub(super) fn fault_of(error: &(dyn StdError + 'static)) -> Option<TlsFault> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<RustlsError>() {
            return Some(of_rustls(error));
        }
        // An `io::Error` hides what it wraps from the chain.
        if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref)
            && let Some(found) = fault_of(inner)
        {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[expect(clippy::wildcard_enum_match_arm, reason = "another library's errors, of which we know some by name")]
fn of_rustls(error: &RustlsError) -> TlsFault {
    match error {
        RustlsError::InvalidCertificate(certificate) => match certificate {
            // A certificate that signs for another with the same name is told by its signature.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsFault::UnknownAuthority,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                TlsFault::WrongName(certificate.to_string())
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => TlsFault::Expired,
            other => TlsFault::Other(other.to_string()),
        },
        RustlsError::AlertReceived(
            alert @ (AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied),
        ) => TlsFault::ClientRefused(format!("{alert:?}")),
        RustlsError::InvalidMessage(_) => TlsFault::NotSpoken,
        RustlsError::InconsistentKeys(_) => TlsFault::Other("our certificate and its key do not belong together".to_owned()),
        other => TlsFault::Other(other.to_string()),
    }
}
