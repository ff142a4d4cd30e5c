//! A queue of requests to workspace workers that belong to no fleet: one stream, one durable consumer, and responses on a subject.
//!
//! None of the stores' layout is here, and none is needed: names and subjects are the operator's, what exists is used as it is, and
//! any server with JetStream will do.

mod pull;
mod request;
mod respond;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::consumer::{self, AckPolicy, pull as pulled};
use async_nats::jetstream::context::{ConsumerInfoErrorKind, ContextBuilder, GetStreamErrorKind};
use async_nats::jetstream::stream::{self, ConsumerCreateStrictErrorKind, RetentionPolicy};
use async_nats::jetstream::{Context, ErrorCode};
use tokio::sync::broadcast;

pub use self::pull::Pull;
pub use self::request::Request;
pub use self::respond::{Routes, is_subject};
use super::config::{Auth, Config, Tls};
use super::connect::ConnectError;
use super::dial::dial;
use super::link::TRY;
use crate::Error;

/// Where requests come from.
#[derive(Debug, Clone)]
pub struct RequestsConfig {
    /// One or several `nats://host:port`, comma separated.
    pub url: String,
    /// How to log in.
    pub auth: Auth,
    /// How the connection is kept secret.
    pub tls: Tls,
    /// What the broker's connection list shows.
    pub client_name: String,
    /// The stream; made with the server's defaults if it is missing.
    pub stream: String,
    /// The durable consumer: workers with the same one share the work. Made if it is missing.
    pub consumer: String,
    /// What requests are published to.
    pub subject: String,
    /// How long an unextended claim lasts, on a consumer that is made here.
    pub ack_wait: Duration,
}

/// What a consumer promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// How long a claim lasts without being extended.
    pub claim: Duration,
    /// How often a request is handed out at most; what is given back then is offered to nobody.
    pub deliveries_max: Option<u32>,
}

/// A connection to the queue. Cheap to clone; heals itself.
#[derive(Clone)]
pub struct Requests(Arc<Inner>);

struct Inner {
    client: async_nats::Client,
    context: Context,
    config: RequestsConfig,
    reconnects: broadcast::Sender<()>,
    /// Whether the broker tells which streams store a subject.
    tells_streams: AtomicBool,
    /// Whether the stream removes what is acknowledged.
    forgets_what_is_done: AtomicBool,
    /// What the consumer promised when it was first seen.
    terms: OnceLock<Terms>,
}

impl Requests {
    /// Connects, waiting a few seconds for a broker that is still starting, and makes what is missing.
    ///
    /// # Errors
    /// Nobody there, not let in, or a stream or consumer that cannot be used.
    pub async fn open(config: RequestsConfig) -> Result<Self, ConnectError> {
        let connection = Config {
            url: config.url.clone(),
            auth: config.auth.clone(),
            tls: config.tls.clone(),
            client_name: config.client_name.clone(),
            ..Config::default()
        };
        for (what, name) in [("stream", &config.stream), ("id", &config.consumer)] {
            if !is_name(name) {
                return Err(ConnectError::Name(format!("the {what} {name:?} cannot be used: no spaces, `.`, `*`, `>`, `/` and `\\`")));
            }
        }
        if !is_subject(&config.subject) {
            return Err(ConnectError::Name(format!("{:?} is not a subject that something can be published to", config.subject)));
        }
        let (reconnects, _) = broadcast::channel(16);
        let client = dial(&connection, &reconnects).await?;
        let context = ContextBuilder::new().timeout(TRY * 2).ack_timeout(TRY).build(client.clone());
        let requests = Self(Arc::new(Inner {
            client,
            context,
            config,
            reconnects,
            tells_streams: AtomicBool::new(true),
            forgets_what_is_done: AtomicBool::new(false),
            terms: OnceLock::new(),
        }));
        requests.ensure().await.map_err(ConnectError::Setup)?;
        Ok(requests)
    }

