//! Who is not good enough to keep our records is told so at once.

use longshore_store::jetstream::{Config, ConnectError, connect};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::harness::soon;

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
