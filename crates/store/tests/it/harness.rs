//! Where a test gets its stores from, and how it waits.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::{Stream, StreamExt};
use longshore_store::jetstream::{Config, Objects, Registry, connect};
use longshore_store::memory::{self, MemoryOptions};
use longshore_store::{Delivery, PullStream, Store};
use longshore_testkit::NatsServer;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// Makes a pair of tests, `NAME::memory` and `NAME::jetstream`, of each function.
macro_rules! conformance {
    ($bounds:ident: $($name:ident),+ $(,)?) => {$(
        mod $name {
            #[tokio::test(start_paused = true)]
            async fn memory() {
                $crate::harness::on_memory($crate::harness::Bounds::$bounds, super::$name).await;
            }

            #[tokio::test]
            async fn jetstream() {
                $crate::harness::on_jetstream($crate::harness::Bounds::$bounds, super::$name).await;
            }
        }
    )+};
}

/// What is sure to happen happens within this, also on a machine that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(60);
/// A whole test.
const TEST_DEADLINE: Duration = Duration::from_secs(180);
/// How long to look for what must not happen, where nothing but time could tell.
pub(crate) const A_WHILE: Duration = Duration::from_millis(400);

/// The bounds that a test needs its stores to have.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    lease: Duration,
    registry_ttl: Duration,
    records_bytes_max: u64,
}

impl Bounds {
    /// Nothing expires and nothing is full before the test has ended.
    pub(crate) const GENEROUS: Self =
        Self { lease: Duration::from_secs(120), registry_ttl: Duration::from_secs(60), records_bytes_max: 8 << 20 };
    /// Leases and heartbeats expire soon.
    pub(crate) const SHORT: Self = Self { lease: Duration::from_secs(2), registry_ttl: Duration::from_secs(2), ..Self::GENEROUS };
    /// The ledger is full soon.
    pub(crate) const SMALL: Self = Self { records_bytes_max: 256 << 10, ..Self::GENEROUS };
}

pub(crate) async fn on_memory(bounds: Bounds, test: impl AsyncFnOnce(Store)) {
    let Bounds { lease, registry_ttl, records_bytes_max } = bounds;
    let store = memory::open(MemoryOptions { lease, registry_ttl, max_records_bytes: Some(records_bytes_max), ..MemoryOptions::default() });
    assert!(store.broker.is_connected());
    timeout(TEST_DEADLINE, test(store)).await.expect("the test ends in time");
}

pub(crate) async fn on_jetstream(bounds: Bounds, test: impl AsyncFnOnce(Store)) {
    let server = shared_server().await;
    let store = timeout(DEADLINE, connect(&config(&server, bounds))).await.expect("the stores open in time").unwrap();
    assert!(store.broker.is_connected());
    timeout(TEST_DEADLINE, test(store)).await.expect("the test ends in time");
}

/// One server for all tests that run at the same time; it goes with the last of them.
async fn shared_server() -> Arc<NatsServer> {
    static SERVER: Mutex<Weak<NatsServer>> = Mutex::const_new(Weak::new());
    let mut shared = SERVER.lock().await;
    if let Some(server) = shared.upgrade() {
        return server;
    }
    let server = Arc::new(NatsServer::start().await);
    *shared = Arc::downgrade(&server);
    server
}

/// A namespace of its own, and byte limits that many tests together stay within: the server sets limits aside in full.
fn config(server: &NatsServer, bounds: Bounds) -> Config {
    static TESTS: AtomicU32 = AtomicU32::new(0);
    let mut config = Config { url: server.url(), namespace: format!("t{}", TESTS.fetch_add(1, Ordering::Relaxed)), ..Config::default() };
    config.consumer.ack_wait = bounds.lease;
    config.registry = Registry { ttl: bounds.registry_ttl, ..config.registry };
    config.kv.max_bytes = bounds.records_bytes_max;
    config.stream.max_bytes = 8 << 20;
    config.dead_letters.max_bytes = 8 << 20;
    config.logs.max_bytes = 8 << 20;
    config.audit.max_bytes = 8 << 20;
    config.facts.max_bytes = 8 << 20;
    config.objects = Objects { max_bytes: 16 << 20, ..config.objects };
    config
}

/// The result of something that is sure to happen.
#[track_caller]
pub(crate) fn soon<T>(doing: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        match timeout(DEADLINE, doing).await {
            Ok(done) => done,
            Err(_) => panic!("waited {DEADLINE:?} in vain (at {caller})"),
        }
    }
}

/// The next item of a stream without an end.
#[track_caller]
pub(crate) fn next<S: Stream + Unpin>(stream: &mut S) -> impl Future<Output = S::Item> {
    let item = soon(stream.next());
    async move { item.await.expect("the stream goes on") }
}

/// Looks for a while and sees nothing.
pub(crate) async fn nothing_comes<S: Stream + Unpin>(stream: &mut S, within: Duration) -> bool {
    timeout(within, stream.next()).await.is_err()
}

/// Somebody who always asks for work.
pub(crate) struct Puller {
    store: Store,
    stream: PullStream,
}

impl Puller {
    pub(crate) async fn new(store: &Store) -> Self {
        Self { store: store.clone(), stream: store.work.pull(1).await.unwrap() }
    }

    #[track_caller]
    pub(crate) fn next(&mut self) -> impl Future<Output = Delivery> {
        soon(self.take())
    }

    /// Whether work comes within a time.
    pub(crate) async fn finds(&mut self, within: Duration) -> Option<Delivery> {
        timeout(within, self.take()).await.ok()
    }

    /// Cancel-safe: a pull goes on when the wait for it is given up.
    async fn take(&mut self) -> Delivery {
        loop {
            if let Some(delivery) = self.stream.next().await {
                return delivery;
            }
            self.stream = self.store.work.pull(1).await.unwrap();
        }
    }
}
