//! Connecting: log in, check the server's version, make or check every stream and bucket.

use std::sync::Arc;

use async_nats::connection::State;
use async_nats::jetstream::context::ContextBuilder;
use tokio::sync::broadcast;

use super::config::Config;
use super::dial::dial;
use super::link::{Link, Shared, TRY};
use super::mux::Mux;
use super::tls::TlsFault;
use super::{audit as trail, dead_letters, facts, feed, ledger, logs, objects, registry, setup, time, turns, work};
use crate::layout::Layout;
use crate::{Broker, Error, Store};

/// The oldest nats-server that has what Longshore relies on: 2.12 brought guards over a filter and limit markers of age.
pub const OLDEST_SERVER: (u64, u64, u64) = (2, 12, 0);

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers there.
    #[error("cannot connect to NATS at {url}: {reason}")]
    Connect {
        /// Where, without credentials.
        url: String,
        /// Why.
        reason: String,
    },
    /// It does not let us in with the credentials that it was shown, or without any.
    #[error("NATS at {url} does not let us in with {shown}: {reason}")]
    NotLetIn {
        /// Where, without credentials.
        url: String,
        /// What kind of credentials it was shown.
        shown: &'static str,
        /// Its words.
        reason: String,
    },
    /// There is no secure connection to it.
    #[error("no secure connection to NATS at {url}: {fault}")]
    Tls {
        /// Where, without credentials.
        url: String,
        /// What is wrong.
        fault: TlsFault,
    },
    /// The server is too old.
    #[error("nats-server {found} is too old: {}.{}.{} or newer is needed, 2.15.1 is recommended", OLDEST_SERVER.0, OLDEST_SERVER.1, OLDEST_SERVER.2)]
    TooOld {
        /// Its version.
        found: String,
    },
    /// A credential cannot be used.
    #[error("cannot use the credentials: {0}")]
    Credentials(String),
    /// A name in the configuration cannot be used.
    #[error("{0}")]
    Name(String),
    /// A stream or bucket could not be made, or is not as it must be.
    #[error("cannot set up the stores")]
    Setup(#[source] Error),
}

/// Connects and makes sure that every stream and bucket is there and is what the configuration says. Waits a few seconds for a broker
/// that is still starting. The connection heals itself afterwards.
///
/// # Errors
/// Nobody there, not let in, a server that is too old, or a stream of ours with other settings than we rely on.
pub async fn connect(config: &Config) -> Result<Store, ConnectError> {
    let link = link(config).await?;
    setup::ensure(&link).await.map_err(ConnectError::Setup)?;
    let clock = time::clock(&link.client, &link.layout).await;
    Ok(Store {
        ledger: Arc::new(ledger::JetStreamLedger::open(link.clone()).await.map_err(ConnectError::Setup)?),
        work: Arc::new(work::JetStreamWork::open(link.clone()).await.map_err(ConnectError::Setup)?),
        feed: Arc::new(feed::JetStreamFeed::new(link.clone())),
        logs: Arc::new(logs::JetStreamLogs::open(link.clone()).await.map_err(ConnectError::Setup)?),
        registry: Arc::new(registry::JetStreamRegistry::new(link.clone())),
        facts: Arc::new(facts::JetStreamFacts::new(link.clone())),
        dead_letters: Arc::new(dead_letters::JetStreamDeadLetters::open(link.clone()).await.map_err(ConnectError::Setup)?),
        audit: Arc::new(trail::JetStreamAudit::open(link.clone()).await.map_err(ConnectError::Setup)?),
        turns: Arc::new(turns::JetStreamTurns::open(link.clone()).await.map_err(ConnectError::Setup)?),
        objects: Arc::new(objects::JetStreamObjects::open(&link, clock.clone()).await.map_err(ConnectError::Setup)?),
        broker: link,
        clock,
    })
}

/// A connection to a server that will do.
pub(super) async fn link(config: &Config) -> Result<Shared, ConnectError> {
    check_names(config)?;
    let (reconnects, _) = broadcast::channel(16);
    let client = dial(config, &reconnects).await?;
    let version = client.server_info().version;
    if parse_version(&version) < OLDEST_SERVER {
        return Err(ConnectError::TooOld { found: version });
    }
    let context = ContextBuilder::new().timeout(TRY * 2).ack_timeout(TRY).max_ack_inflight(8192).build(client.clone());
    let mux = Mux::open(&client).await.map_err(|fault| ConnectError::Setup(Error::unavailable("opening a conversation", fault)))?;
    Ok(Arc::new(Link { layout: Layout::new(config), config: config.clone(), client, context, reconnects, mux }))
}

impl Broker for Link {
    fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    fn version(&self) -> Option<String> {
        Some(self.client.server_info().version)
    }

    fn record_bytes_max(&self) -> usize {
        Self::record_bytes_max(self)
    }
}

pub(super) fn parse_version(text: &str) -> (u64, u64, u64) {
    let mut numbers = text.split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next())
}