    /// What the consumer promises, whoever made it; as it was when it was first seen.
    ///
    /// # Errors
    /// The broker does not answer, or there is no such consumer any more.
    pub async fn terms(&self) -> Result<Terms, Error> {
        match self.0.terms.get() {
            Some(terms) => Ok(*terms),
            None => Ok(terms_of(&self.consumer().await?)),
        }
    }

    /// Whether there is a connection at the moment.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.0.client.connection_state() == State::Connected
    }

    async fn consumer(&self) -> Result<consumer::Info, Error> {
        let stream = self.stream().await?;
        stream.consumer_info(&self.0.config.consumer).await.map_err(|fault| Error::unavailable("looking at the consumer", fault))
    }

    async fn stream(&self) -> Result<stream::Stream<()>, Error> {
        self.0.context.get_stream_no_info(&self.0.config.stream).await.map_err(|fault| Error::unavailable("naming the stream", fault))
    }

    /// Makes the stream and the consumer if they are missing. Safe to repeat, and beside others that do the same.
    async fn ensure(&self) -> Result<(), Error> {
        // Both are there as a rule, and then one answer is waited for.
        let (stream, consumer) = tokio::join!(self.ensure_stream(), self.consumer());
        stream?;
        match consumer {
            Ok(found) => self.use_consumer(&found),
            Err(_) => self.ensure_consumer().await,
        }
    }

    fn use_consumer(&self, found: &consumer::Info) -> Result<(), Error> {
        let layout = |problem: String| Error::Layout { store: self.0.config.consumer.clone(), problem };
        check_consumer(found).map_err(layout)?;
        // The first sight stays.
        let _known = self.0.terms.set(terms_of(found));
        Ok(())
    }

    async fn ensure_stream(&self) -> Result<(), Error> {
        let Inner { context, config, .. } = &*self.0;
        let layout = |problem: String| Error::Layout { store: config.stream.clone(), problem };
        let missing = match context.get_stream(&config.stream).await {
            Ok(found) => return self.use_stream(&found.cached_info().config).map_err(layout),
            Err(fault) => fault,
        };
        match missing.kind() {
            GetStreamErrorKind::JetStream(fault) if fault.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
            GetStreamErrorKind::JetStream(fault) => return Err(layout(fault.to_string())),
            GetStreamErrorKind::Request => return Err(Error::unavailable("looking for the stream", missing)),
            GetStreamErrorKind::EmptyName | GetStreamErrorKind::InvalidStreamName => {
                return Err(layout("its name cannot be used".to_owned()));
            }
        }
        let wanted = stream::Config { name: config.stream.clone(), subjects: vec![config.subject.clone()], ..stream::Config::default() };
        match context.create_stream(wanted).await {
            Ok(_) => {
                tracing::info!(stream = config.stream, subject = config.subject, "made the stream");
                Ok(())
            }
            // Somebody else may have made it a moment ago, in his own way.
            Err(fault) => match context.get_stream(&config.stream).await {
                Ok(found) => self.use_stream(&found.cached_info().config).map_err(layout),
                Err(_) => Err(layout(format!("it could not be made: {fault}"))),
            },
        }
    }

    fn use_stream(&self, found: &stream::Config) -> Result<(), String> {
        let forgets = match found.retention {
            RetentionPolicy::Limits => false,
            RetentionPolicy::Interest | RetentionPolicy::WorkQueue => true,
        };
        self.0.forgets_what_is_done.store(forgets, Ordering::Relaxed);
        check_subject(&found.subjects, &self.0.config)
    }

    async fn ensure_consumer(&self) -> Result<(), Error> {
        let config = &self.0.config;
        let layout = |problem: String| Error::Layout { store: config.consumer.clone(), problem };
        let stream = self.stream().await?;
        match stream.consumer_info(&config.consumer).await {
            Ok(found) => return self.use_consumer(&found),
            Err(fault) => match fault.kind() {
                ConsumerInfoErrorKind::NotFound | ConsumerInfoErrorKind::StreamNotFound => {}
                ConsumerInfoErrorKind::InvalidName | ConsumerInfoErrorKind::JetStream(_) => return Err(layout(fault.to_string())),
                ConsumerInfoErrorKind::Offline
                | ConsumerInfoErrorKind::Request
                | ConsumerInfoErrorKind::TimedOut
                | ConsumerInfoErrorKind::NoResponders => return Err(Error::unavailable("looking for the consumer", fault)),
            },
        }
        let wanted = pulled::Config {
            durable_name: Some(config.consumer.clone()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: config.ack_wait,
            filter_subject: config.subject.clone(),
            ..pulled::Config::default()
        };
        match stream.create_consumer_strict(wanted).await {
            Ok(_) => {
                tracing::info!(consumer = config.consumer, "made the consumer");
                Ok(())
            }
            // Another worker was quicker, with another time-out perhaps; then its settings are the ones.
            Err(fault) if fault.kind() == ConsumerCreateStrictErrorKind::AlreadyExists => {
                let found = stream.consumer_info(&config.consumer).await;
                check_consumer(&found.map_err(|fault| Error::unavailable("looking for the consumer", fault))?).map_err(layout)
            }
            Err(fault) if fault.kind() == ConsumerCreateStrictErrorKind::TimedOut => Err(Error::unavailable("making the consumer", fault)),
            Err(fault) => Err(layout(format!("it could not be made: {fault}"))),
        }
    }

    /// How many connections there have been.
    fn connects(&self) -> u64 {
        self.0.client.statistics().connects.load(Ordering::Relaxed)
    }
}

