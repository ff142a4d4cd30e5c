use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use longshore_testkit::{NatsOptions, NatsServer, eventually};
use serde_json::{Value, json};

#[tokio::test]
async fn data_and_port_survive_a_kill_and_a_restart() {
    let mut server = NatsServer::start().await;
    let (port, first_pid) = (server.port(), server.pid());
    request(port, "$JS.API.STREAM.CREATE.KEEP", json!({"name": "KEEP", "subjects": ["keep"], "storage": "file"}));
    for n in 1..=100u64 {
        assert_eq!(request(port, "keep", json!(n))["seq"], n);
    }

    server.kill();
    assert!(!is_alive(first_pid));
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    server.restart().await;

    assert_eq!(server.port(), port);
    assert_ne!(server.pid(), first_pid);
    assert_eq!(request(port, "$JS.API.STREAM.INFO.KEEP", json!(null))["state"]["messages"], 100);
}

#[tokio::test]
async fn nothing_is_left_after_drop() {
    let server = NatsServer::start().await;
    let (pid, store) = (server.pid(), server.store_dir());
    assert!(is_alive(pid) && store.is_dir());
    drop(server);
    assert!(!is_alive(pid) && !store.exists());
}

#[tokio::test]
async fn a_store_that_was_given_stays() {
    let dir = tempfile::tempdir().unwrap();
    let options = || NatsOptions { store_dir: Some(dir.path().join("given")), ..NatsOptions::default() };
    let server = NatsServer::start_with(options()).await;
    request(server.port(), "$JS.API.STREAM.CREATE.KEEP", json!({"name": "KEEP", "subjects": ["keep"]}));
    drop(server);
    let server = NatsServer::start_with(options()).await;
    assert_eq!(request(server.port(), "$JS.API.STREAM.INFO.KEEP", json!(null))["config"]["name"], "KEEP");
}

#[tokio::test]
async fn options_reach_the_server() {
    let options = NatsOptions {
        max_payload: Some(4096),
        max_file_store: Some(64 << 20),
        extra_config: "max_connections: 7".to_owned(),
        ..NatsOptions::default()
    };
    let server = NatsServer::start_with(options).await;
    assert_eq!(info(server.port())["max_payload"], 4096);
    let config = std::fs::read_to_string(server.dir().join("nats.conf")).unwrap();
    assert!(config.contains("sync_interval: always") && config.contains("max_connections: 7"), "{config}");
}

#[tokio::test]
async fn a_paused_server_is_silent_until_it_is_resumed() {
    let server = NatsServer::start().await;
    let pid = server.pid();
    server.pause();
    eventually("the stop", Duration::from_secs(5), async || (state(pid) == Some('T')).then_some(())).await;
    server.resume();
    assert!(request(server.port(), "$JS.API.INFO", json!(null))["limits"].is_object());
}

#[tokio::test]
async fn servers_do_not_meet() {
    let (one, other) = tokio::join!(NatsServer::start(), NatsServer::start());
    assert_ne!(one.port(), other.port());
    assert_ne!(info(one.port())["server_name"], info(other.port())["server_name"]);
}

fn connect(port: u16) -> (BufReader<TcpStream>, Value) {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket takes a time-out");
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).expect("the server greets");
    let info = line.strip_prefix("INFO ").expect("with its description");
    (stream, serde_json::from_str(info).expect("in JSON"))
}

fn info(port: u16) -> Value {
    connect(port).1
}

fn request(port: u16, subject: &str, body: Value) -> Value {
    let (mut stream, _) = connect(port);
    let body = body.to_string();
    let words = format!("CONNECT {{\"verbose\":false}}\r\nSUB reply 1\r\nPUB {subject} reply {}\r\n{body}\r\n", body.len());
    stream.get_mut().write_all(words.as_bytes()).expect("the server reads");
    loop {
        let mut line = String::new();
        assert_ne!(stream.read_line(&mut line).expect("the server answers"), 0);
        if let Some(size) = line.strip_prefix("MSG reply 1 ") {
            let mut payload = vec![0; size.trim().parse().expect("a size")];
            stream.read_exact(&mut payload).expect("the payload follows");
            return serde_json::from_slice(&payload).expect("in JSON");
        }
    }
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// The letter of `/proc/PID/stat`; `T` is stopped.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}
