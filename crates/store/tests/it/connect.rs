//! Who is not good enough to keep our records is told so at once, and so are we where we are not let in.

use std::path::Path;
use std::time::Duration;

use longshore_model::limits::LABEL_SEGMENTS_MAX;
use longshore_model::{AgentId, Label};
use longshore_store::jetstream::{Auth, ClientCertificate, Config, ConnectError, Tls, TlsFault, connect};
use longshore_testkit::credentials::{Authority, Nkey, Operator};
use longshore_testkit::{NatsOptions, NatsServer, eventually};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::harness::soon;
use crate::sample::{create, group_work};

#[tokio::test]
async fn a_server_that_is_too_old_is_refused_at_connect_with_the_minimum() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    // All it takes to be connected to.
    let old_server = async {
        let mut stream = BufReader::new(listener.accept().await.unwrap().0);
        let info = r#"{"server_id":"x","server_name":"x","version":"2.11.9","go":"","host":"127.0.0.1","port":1,"max_payload":1048576,"proto":1,"client_id":1,"headers":true,"jetstream":true}"#;
        stream.write_all(format!("INFO {info}\r\n").as_bytes()).await.unwrap();
        let mut line = String::new();
        while stream.read_line(&mut line).await.is_ok_and(|n_read| n_read > 0) {
            if line.starts_with("PING") {
                stream.write_all(b"PONG\r\n").await.unwrap();
            }
            line.clear();
        }
    };
    let config = Config { url, ..Config::default() };
    let refused = soon(async {
        tokio::select! {
            connected = connect(&config) => connected.err().expect("it is refused"),
            () = old_server => panic!("the store hung up without a word"),
        }
    })
    .await;
    assert!(matches!(&refused, ConnectError::TooOld { found } if found == "2.11.9"), "{refused:?}");
    assert!(refused.to_string().contains("2.12.0"), "{refused}");
}

async fn server(extra_config: String) -> NatsServer {
    NatsServer::start_with(NatsOptions { is_monitored: true, extra_config, ..NatsOptions::default() }).await
}

/// Every right way leads to a working store, and every wrong one to a refusal that says what was shown and nothing of it.
async fn lets_in(extra_config: String, right: Auth, wrong: &[Auth]) {
    let server = server(extra_config).await;
    let config = |auth: Auth| Config { url: server.url(), auth, ..Config::default() };
    let store = soon(connect(&config(right))).await.unwrap();
    store.registry.leave(AgentId::from_bits(1)).await.unwrap();
    for auth in wrong.iter().chain([&Auth::None]) {
        let refused = soon(connect(&config(auth.clone()))).await.err().unwrap_or_else(|| panic!("let in with {auth:?}"));
        let ConnectError::NotLetIn { url, shown, .. } = &refused else { panic!("{auth:?}: {refused:?}") };
        assert_eq!((url.as_str(), *shown), (server.url().as_str(), auth.kind()));
        assert!(!format!("{refused} {refused:?}").contains("hunter2"), "{refused:?}");
    }
}

#[tokio::test]
async fn a_user_with_the_right_password_is_let_in() {
    let login = |user: &str, password: &str| Auth::UserPassword { user: user.into(), password: password.into() };
    let users = "authorization { users: [{user: ann, password: s3cret}] }".to_owned();
    lets_in(users, login("ann", "s3cret"), &[login("ann", "hunter2"), login("bob", "s3cret"), Auth::Token("s3cret".into())]).await;
}

#[tokio::test]
async fn the_right_token_is_let_in() {
    let token = |text: &str| Auth::Token(text.into());
    lets_in("authorization { token: s3cret }".to_owned(), token("s3cret"), &[token("hunter2")]).await;
}

#[tokio::test]
async fn an_nkey_that_the_broker_knows_is_let_in() {
    let (ours, strange) = (Nkey::generate(), Nkey::generate());
    let users = format!("authorization {{ users: [{{nkey: {}}}] }}", ours.public);
    lets_in(users, Auth::NKey(ours.seed), &[Auth::NKey(strange.seed)]).await;
}

#[tokio::test]
async fn a_user_of_the_operators_account_is_let_in_with_its_credentials_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        Auth::Creds(path)
    };
    let (ours, strange) = (Operator::generate(), Operator::generate());
    let (right, wrong) = (file("ours", ours.credentials()), file("strange", strange.credentials()));
    lets_in(ours.config(), right, &[wrong]).await;
}

#[tokio::test]
async fn credentials_that_are_none_are_refused_before_anybody_is_asked_and_never_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let damaged = dir.path().join("damaged");
    std::fs::write(&damaged, "hunter2").unwrap();
    let server = NatsServer::start().await;
    for (auth, part) in [
        (Auth::Creds(dir.path().join("missing")), "missing cannot be read"),
        (Auth::Creds(damaged), "damaged is no credentials file"),
        (Auth::NKey("hunter2".into()), "an nkey of `nats.auth` cannot sign"),
    ] {
        let config = Config { url: server.url(), auth, ..Config::default() };
        let refused = soon(connect(&config)).await.err().unwrap();
        assert!(matches!(&refused, ConnectError::Credentials(_)), "{refused:?}");
        assert!(refused.to_string().contains(part) && !refused.to_string().contains("hunter2"), "{refused}");
    }
}

