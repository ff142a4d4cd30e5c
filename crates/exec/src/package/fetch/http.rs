//! HTTP/1.1 to one judged address at a time.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONTENT_ENCODING, CONTENT_LENGTH, HOST, LOCATION, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use longshore_model::limits::FETCH_REDIRECTS_MAX;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use super::{FetchConfig, FetchError, Taken, blocking, shown};

const CONNECT_BOUND: Duration = Duration::from_secs(10);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Gets an address, following a few redirects.
pub(super) async fn get(mut url: Url, taken: Taken, config: &FetchConfig) -> Result<Taken, FetchError> {
    for _ in 0..=FETCH_REDIRECTS_MAX {
        let address = |reason| FetchError::Address { url: shown(&url), reason };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(address("an address with a user or a password is not fetched from"));
        }
        let mut driving = JoinSet::new();
        let answer = ask(&url, config, &mut driving).await?;
        if !answer.status().is_redirection() {
            return body(&url, answer, taken, config).await;
        }
        let next = answer.headers().get(LOCATION).and_then(|location| location.to_str().ok()).and_then(|to| url.join(to).ok());
        let Some(next) = next else {
            return Err(FetchError::Answer { url: shown(&url), what: format!("it answered {} without saying where to", answer.status()) });
        };
        match (url.scheme(), next.scheme()) {
            ("http", "http" | "https") | ("https", "https") => url = next,
            _less_safe => return Err(address("a redirect leads from it to something less safe")),
        }
    }
    Err(FetchError::Address { url: shown(&url), reason: "too many redirects lead there" })
}

/// Sends the request, and gives the head of the answer. `driving` moves the bytes as long as it lives.
async fn ask(url: &Url, config: &FetchConfig, driving: &mut JoinSet<()>) -> Result<Response<Incoming>, FetchError> {
    let broken = |error: hyper::Error| FetchError::Answer { url: shown(url), what: format!("the connection failed: {error}") };
    let slow = |_elapsed| FetchError::Slow { url: shown(url), what: "it does not answer" };
    let stream = connect(url, config).await?;
    let (mut sender, connection) =
        timeout(config.patience, hyper::client::conn::http1::handshake(TokioIo::new(stream))).await.map_err(slow)?.map_err(broken)?;
    driving.spawn(async move {
        // A broken connection is seen by whoever reads the answer.
        let _seen_by_the_reader = connection.await;
    });
    let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let request = Request::get(target)
        .header(HOST, host)
        .header(USER_AGENT, concat!("longshore/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "*/*")
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::Address { url: shown(url), reason: "it cannot be asked for" })?;
    timeout(config.patience, sender.send_request(request)).await.map_err(slow)?.map_err(broken)
}

async fn body(url: &Url, answer: Response<Incoming>, mut taken: Taken, config: &FetchConfig) -> Result<Taken, FetchError> {
    let unusable = |what: String| FetchError::Answer { url: shown(url), what };
    if answer.status() != hyper::StatusCode::OK {
        return Err(unusable(format!("it answered {}", answer.status())));
    }
    if answer.headers().get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(unusable("it answered in an encoding that was not asked for".to_owned()));
    }
    let announced = answer.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|announced| announced > taken.bytes_max) {
        return Err(taken.too_large());
    }
    let began = Instant::now();
    let mut body = answer.into_body();
    loop {
        let frame = timeout(config.patience, body.frame());
        let frame = frame.await.map_err(|_| FetchError::Slow { url: shown(url), what: "nothing more came" })?;
        let Some(frame) = frame else { return Ok(taken) };
        let frame = frame.map_err(|error| unusable(format!("the connection failed: {error}")))?;
        if let Ok(bytes) = frame.into_data() {
            taken = blocking(move || taken.take(&bytes).map(|()| taken)).await?;
        }
        let elapsed = began.elapsed();
        if elapsed > config.patience && taken.size < config.pace_bytes_per_second.saturating_mul(elapsed.as_secs().max(1)) {
            return Err(FetchError::Slow { url: shown(url), what: "it comes too slowly" });
        }
    }
}

/// Connects to an address of the host that may be connected to.
async fn connect(url: &Url, config: &FetchConfig) -> Result<Pin<Box<dyn Stream>>, FetchError> {
    let bad = |reason| FetchError::Address { url: shown(url), reason };
    let host = url.host().ok_or_else(|| bad("it names no host"))?.to_owned();
    let port = url.port_or_known_default().ok_or_else(|| bad("it names no port"))?;
    let name = host.to_string();
    let unreachable = |source| FetchError::Unreachable { host: name.clone(), source };
    let addresses: Vec<IpAddr> = match &host {
        Host::Ipv4(address) => vec![(*address).into()],
        Host::Ipv6(address) => vec![(*address).into()],
        Host::Domain(domain) => {
            let found = timeout(CONNECT_BOUND, tokio::net::lookup_host((domain.as_str(), port))).await;
            let found = found.map_err(|elapsed| unreachable(elapsed.into()))?.map_err(unreachable)?;
            found.map(|address| address.ip()).collect()
        }
    };
    // One that is not allowed makes the whole name suspect: it is no name to try until the other one comes up.
    if let Some(address) = addresses.iter().find(|address| !config.reach.allows(**address)) {
        return Err(FetchError::Forbidden { host: name.clone(), reach: config.reach, address: *address });
    }
    let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    for address in addresses {
        match timeout(CONNECT_BOUND, TcpStream::connect(SocketAddr::new(address, port))).await {
            Ok(Ok(stream)) => {
                // What the kernel connected to is what was judged.
                let peer = stream.peer_addr().map_err(unreachable)?.ip();
                if peer != address || !config.reach.allows(peer) {
                    return Err(FetchError::Forbidden { host: name.clone(), reach: config.reach, address: peer });
                }
                return if url.scheme() == "https" {
                    secure(&host, stream, config).await.map_err(unreachable)
                } else {
                    Ok(Box::pin(stream))
                };
            }
            Ok(Err(error)) => last = error,
            Err(elapsed) => last = elapsed.into(),
        }
    }
    Err(unreachable(last))
}

async fn secure(host: &Host<String>, stream: TcpStream, config: &FetchConfig) -> io::Result<Pin<Box<dyn Stream>>> {
    let name = match host {
        Host::Domain(domain) => ServerName::try_from(domain.clone()).map_err(io::Error::other)?,
        Host::Ipv4(address) => ServerName::from(IpAddr::from(*address)),
        Host::Ipv6(address) => ServerName::from(IpAddr::from(*address)),
    };
    let authorities = config.authorities.clone();
    let roots = tokio::task::spawn_blocking(move || roots(&authorities)).await.map_err(io::Error::other)??;
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let secured = timeout(CONNECT_BOUND, TlsConnector::from(Arc::new(tls)).connect(name, stream)).await??;
    Ok(Box::pin(secured))
}

/// The authorities of the system, and those of the settings.
fn roots(authorities: &[PathBuf]) -> io::Result<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    // What of the system's cannot be read is missed when a certificate rests on it, which says so.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for path in authorities {
        let fault = |error: &dyn std::fmt::Display| io::Error::other(format!("read the certificates of {}: {error}", path.display()));
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| fault(&error))? {
            let certificate = certificate.map_err(|error| fault(&error))?;
            roots.add(certificate).map_err(|error| fault(&error))?;
        }
    }
    Ok(roots)
}