fn terms_of(consumer: &consumer::Info) -> Terms {
    let config = &consumer.config;
    // With a list of waits the server takes the shortest of them for the first delivery.
    let first = config.backoff.first().copied().filter(|first| !first.is_zero());
    let claim = first.unwrap_or(config.ack_wait).min(config.ack_wait.max(Duration::from_millis(1)));
    Terms { claim, deliveries_max: u32::try_from(config.max_deliver).ok().filter(|max| *max > 0) }
}

fn check_consumer(found: &consumer::Info) -> Result<(), String> {
    if found.config.deliver_subject.is_some() {
        return Err("it is a push consumer; workers need one that is pulled: choose another --id".to_owned());
    }
    if found.config.ack_policy != AckPolicy::Explicit {
        return Err("it does not ask for acknowledgements one by one; choose another --id".to_owned());
    }
    Ok(())
}

fn check_subject(subjects: &[String], config: &RequestsConfig) -> Result<(), String> {
    // A stream that mirrors or sources another has no subjects of its own to go by.
    if subjects.is_empty() || subjects.iter().any(|pattern| covers(pattern, &config.subject)) {
        return Ok(());
    }
    let RequestsConfig { subject, .. } = config;
    Err(format!("it stores {}, not {subject}: choose another --stream or --input-subject", subjects.join(", ")))
}

/// Whether what is published to `subject` matches `pattern`.
fn covers(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(wanted), Some(token)) if wanted == token => {}
            (Some(_) | None, Some(_) | None) => return false,
        }
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && !name.contains(|c: char| c.is_whitespace() || c.is_control() || ".*>/\\".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover_what_the_server_would_store() {
        for (pattern, subject, expected) in [
            ("jobs.pending", "jobs.pending", true),
            ("jobs.*", "jobs.pending", true),
            ("jobs.>", "jobs.pending", true),
            (">", "jobs.pending", true),
            ("jobs", "jobs.pending", false),
            ("jobs.pending.>", "jobs.pending", false),
            ("jobs.*.x", "jobs.pending", false),
            ("other.>", "jobs.pending", false),
        ] {
            assert_eq!(covers(pattern, subject), expected, "{pattern} {subject}");
        }
    }

    #[test]
    fn names_that_would_become_other_subjects_are_refused() {
        assert!(is_name("worker-01") && is_name("ü_1"));
        for name in ["", "a.b", "a b", "*", ">", "a/b", "a\\b", "a\n"] {
            assert!(!is_name(name), "{name:?}");
        }
    }
}
