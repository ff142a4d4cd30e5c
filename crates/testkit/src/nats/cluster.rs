//! Three servers that know each other.

use std::net::TcpListener;

use super::{NatsOptions, NatsServer};

/// Starts three servers that may keep copies of everything, each with these options and a store of its own, and waits until each answers.
/// Leaders are chosen within seconds after that, on a machine that is busy with other tests in more.
///
/// # Panics
/// There is no nats-server, one does not get ready, or a store directory was given.
pub async fn cluster(options: &NatsOptions) -> [NatsServer; 3] {
    assert!(options.store_dir.is_none(), "servers cannot share a store");
    // Held until all are known, so that they differ; routes are dialled again until they are there.
    let doors = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let ports = doors.map(|door| door.local_addr().expect("it is bound").port());
    let routes = ports.map(|port| format!("\"nats://127.0.0.1:{port}\"")).join(", ");
    let start = |port: u16| {
        let line = format!("cluster {{ name: test, listen: \"127.0.0.1:{port}\", routes: [{routes}] }}");
        let extra_config = format!("{}\n{line}", options.extra_config);
        NatsServer::start_with(NatsOptions { is_monitored: true, extra_config, ..options.clone() })
    };
    let (one, two, three) = tokio::join!(start(ports[0]), start(ports[1]), start(ports[2]));
    [one, two, three]
}
