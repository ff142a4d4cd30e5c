//! Workers that prove who they are with a certificate, over TLS.

use std::path::Path;
use std::sync::Arc;

use longshore_controller::TlsListen;
use longshore_testkit::credentials::{Authority, Certificate};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::raw::{Closed, RawWorker};
use super::work::memory;
use crate::support::House;

struct Site {
    house: House,
    authority: Authority,
    dir: tempfile::TempDir,
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap).collect()
}

impl Site {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new_in(dir.path(), "ca");
        let own = authority.certify("localhost");
        let listen = "127.0.0.1:0".parse().unwrap();
        let tls = TlsListen::read(listen, &own.cert, &own.key, Some(&authority.ca())).unwrap();
        let house = House::on(memory(), |config| config.gateway.tls = Some(tls)).await;
        Self { house, authority, dir }
    }

    async fn connect(&self, shown: Option<&Certificate>) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(certificates(&self.authority.ca()).remove(0)).unwrap();
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let config = match shown {
            Some(Certificate { cert, key }) => {
                builder.with_client_auth_cert(certificates(cert), PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        let stream = TcpStream::connect(self.house.secured.unwrap()).await.unwrap();
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
    }

    async fn dial(&self, shown: Option<&Certificate>) -> RawWorker {
        RawWorker::over(Box::new(self.connect(shown).await.unwrap()), "w-1").await.unwrap()
    }

    /// How a first frame is refused.
    async fn refusal(&self, mut worker: RawWorker, kind: &str, payload: Value) -> (String, Closed) {
        worker.ask(kind, payload).await;
        let reset = worker.next().await;
        assert_eq!(reset["type"], "control.reset", "{reset}");
        (reset["payload"]["code"].as_str().unwrap().to_owned(), worker.closed().await)
    }
}

fn handshake(hostname: &str) -> Value {
    let worker = json!({"worker_name": "w", "worker_instance_id": "w-1", "version": "0.1.0", "hostname": hostname});
    json!({"protocol": 1, "auth": {"mode": "mtls", "fingerprint": "aa:bb"}, "worker": worker})
}

async fn attach(worker: &mut RawWorker, hostname: &str, features: &[&str]) -> Value {
    let id = worker.ask("control.handshake", handshake(hostname)).await;
    worker.acked(&id).await;
    let id = worker.register(features).await;
    worker.acked(&id).await;
    worker.until("control.session.accept").await["payload"].clone()
}

fn resume(accept: &Value) -> Value {
    json!({"session_id": accept["session_id"], "session_token": accept["session_token"], "last_seen_seq": 0})
}

#[tokio::test]
async fn a_worker_with_a_certificate_attaches_over_tls_without_a_token() {
    let site = Site::start().await;
    let (own, other) = (site.authority.certify("edge-01"), site.authority.certify("edge-02"));
    let mut worker = site.dial(Some(&own)).await;
    let accept = attach(&mut worker, "edge-01", &[]).await;
    site.house.knows("edge-01", "ready").await;
    let id = site.house.run_package("edge-01", json!({})).await;
    let dispatch = worker.dispatched().await;
    worker.finish(&dispatch, "SUCCEEDED", json!({})).await;
    site.house.ends_as(id, "completed").await;
    let records = site.house.get("/api/v1/audit").await;
    let by_certificate = |record: &Value| record["who"].as_str().is_some_and(|who| who.starts_with("certificate sha256:"));
    assert!(records["items"].as_array().unwrap().iter().any(by_certificate), "{records}");
    // What it got for its session is worth nothing without its key.
    let plain = RawWorker::dial(&site.house, "w-1").await;
    for thief in [plain, site.dial(None).await, site.dial(Some(&other)).await] {
        let (code, closed) = site.refusal(thief, "control.resume", resume(&accept)).await;
        assert_eq!((code.as_str(), closed.code), ("E.AUTH.MTLS_REQUIRED", Some(1011)));
    }
    let mut again = site.dial(Some(&own)).await;
    let id = again.ask("control.resume", resume(&accept)).await;
    again.acked(&id).await;
    assert_eq!(again.until("control.session.accept").await["payload"]["resumed"], true);
    // The same address serves tokens, and the API.
    let mut token = RawWorker::over(Box::new(site.connect(None).await.unwrap()), "w-3").await.unwrap();
    token.attach(&site.house.attach_token(), "edge-03").await;
    let mut stream = site.connect(None).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let _cut_short_without_a_word = stream.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_certificate_is_for_the_hosts_that_it_names() {
    let site = Site::start().await;
    let wide = site.authority.certify_as("wide", &["edge-01", "*.edge.example"], &["longshore:group:web", "https://elsewhere/"]);
    for (hostname, expected) in [("edge-02", "E.AUTH.UNAUTHENTICATED"), ("a.b.edge.example", "E.AUTH.UNAUTHENTICATED")] {
        let (code, closed) = site.refusal(site.dial(Some(&wide)).await, "control.handshake", handshake(hostname)).await;
        assert_eq!((code.as_str(), closed.code), (expected, Some(1011)), "{hostname}");
        assert!(closed.reason.contains("other hosts"), "{closed:?}");
    }
    let (code, closed) = site.refusal(site.dial(None).await, "control.handshake", handshake("edge-01")).await;
    assert_eq!((code.as_str(), closed.code), ("E.AUTH.MTLS_REQUIRED", Some(1011)));
    let plain = RawWorker::dial(&site.house, "w-1").await;
    assert_eq!(site.refusal(plain, "control.handshake", handshake("edge-01")).await.0, "E.AUTH.MTLS_REQUIRED");
    // Nobody vouches for this one: TLS itself refuses it, at the latest with the first read.
    let stranger = Authority::new_in(site.dir.path(), "other").certify("edge-01");
    if let Ok(stream) = site.connect(Some(&stranger)).await {
        assert!(RawWorker::over(Box::new(stream), "w-1").await.is_err());
    }
    assert_eq!(site.house.get("/api/v1/agents").await["items"], json!([]), "nobody came in");
    // Of the groups that it says, those that its certificate names.
    let mut worker = site.dial(Some(&wide)).await;
    attach(&mut worker, "one.edge.example", &["group:web.dev", "group:prod", "group:we"]).await;
    site.house.knows("one.edge.example", "ready").await;
    assert_eq!(site.house.get("/api/v1/agents").await["items"][0]["labels"], json!(["group:web.dev"]));
}

#[test]
fn files_of_a_listener_that_cannot_be_used_are_told_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new_in(dir.path(), "ca");
    let (own, other) = (authority.certify("localhost"), authority.certify("other"));
    let nonsense = dir.path().join("nonsense.pem");
    std::fs::write(&nonsense, "nonsense").unwrap();
    let read = |cert: &Path, key: &Path, ca: Option<&Path>| {
        let error = TlsListen::read("127.0.0.1:0".parse().unwrap(), cert, key, ca).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        format!("{error}: {source}")
    };
    for said in [read(&nonsense, &own.key, None), read(&own.cert, &nonsense, None), read(&own.cert, &own.key, Some(&nonsense))] {
        assert!(said.contains("nonsense.pem"), "{said}");
    }
    let said = read(&own.cert, &other.key, None);
    assert!(said.starts_with("set up TLS: "), "{said}");
}