fn check_names(config: &Config) -> Result<(), ConnectError> {
    let token = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    let names = [
        ("nats.stream.name", &config.stream.name),
        ("nats.kv.bucket", &config.kv.bucket),
        ("nats.kv.response_bucket", &config.kv.response_bucket),
        ("nats.logs.stream", &config.logs.name),
        ("nats.audit.stream", &config.audit.name),
        ("nats.registry.bucket", &config.registry.bucket),
        ("nats.state.bucket", &config.state_bucket),
        ("nats.facts.bucket", &config.facts.bucket),
        ("nats.objects.bucket", &config.objects.bucket),
        ("agent.queue_group", &config.consumer.queue_group),
    ];
    let prefix = config.work_prefix.split('.').map(|token| ("nats.stream.subjects", token));
    let prefix = prefix.chain(config.inbox_prefix.split('.').map(|token| ("nats.inbox_prefix", token)));
    let letters = config.dead_letters.name.iter().map(|name| ("nats.dlq.stream", name.as_str()));
    for (key, name) in names.into_iter().map(|(key, name)| (key, name.as_str())).chain(prefix).chain(letters) {
        if name.is_empty() || name.len() > 64 || !token(name) {
            return Err(ConnectError::Name(format!("{key} is {name:?}: use 1 to 64 of A-Z a-z 0-9 - _")));
        }
    }
    // Output has its own: the broker takes no two streams for one subject.
    if config.work_prefix.split('.').next() == Some("logs") {
        return Err(ConnectError::Name("nats.stream.subjects begins with logs, where jobs' output goes: use other subjects".to_owned()));
    }
    if config.namespace.len() > 32 || !token(&config.namespace) {
        return Err(ConnectError::Name(format!("nats.server.namespace is {:?}: use up to 32 of A-Z a-z 0-9 - _", config.namespace)));
    }
    no_two_alike(&Layout::new(config))
}

/// What is kept apart has names of its own: one stream cannot be two.
fn no_two_alike(layout: &Layout) -> Result<(), ConnectError> {
    let bucket = |name: &str| Layout::bucket_stream(name);
    let streams = [
        ("nats.stream.name", layout.work.clone()),
        ("nats.dlq.stream", layout.dead_letters.clone()),
        ("nats.logs.stream", layout.logs.clone()),
        ("nats.audit.stream", layout.audit.clone()),
        ("nats.objects.bucket", layout.object_stream()),
        ("nats.kv.bucket", bucket(&layout.queue_bucket)),
        ("nats.kv.response_bucket", bucket(&layout.response_bucket)),
        ("nats.registry.bucket", bucket(&layout.registry_bucket)),
        ("nats.state.bucket", bucket(&layout.state_bucket)),
        ("nats.facts.bucket", bucket(&layout.facts_bucket)),
        ("the bucket of the agents' inboxes", bucket(&layout.inbox_bucket)),
        ("the bucket of turns", bucket(&layout.turn_bucket)),
    ];
    for (n, (one, name)) in streams.iter().enumerate() {
        if let Some((other, _)) = streams[n + 1..].iter().find(|(_, other)| other == name) {
            return Err(ConnectError::Name(format!("{one} and {other} would be the same stream, {name}: give each a name of its own")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(parse_version("2.9.10") < OLDEST_SERVER);
        assert!(parse_version("2.15.1") > OLDEST_SERVER);
        assert!(parse_version("2.12.0-RC.1") >= OLDEST_SERVER);
        assert!(parse_version("garbage") < OLDEST_SERVER);
    }

    #[test]
    fn names_that_could_become_subjects_are_refused() {
        for name in ["", "a.b", "a*", ">", "a b", "ä"] {
            let mut config = Config::default();
            config.kv.bucket = name.to_owned();
            assert!(check_names(&config).is_err(), "{name:?}");
        }
    }

    #[test]
    fn no_two_stores_may_have_one_name() {
        let refused = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            match check_names(&config) {
                Err(ConnectError::Name(text)) => text,
                other => panic!("{other:?}"),
            }
        };
        for (change, parts) in [
            ((|config| config.kv.bucket = "agent-inbox".into()) as fn(&mut Config), ["nats.kv.bucket", "inboxes"]),
            (|config| config.kv.response_bucket = config.kv.bucket.clone(), ["nats.kv.bucket", "nats.kv.response_bucket"]),
            (|config| config.facts.bucket = config.registry.bucket.clone(), ["nats.registry.bucket", "nats.facts.bucket"]),
            (|config| config.state_bucket = "job-turns".into(), ["nats.state.bucket", "turns"]),
            (|config| config.audit.name = config.logs.name.clone(), ["nats.logs.stream", "nats.audit.stream"]),
            (|config| config.logs.name = format!("{}-DLQ", config.stream.name), ["nats.dlq.stream", "nats.logs.stream"]),
            (|config| config.stream.name = format!("KV_{}", config.kv.bucket), ["nats.stream.name", "nats.kv.bucket"]),
            (|config| config.work_prefix = "logs.work".into(), ["nats.stream.subjects", "output"]),
        ] {
            let text = refused(change);
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
        assert!(check_names(&Config { namespace: "blue".into(), ..Config::default() }).is_ok());
    }
}
