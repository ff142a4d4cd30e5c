//! The way to the scheduler: TCP, TLS where the address asks for it, and the WebSocket upgrade.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use longshore_session::code::Failure;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Error as WebSocketError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::settings::Settings;
use super::socket::Metered;

/// How long a dial may take, all its steps together.
const DIAL_WITHIN: Duration = Duration::from_secs(15);

/// A connection, whatever it runs over.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// An upgraded connection.
pub(crate) type WebSocket = WebSocketStream<Metered<Box<dyn Duplex>>>;

/// Why the settings give no way to a scheduler.
#[derive(Debug, thiserror::Error)]
pub enum DialerError {
    /// It is no address of a WebSocket.
    #[error("scheduler_ws_url must be ws://HOST[:PORT][/PATH] or wss://…, and {0:?} is not")]
    Address(String),
    /// A file of certificates or keys.
    #[error("cannot use {}: {problem}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Certificates that do not go together, or a system without any.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// Dials, any number of times.
#[derive(Clone)]
pub(crate) struct Dialer {
    url: String,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    frame_bytes_max: usize,
}

impl Dialer {
    /// Reads the certificates that the settings name, once.
    pub(crate) fn new(settings: &Settings, frame_bytes_max: usize) -> Result<Self, DialerError> {
        let wrong = || DialerError::Address(settings.scheduler_ws_url.clone());
        let uri: Uri = settings.scheduler_ws_url.trim().parse().map_err(|_| wrong())?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?.trim_matches(['[', ']']).to_owned();
        let (is_tls, port) = match uri.scheme_str() {
            Some("ws") => (false, 80),
            Some("wss") => (true, 443),
            Some(_) | None => return Err(wrong()),
        };
        let tls = if is_tls {
            let name = ServerName::try_from(host.clone()).map_err(|_| wrong())?;
            Some((TlsConnector::from(Arc::new(client_config(settings)?)), name))
        } else {
            None
        };
        Ok(Self { url: uri.to_string(), host, port: uri.port_u16().unwrap_or(port), tls, frame_bytes_max })
    }

    /// One dial. Cancel-safe: a dropped one leaves nothing.
    pub(crate) async fn dial(self) -> Result<WebSocket, DialFault> {
        match tokio::time::timeout(DIAL_WITHIN, self.connect()).await {
            Ok(result) => result,
            Err(_) => Err(DialFault { failure: Failure::Network, reason: format!("timed out after {} s", DIAL_WITHIN.as_secs()) }),
        }
    }

    /// A connection to the same place for something else than a session. Cancel-safe: a dropped one leaves nothing.
    pub(crate) async fn open(&self) -> Result<Box<dyn Duplex>, DialFault> {
        match tokio::time::timeout(DIAL_WITHIN, self.stream()).await {
            Ok(result) => result,
            Err(_) => Err(DialFault { failure: Failure::Network, reason: format!("timed out after {} s", DIAL_WITHIN.as_secs()) }),
        }
    }

    /// Its authority and its path.
    pub(crate) fn place(&self) -> (String, String) {
        let uri: Option<Uri> = self.url.parse().ok();
        let authority = uri.as_ref().and_then(Uri::authority).map(ToString::to_string).unwrap_or_default();
        (authority, uri.as_ref().map(|uri| uri.path().trim_end_matches('/').to_owned()).unwrap_or_default())
    }

    async fn stream(&self) -> Result<Box<dyn Duplex>, DialFault> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|error| DialFault::of_io(&error))?;
        // Frames are small and waited for.
        stream.set_nodelay(true).map_err(|error| DialFault::of_io(&error))?;
        Ok(match &self.tls {
            Some((connector, name)) => Box::new(connector.connect(name.clone(), stream).await.map_err(|error| DialFault::of_tls(&error))?),
            None => Box::new(stream),
        })
    }

    async fn connect(self) -> Result<WebSocket, DialFault> {
        let stream = self.stream().await?;
        let request = self.url.into_client_request().map_err(|error| DialFault::of(&error))?;
        let config = WebSocketConfig::default().max_message_size(Some(self.frame_bytes_max)).max_frame_size(Some(self.frame_bytes_max));
        let (socket, _) =
            client_async_with_config(request, Metered::new(stream), Some(config)).await.map_err(|error| DialFault::of(&error))?;
        Ok(socket)
    }
}

