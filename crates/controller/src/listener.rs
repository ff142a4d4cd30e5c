//! Accepts connections, over TLS where there is a certificate, and serves each. A client that says nothing holds its place for a bounded time, and all of them together are a
//! bounded number.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::tls::Shown;

/// Where a request's connection came from: in its extensions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remote(pub(crate) SocketAddr);

/// What a request's connection has shown of itself: in its extensions, where it is one over TLS whose client has a certificate.
#[derive(Debug, Clone)]
pub(crate) struct Certified(pub(crate) Arc<Shown>);

/// What connections are held to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// How long the head of a request may take, also while a connection waits for its next one.
    pub(crate) head_within: Duration,
    /// Connections at once; others wait to be accepted.
    pub(crate) connections: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { head_within: Duration::from_secs(30), connections: 4096 }
    }
}

/// Serves, over TLS if there is an acceptor, until `drain` is set, then takes no more requests and ends with the last answer. Dropping it cuts everybody off.
pub(crate) async fn serve<S>(mut listener: TcpListener, tls: Option<TlsAcceptor>, service: S, bounds: Bounds, drain: CancellationToken)
where
    S: tower::Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let (stream, remote) = tokio::select! {
            () = drain.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&mut listener), if connections.len() < bounds.connections => accepted,
        };
        let (service, drain) = (service.clone(), drain.clone());
        match tls.clone() {
            None => connections.spawn(converse(stream, (Remote(remote), None), service, bounds, drain)),
            Some(tls) => connections.spawn(secured(tls, stream, Remote(remote), service, bounds, drain)),
        };
    }
    // Whoever connects from now on is refused rather than left waiting.
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// The framework's own: it waits when there are no more file descriptors.
async fn accept(listener: &mut TcpListener) -> (TcpStream, SocketAddr) {
    axum::serve::Listener::accept(listener).await
}

/// A connection that begins with a handshake of TLS.
async fn secured<S>(tls: TlsAcceptor, stream: TcpStream, remote: Remote, service: S, bounds: Bounds, drain: CancellationToken)
where
    S: tower::Service<Request, Response = Response, Error = Infallible> + Clone,
{
    let within = bounds.head_within;
    let shaking = drain.run_until_cancelled(tokio::time::timeout(within, tls.accept(stream)));
    let stream = match shaking.await {
        Some(Ok(Ok(stream))) => stream,
        Some(Ok(Err(error))) => return tracing::info!(remote = %remote.0, %error, "a connection over TLS was refused"),
        Some(Err(_)) | None => return,
    };
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).map(Shown::of);
    converse(stream, (remote, shown.map(|shown| Certified(Arc::new(shown)))), service, bounds, drain).await;
}

async fn converse<I, S>(stream: I, (remote, certified): (Remote, Option<Certified>), service: S, bounds: Bounds, drain: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: tower::Service<Request, Response = Response, Error = Infallible> + Clone,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(bounds.head_within);
    let service = TowerToHyperService::new(service);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(remote);
        if let Some(certified) = &certified {
            request.extensions_mut().insert(certified.clone());
        }
        service.call(request)
    });
    // One that becomes a WebSocket leaves its place here; the gateway has bounds of its own.
    let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %crate::app::chain(&error), "a connection ended badly");
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const SOON: Duration = Duration::from_secs(10);
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    struct Door {
        address: std::net::SocketAddr,
        drain: CancellationToken,
        tasks: JoinSet<()>,
    }

    async fn open(bounds: Bounds) -> Door {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (drain, mut tasks) = (CancellationToken::new(), JoinSet::new());
        tasks.spawn(serve(listener, None, Router::new().route("/", get(async || "hello")), bounds, drain.clone()));
        Door { address, drain, tasks }
    }

    /// Everything up to the end of the connection.
    async fn heard(stream: &mut TcpStream) -> String {
        let mut text = Vec::new();
        tokio::time::timeout(SOON, stream.read_to_end(&mut text)).await.expect("the connection ends").unwrap();
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn a_client_that_sends_half_a_head_or_nothing_is_cut_off() {
        let door = open(Bounds { head_within: Duration::from_millis(100), ..Bounds::default() }).await;
        for sent in [&REQUEST[..20], b""] {
            let mut stream = TcpStream::connect(door.address).await.unwrap();
            stream.write_all(sent).await.unwrap();
            assert!(!heard(&mut stream).await.contains("200 OK"));
        }
        // And so is one that says nothing after its answer.
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        stream.write_all(REQUEST).await.unwrap();
        assert!(heard(&mut stream).await.ends_with("hello"));
    }

    #[tokio::test]
    async fn who_comes_when_all_places_are_taken_waits_for_one() {
        let mut door = open(Bounds { connections: 1, ..Bounds::default() }).await;
        let first = TcpStream::connect(door.address).await.unwrap();
        let mut second = TcpStream::connect(door.address).await.unwrap();
        second.write_all(REQUEST).await.unwrap();
        let mut answer = [0; 8];
        assert!(tokio::time::timeout(Duration::from_millis(100), second.read(&mut answer)).await.is_err());
        drop(first);
        tokio::time::timeout(SOON, second.read_exact(&mut answer)).await.expect("it is its turn").unwrap();
        // The end does not wait for who has nothing to say.
        door.drain.cancel();
        tokio::time::timeout(SOON, door.tasks.join_next()).await.expect("it ends").unwrap().unwrap();
    }
}