#[tokio::test]
async fn a_broker_is_spoken_to_in_secret_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, strange) = (Authority::new_in(dir.path(), "ours"), Authority::new_in(dir.path(), "strange"));
    let server = server(ours.config(&ours.certify("127.0.0.1"), false)).await;
    let port = server.port();
    let attempt = async |host: &str, ca: Option<&Path>| {
        let tls = Tls { ca: ca.map(Path::to_owned), client: None };
        soon(connect(&Config { url: format!("nats://{host}:{port}"), tls, ..Config::default() })).await
    };
    attempt("127.0.0.1", Some(&ours.ca())).await.unwrap();
    let tls_fault = |refused: Result<_, ConnectError>| {
        let refused = refused.map(drop).unwrap_err();
        let ConnectError::Tls { fault, .. } = refused else { panic!("{refused:?}") };
        fault
    };
    for ca in [None, Some(strange.ca())] {
        let fault = tls_fault(attempt("127.0.0.1", ca.as_deref()).await);
        assert!(matches!(fault, TlsFault::UnknownAuthority), "{ca:?}: {fault:?}");
    }
    let fault = tls_fault(attempt("localhost", Some(&ours.ca())).await);
    assert!(matches!(&fault, TlsFault::WrongName(name) if name.contains("localhost")), "{fault:?}");
    for (path, part) in [(dir.path().join("missing"), "cannot be read"), (ours.certify("x").key, "holds no certificate")] {
        let fault = tls_fault(attempt("127.0.0.1", Some(&path)).await);
        assert!(matches!(&fault, TlsFault::File { problem, .. } if problem.contains(part)), "{fault:?}");
    }

    // A broker without TLS gets no word of ours in clear.
    let open = NatsServer::start().await;
    let config = Config { url: open.url(), tls: Tls { ca: Some(ours.ca()), client: None }, ..Config::default() };
    let fault = tls_fault(soon(connect(&config)).await);
    assert!(matches!(fault, TlsFault::NotSpoken), "{fault:?}");
}

/// A broker begins to copy a moment after a stream was made, from each of its sources at another one, and one that comes after something
/// was brought and taken passes over what was stored before: `setup.rs`.
#[tokio::test]
async fn what_is_stored_first_of_all_is_announced_to_every_group() {
    let server = NatsServer::start_with(NatsOptions { max_file_store: Some(1 << 40), ..NatsOptions::default() }).await;
    for namespace in ["a", "b", "c"] {
        let config = Config { url: server.url(), namespace: namespace.to_owned(), ..Config::default() };
        let store = soon(connect(&config)).await.unwrap();
        let mut groups: Vec<Label> =
            (1..=LABEL_SEGMENTS_MAX).map(|n| format!("group:{}", vec!["web"; n].join(".")).parse().unwrap()).collect();
        for (n, group) in (1..).zip(&groups) {
            create(&store, &group_work(n, &group.to_string())).await;
        }
        eventually("the work of every group", Duration::from_secs(15), async || {
            let mut waiting = Vec::new();
            for group in std::mem::take(&mut groups) {
                match store.work.take(&group, 1).await.unwrap().pop() {
                    Some(delivery) => delivery.lease.done().await.unwrap(),
                    None => waiting.push(group),
                }
            }
            groups = waiting;
            groups.is_empty().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_broker_that_asks_for_our_certificate_gets_it() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, strange) = (Authority::new_in(dir.path(), "ours"), Authority::new_in(dir.path(), "strange"));
    let server = server(ours.config(&ours.certify("127.0.0.1"), true)).await;
    let attempt = async |client: Option<ClientCertificate>| {
        let tls = Tls { ca: Some(ours.ca()), client };
        soon(connect(&Config { url: server.url(), tls, ..Config::default() })).await
    };
    let certificate = |authority: &Authority| {
        let files = authority.certify("agent");
        ClientCertificate { cert: files.cert, key: files.key }
    };
    attempt(Some(certificate(&ours))).await.unwrap();
    for client in [None, Some(certificate(&strange))] {
        let refused = attempt(client.clone()).await.err().unwrap();
        let is_named = matches!(&refused, ConnectError::Tls { fault: TlsFault::ClientRefused(_), .. });
        assert!(is_named, "{client:?}: {refused:?}");
    }
    let mixed = ClientCertificate { key: certificate(&strange).key, ..certificate(&ours) };
    let refused = attempt(Some(mixed)).await.err().unwrap();
    assert!(matches!(&refused, ConnectError::Tls { .. }), "{refused:?}");
}
