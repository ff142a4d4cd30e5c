//! Packages from addresses that nobody vouches for.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use longshore_exec::package::{InstallError, InstallReport, InstallRequest, Reach};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Site;

/// A piece of an answer: bytes, or a wait between them.
#[derive(Clone)]
enum Piece {
    Bytes(Vec<u8>),
    Wait(Duration),
    Forever(Vec<u8>, Duration),
}

/// A server that answers as it is told, byte for byte, whatever is asked; it counts who asks.
struct Server {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Server {
    async fn start(answer: impl Fn(&str, SocketAddr) -> Vec<Piece> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let mut serving = JoinSet::new();
        let counter = Arc::clone(&asked);
        serving.spawn(async move {
            let mut answering = JoinSet::new();
            while let Ok((mut socket, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") && socket.read_buf(&mut request).await.is_ok_and(|n| n > 0) {}
                let path = String::from_utf8_lossy(&request).split(' ').nth(1).unwrap_or_default().to_owned();
                let pieces = answer(&path, address);
                answering.spawn(async move {
                    for piece in pieces {
                        match piece {
                            Piece::Bytes(bytes) => {
                                let _gone = socket.write_all(&bytes).await;
                            }
                            Piece::Wait(time) => tokio::time::sleep(time).await,
                            Piece::Forever(bytes, every) => {
                                while socket.write_all(&bytes).await.is_ok() {
                                    tokio::time::sleep(every).await;
                                }
                            }
                        }
                    }
                });
            }
        });
        Self { address, asked, _serving: serving }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn ok(body: &[u8]) -> Vec<Piece> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    vec![Piece::Bytes([head.as_bytes(), body].concat())]
}

fn redirect(to: &str) -> Vec<Piece> {
    vec![Piece::Bytes(format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").into_bytes())]
}

async fn from(site: &Site, url: &str) -> Result<InstallReport, InstallError> {
    let request = InstallRequest { url: Some(url.to_owned()), ..InstallRequest::default() };
    site.installer.install(request, &CancellationToken::new()).await
}

fn near() -> Site {
    Site::with(|config| {
        config.fetch.reach = Reach::Loopback;
        config.fetch.patience = Duration::from_millis(400);
        config.fetch.timeout = Duration::from_secs(20);
        config.limits.packed_bytes = 1024 * 1024;
    })
}

fn bytes(archive: &Path) -> Vec<u8> {
    std::fs::read(archive).unwrap()
}

#[tokio::test]
async fn a_package_comes_over_http_whatever_its_address_ends_in() {
    let site = near();
    let body = bytes(&site.archive("p", "1.0.0", "x"));
    let server = Server::start(move |path, _| match path {
        "/package.cwx?token=secret" => ok(&body),
        "/moved" => redirect("/again"),
        "/again" => redirect("package.cwx?token=secret"),
        _other => vec![Piece::Bytes(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec())],
    })
    .await;
    let report = from(&site, &server.url("/package.cwx?token=secret")).await.unwrap();
    let receipt = report.installed.receipt().unwrap();
    assert!(receipt.source.ends_with("/package.cwx") && !receipt.source.contains("secret"), "{}", receipt.source);
    from(&site, &server.url("/moved")).await.unwrap();
    let error = from(&site, &server.url("/none?token=secret")).await.unwrap_err();
    assert!(error.to_string().contains("404") && !error.to_string().contains("secret"), "{error}");
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn addresses_that_may_not_be_fetched_from_are_never_connected_to() {
    let site = Site::new();
    let server = Server::start(|_, _| ok(b"")).await;
    let port = server.address.port();
    for host in ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "017700000001", "[::ffff:127.0.0.1]", "[::1]", "127.1"] {
        let error = from(&site, &format!("http://{host}:{port}/p.zip")).await.unwrap_err();
        assert!(matches!(&error, InstallError::Fetch(fetch) if !fetch.is_retryable()), "{host}: {error}");
        assert!(error.to_string().contains("not among the public addresses"), "{host}: {error}");
    }
    for url in ["http://169.254.169.254/latest/meta-data", "http://10.0.0.1/p.zip", "http://[fe80::1]/p.zip", "http://0.0.0.0/p.zip"] {
        let error = from(&site, url).await.unwrap_err().to_string();
        assert!(error.contains("not among the public addresses"), "{url}: {error}");
    }
    for (url, reason) in [
        ("gopher://127.0.0.1/p.zip", "only http, https and file"),
        ("ftp://example.org/p.zip", "only http, https and file"),
        ("file://elsewhere/p.zip", "absolute path of this host"),
        ("file:///dev/zero", "no regular file"),
        ("file:///etc", "no regular file"),
        ("not an address", "no address"),
        ("", "no address"),
    ] {
        let error = longshore_model::wire::problem::chain(&from(&site, url).await.unwrap_err());
        assert!(error.contains(reason), "{url}: {error}");
    }
    let error = from(&near(), &format!("http://user:hunter2@127.0.0.1:{port}/p.zip")).await.unwrap_err().to_string();
    assert!(error.contains("user or a password") && !error.contains("hunter2"), "{error}");
    assert_eq!(server.asked(), 0, "nobody was asked anything");
}

#[tokio::test]
async fn redirects_are_judged_like_the_first_address_and_bounded() {
    let site = near();
    let server = Server::start(|path, address| match path {
        "/loop" => redirect(&format!("http://{address}/loop")),
        "/file" => redirect("file:///etc/passwd"),
        "/metadata" => redirect("http://169.254.169.254/latest"),
        "/credentials" => redirect(&format!("http://user:password@{address}/p.zip")),
        _nowhere => vec![Piece::Bytes(b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n".to_vec())],
    })
    .await;
    for (path, reason) in [
        ("/loop", "too many redirects"),
        ("/file", "less safe"),
        ("/metadata", "169.254.169.254 is not among"),
        ("/credentials", "user or a password"),
        ("/nowhere", "without saying where to"),
    ] {
        let error = from(&site, &server.url(path)).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{path}: {error}");
    }
    assert_eq!(server.asked(), 4 + 4, "three redirects are followed, and nothing after them");
}

#[tokio::test]
async fn what_never_ends_lies_or_dawdles_is_given_up() {
    let site = near();
    let server = Server::start(|path, _| {
        let head = |rest: &str| Piece::Bytes(format!("HTTP/1.1 200 OK\r\n{rest}\r\n").into_bytes());
        match path {
            "/endless" => vec![head("connection: close\r\n"), Piece::Forever(vec![0; 64 * 1024], Duration::ZERO)],
            "/announced" => vec![head("content-length: 99999999999\r\n")],
            "/short" => vec![head("content-length: 100\r\n"), Piece::Bytes(vec![0; 10])],
            "/drip" => vec![head("content-length: 100000\r\n"), Piece::Forever(vec![0], Duration::from_millis(50))],
            "/silent" => vec![head("content-length: 100000\r\n"), Piece::Wait(Duration::from_secs(60))],
            "/mute" => vec![Piece::Wait(Duration::from_secs(60))],
            "/packed" => vec![head("content-encoding: gzip\r\ncontent-length: 1\r\n"), Piece::Bytes(vec![0])],
            "/headers" => vec![Piece::Bytes(b"HTTP/1.1 200 OK\r\n".to_vec()), Piece::Forever(b"x: y\r\n".repeat(1000), Duration::ZERO)],
            _nonsense => vec![Piece::Bytes(b"220 smtp ready\r\n\r\n".to_vec())],
        }
    })
    .await;
    for (path, reason, retryable) in [
        ("/endless", "more than 1048576 bytes", false),
        ("/announced", "more than 1048576 bytes", false),
        ("/short", "connection failed", true),
        ("/drip", "too slowly", true),
        ("/silent", "nothing more came", true),
        ("/mute", "does not answer", true),
        ("/packed", "encoding that was not asked for", false),
        ("/headers", "connection failed", true),
        ("/nonsense", "connection failed", true),
    ] {
        let error = from(&site, &server.url(path)).await.unwrap_err();
        assert!(error.to_string().contains(reason), "{path}: {error}");
        assert_eq!(error.is_retryable(), retryable, "{path}");
        assert_eq!(site.trees(), 0, "{path} leaves nothing");
    }
}

#[tokio::test]
async fn a_server_is_believed_only_if_an_authority_that_is_known_vouches_for_it() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (certified.cert.der().clone(), certified.signing_key.serialize_der());
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], rustls::pki_types::PrivateKeyDer::Pkcs8(key.into()))
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let stranger = near();
    let body = bytes(&stranger.archive("p", "1.0.0", "x"));
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut socket) = acceptor.accept(socket).await else { continue };
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") && socket.read_buf(&mut request).await.is_ok_and(|n| n > 0) {}
            let head = if request.starts_with(b"GET /down") {
                "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/p.zip\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned()
            } else {
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len())
            };
            let whole = if head.contains("200 OK") { [head.as_bytes(), &body].concat() } else { head.into_bytes() };
            let _gone = socket.write_all(&whole).await;
            let _gone = socket.shutdown().await;
        }
    });
    let url = format!("https://localhost:{port}/p.zip");
    let error = longshore_model::wire::problem::chain(&from(&stranger, &url).await.unwrap_err());
    assert!(error.contains("reach localhost") && error.contains("certificate"), "{error}");

    let authority = stranger.dir.path().join("authority.pem");
    std::fs::write(&authority, certified.cert.pem()).unwrap();
    let knows = Site::with(|config| {
        config.fetch.reach = Reach::Loopback;
        config.fetch.authorities = vec![authority];
    });
    from(&knows, &url).await.unwrap();
    let error = from(&knows, &format!("https://127.0.0.1:{port}/p.zip")).await.unwrap_err();
    assert!(longshore_model::wire::problem::chain(&error).contains("certificate"), "it is for another name: {error}");
    let error = from(&knows, &format!("https://localhost:{port}/down")).await.unwrap_err().to_string();
    assert!(error.contains("less safe"), "{error}");
}
