//! Three servers that know each other.

use super::{NatsOptions, NatsServer};
use crate::role::free_address;

/// Starts three servers that may keep copies of everything, each with these options and a store of its own, and waits until each answers.
/// Leaders are chosen within seconds after that, on a machine that is busy with other tests in more.
///
/// # Panics
/// There is no nats-server, one does not get ready, or a store directory was given.
pub async fn cluster(options: &NatsOptions) -> [NatsServer; 3] {
    assert!(options.store_dir.is_none(), "servers cannot share a store");
    // No port that a connection of anybody is given by itself: a server that is killed comes back where it was. Routes are dialled again until
    // they are there.
    let doors = [(); 3].map(|()| free_address());
    let routes = doors.each_ref().map(|door| format!("\"nats://{door}\"")).join(", ");
    let start = |door: &str| {
        let line = format!("cluster {{ name: test, listen: \"{door}\", routes: [{routes}] }}");
        let extra_config = format!("{}\n{line}", options.extra_config);
        NatsServer::start_with(NatsOptions { is_monitored: true, extra_config, ..options.clone() })
    };
    let (one, two, three) = tokio::join!(start(&doors[0]), start(&doors[1]), start(&doors[2]));
    [one, two, three]
}
