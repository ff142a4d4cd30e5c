//! `wss://`: a proxy with a certificate of its own stands before the stand-in.

use std::path::Path;

use longshore_testkit::credentials::{Authority, Certificate};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap).collect()
}

/// Listens with that certificate and hands on to the stand-in; asks for a client certificate if `is_mutual`.
async fn proxy(tasks: &mut JoinSet<()>, scheduler: &Scheduler, authority: &Authority, server: &Certificate, is_mutual: bool) -> String {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(&authority.ca()) {
        roots.add(certificate).unwrap();
    }
    let builder = if is_mutual {
        builder.with_client_cert_verifier(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_file(&server.key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(builder.with_single_cert(certificates(&server.cert), key).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = scheduler.address();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            connections.spawn(async move {
                if let Ok(mut tls) = acceptor.accept(stream).await {
                    let mut plain = TcpStream::connect(address).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut tls, &mut plain).await;
                }
            });
        }
    });
    format!("wss://localhost:{port}/ws/worker")
}

#[tokio::test]
async fn a_scheduler_is_believed_by_the_given_authority_only() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let mut tasks = JoinSet::new();
    let authority = Authority::new_in(bench.dir.path(), "ca");
    let url = proxy(&mut tasks, &bench.scheduler, &authority, &authority.certify("localhost"), false).await;
    let bench = bench.set("scheduler_ws_url", json!(url)).set("tls_ca_file", json!(authority.ca()));
    let running = bench.ready().await;
    bench.dispatch("t", json!({}));
    bench.answer("t").await;
    running.kill().await;
    // By another authority it is not, and that is a refusal.
    let other = Authority::new_in(bench.dir.path(), "other");
    let bench = bench.set("tls_ca_file", json!(other.ca())).set("reconnect_abort_on_auth_error", json!(true));
    let error = bench.start().ended().await.unwrap_err();
    assert!(matches!(&error, Error::Refused(reason) if reason.contains("certificate")), "{error}");
}

#[tokio::test]
async fn a_client_certificate_is_shown_and_its_fingerprint_said() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let mut tasks = JoinSet::new();
    let authority = Authority::new_in(bench.dir.path(), "ca");
    let url = proxy(&mut tasks, &bench.scheduler, &authority, &authority.certify("localhost"), true).await;
    let client = authority.certify("worker");
    let bench = bench.set("scheduler_ws_url", json!(url)).set("tls_ca_file", json!(authority.ca())).set("auth_mode", json!("mtls"));
    let bench = bench.set("tls_cert_file", json!(client.cert)).set("tls_key_file", json!(client.key));
    let running = bench.ready().await;
    let handshake: Value = serde_json::from_str(&bench.scheduler.received()[0]).unwrap();
    let auth = &handshake["payload"]["auth"];
    assert_eq!((auth["mode"].as_str(), auth["token"].is_null()), (Some("mtls"), true));
    let fingerprint = auth["fingerprint"].as_str().unwrap();
    assert!(fingerprint.starts_with("sha256:") && fingerprint.len() == 7 + 32 * 3 - 1, "{fingerprint}");
    running.kill().await;
    // Without one nobody is let in, and that is a refusal, although TLS says so only after the handshake.
    let bench = bench.set("tls_cert_file", Value::Null).set("tls_key_file", Value::Null).set("reconnect_abort_on_auth_error", json!(true));
    let before = bench.scheduler.counts().0;
    let error = bench.start().ended().await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
    assert_eq!(bench.scheduler.counts().0, before);
}

#[tokio::test]
async fn certificates_that_are_none_are_refused_by_name() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let nonsense = bench.dir.path().join("nonsense.pem");
    std::fs::write(&nonsense, "nonsense").unwrap();
    let bench = bench.set("scheduler_ws_url", json!("wss://localhost:1/")).set("tls_ca_file", json!(nonsense));
    let error = bench.worker(Arc::default()).err().expect("it is refused");
    assert!(matches!(&error, Error::Dialer(inner) if inner.to_string().contains("nonsense.pem")), "{error}");
}