/// Why a dial failed.
#[derive(Debug)]
pub(crate) struct DialFault {
    pub(crate) failure: Failure,
    pub(crate) reason: String,
}

impl DialFault {
    /// In TLS 1.3 a refused certificate is heard of with the first read after the handshake.
    fn of_io(error: &io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        Self { failure: if tls.is_some_and(is_refusal) { Failure::Auth } else { Failure::Network }, reason: error.to_string() }
    }

    /// A certificate that is refused is a refusal of credentials, whoever refuses it.
    fn of_tls(error: &io::Error) -> Self {
        let reason = error.to_string();
        let is_refusal = reason.to_lowercase().contains("certificate");
        Self { failure: if is_refusal { Failure::Auth } else { Failure::Network }, reason }
    }

    fn of(error: &WebSocketError) -> Self {
        let reason = error.to_string();
        let status = match error {
            WebSocketError::Http(response) => Some(response.status().as_u16()),
            WebSocketError::Io(error) => return Self::of_io(error),
            // Cut short by somebody who ends or begins just now, which says nothing of what it speaks.
            WebSocketError::ConnectionClosed
            | WebSocketError::AlreadyClosed
            | WebSocketError::Protocol(ProtocolError::HandshakeIncomplete | ProtocolError::ResetWithoutClosingHandshake) => {
                return Self { failure: Failure::Network, reason };
            }
            WebSocketError::Tls(_)
            | WebSocketError::Capacity(_)
            | WebSocketError::Protocol(_)
            | WebSocketError::WriteBufferFull(_)
            | WebSocketError::Utf8(_)
            | WebSocketError::AttackAttempt
            | WebSocketError::Url(_)
            | WebSocketError::HttpFormat(_) => None,
        };
        Self { failure: Failure::of(status, &reason), reason }
    }
}

/// Whether the other end refuses our certificate.
fn is_refusal(error: &rustls::Error) -> bool {
    use rustls::AlertDescription as Alert;
    let refusals = [
        Alert::CertificateRequired,
        Alert::NoCertificate,
        Alert::BadCertificate,
        Alert::UnsupportedCertificate,
        Alert::CertificateRevoked,
        Alert::CertificateExpired,
        Alert::CertificateUnknown,
        Alert::UnknownCA,
        Alert::AccessDenied,
    ];
    refusals.iter().any(|refusal| *error == rustls::Error::AlertReceived(*refusal))
}

/// The SHA-256 of the client certificate, as its fingerprint is usually written.
pub(crate) fn fingerprint(path: &Path) -> Result<String, DialerError> {
    let certificate = certificates(path)?.remove(0);
    let hex = data_encoding::HEXUPPER.encode(&Sha256::digest(&certificate));
    let pairs: Vec<_> = hex.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair).into_owned()).collect();
    Ok(format!("sha256:{}", pairs.join(":")))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, DialerError> {
    let fault = |problem: String| DialerError::File { path: path.to_owned(), problem };
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| fault(error.to_string()))?;
    if found.is_empty() { Err(fault("no certificate is in it".to_owned())) } else { Ok(found) }
}

fn client_config(settings: &Settings) -> Result<ClientConfig, DialerError> {
    let tls = |error: rustls::Error| DialerError::Tls(error.to_string());
    let mut roots = RootCertStore::empty();
    match &settings.tls_ca_file {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| DialerError::File { path: path.clone(), problem: error.to_string() })?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(DialerError::Tls("the system has no certificates: name some with tls_ca_file".to_owned()));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(tls)?.with_root_certificates(roots);
    match (&settings.tls_cert_file, &settings.tls_key_file) {
        (Some(certificate), Some(key)) => {
            let private =
                PrivateKeyDer::from_pem_file(key).map_err(|error| DialerError::File { path: key.clone(), problem: error.to_string() })?;
            builder.with_client_auth_cert(certificates(certificate)?, private).map_err(tls)
        }
        (Some(_) | None, _) => Ok(builder.with_no_client_auth()),
    }
}
