//! Where the broker is, and what the stores on it are called and bounded by.

use std::path::PathBuf;
use std::time::Duration;

/// Everything the stores need. `Default` is one host: loopback, the names of the specification, one replica.
#[derive(Debug, Clone)]
pub struct Config {
    /// One or several `nats://host:port`, comma separated.
    pub url: String,
    /// What the broker's connection list shows.
    pub client_name: String,
    /// How to log in.
    pub auth: Auth,
    /// How the connection is kept secret.
    pub tls: Tls,
    /// The first tokens of the subjects that answers come to, so that a broker can bound what its user may listen to.
    pub inbox_prefix: String,
    /// Prefixes every name, so that several fleets can share a broker. Empty, or one token of `[A-Za-z0-9_-]`.
    pub namespace: String,
    /// Copies of every stream: 1 on one server, 3 on a cluster.
    pub replicas: usize,
    /// Where every stream is kept.
    pub storage: Storage,
    /// The work queue.
    pub stream: Stream,
    /// The first tokens of the work queue's subjects, `jobs` of `jobs.>`.
    pub work_prefix: String,
    /// Definitions, events, answers.
    pub kv: KeyValue,
    /// Jobs whose attempts are used up.
    pub dead_letters: DeadLetters,
    /// Live output.
    pub logs: Stream,
    /// Who did what; old records make room for new ones.
    pub audit: Stream,
    /// Heartbeats.
    pub registry: Registry,
    /// Bucket of what people want of agents.
    pub state_bucket: String,
    /// What agents know of their hosts.
    pub facts: Facts,
    /// Bundles, artifacts.
    pub objects: Objects,
    /// How agents take from the work queue.
    pub consumer: Consumer,
}

/// How to log in. Secrets hide themselves from `Debug`.
#[derive(Clone, Default)]
pub enum Auth {
    /// Not at all.
    #[default]
    None,
    /// User and password.
    UserPassword {
        /// User.
        user: String,
        /// Password.
        password: String,
    },
    /// A token.
    Token(String),
    /// A credentials file.
    Creds(PathBuf),
    /// An nkey seed.
    NKey(String),
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::UserPassword { .. } => "user_password(***)",
            Self::Token(_) => "token(***)",
            Self::Creds(_) => "creds(***)",
            Self::NKey(_) => "nkey(***)",
        })
    }
}

impl Auth {
    /// What kind of credentials they are, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::None => "no credentials",
            Self::UserPassword { .. } => "a user and password",
            Self::Token(_) => "a token",
            Self::Creds(_) => "a credentials file",
            Self::NKey(_) => "an nkey",
        }
    }
}

/// How the connection is kept secret. All files are PEM; they are read again at every reconnect. With any of them the connection is made
/// with TLS or not at all.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// The authorities that may vouch for the broker; the system's own unless given.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key, for brokers that want one.
    pub client: Option<ClientCertificate>,
}

/// Who we are, to a broker that asks at the door.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// The certificate, and those between it and its authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A stream and its bounds.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Its name.
    pub name: String,
    /// How long a message is kept.
    pub max_age: Duration,
    /// How many bytes are kept.
    pub max_bytes: u64,
}

/// The ledger's buckets and their bounds, each bucket's own.
#[derive(Debug, Clone)]
pub struct KeyValue {
    /// Definitions and events.
    pub bucket: String,
    /// Answers.
    pub response_bucket: String,
    /// How long a record is kept.
    pub ttl: Duration,
    /// How many bytes are kept; beyond that new work is refused.
    pub max_bytes: u64,
}

/// Where streams are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Storage {
    /// On disk, before a write is acknowledged if the broker is told so.
    #[default]
    File,
    /// In the broker's memory: all is lost when it restarts.
    Memory,
}

/// The stream of dead letters.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    /// Its name; that of the work queue with `-DLQ` unless given.
    pub name: Option<String>,
    /// How long a letter is kept: at least as long as the ledger keeps the job, which it is unless given.
    pub max_age: Option<Duration>,
    /// How many bytes are kept; beyond that letters wait in the ledger.
    pub max_bytes: u64,
}

/// The heartbeats' bucket.
#[derive(Debug, Clone)]
pub struct Registry {
    /// Its name.
    pub bucket: String,
    /// How long a heartbeat lasts.
    pub ttl: Duration,
}

/// The bucket of what agents know of their hosts.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Its name.
    pub bucket: String,
    /// How long an agent's facts are kept after it told them last.
    pub ttl: Duration,
    /// How many bytes are kept; beyond that new facts are refused.
    pub max_bytes: u64,
}

/// The object store.
#[derive(Debug, Clone)]
pub struct Objects {
    /// Its name.
    pub bucket: String,
    /// How long an object is kept.
    pub max_age: Duration,
    /// How many bytes are kept; beyond that new objects are refused.
    pub max_bytes: u64,
}

/// The shared consumer of `_any` work.
#[derive(Debug, Clone)]
pub struct Consumer {
    /// Its durable name: agents with the same one share the work.
    pub queue_group: String,
    /// How often the broker offers a message. Attempts are counted in the ledger; this only bounds the broker.
    pub max_deliver: i64,
    /// How long an unextended claim lasts.
    pub ack_wait: Duration,
    /// How many claims there may be at once, over all agents.
    pub max_ack_pending: i64,
    /// Whether waiting work is replayed at the pace it came in.
    pub replay_original: bool,
}

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Default for Config {
    fn default() -> Self {
        Self {
            url: "nats://127.0.0.1:4222".to_owned(),
            client_name: "longshore".to_owned(),
            auth: Auth::None,
            tls: Tls::default(),
            inbox_prefix: "_INBOX".to_owned(),
            namespace: String::new(),
            replicas: 1,
            storage: Storage::File,
            stream: Stream { name: "JOBS".to_owned(), max_age: 7 * DAY, max_bytes: 1 << 30 },
            work_prefix: "jobs".to_owned(),
            kv: KeyValue { bucket: "job-queue".to_owned(), response_bucket: "job-responses".to_owned(), ttl: 7 * DAY, max_bytes: 1 << 30 },
            dead_letters: DeadLetters { name: None, max_age: None, max_bytes: 1 << 30 },
            logs: Stream { name: "JOB-LOGS".to_owned(), max_age: DAY, max_bytes: 1 << 30 },
            audit: Stream { name: "AUDIT".to_owned(), max_age: 30 * DAY, max_bytes: 256 << 20 },
            registry: Registry { bucket: "agent-registry".to_owned(), ttl: Duration::from_secs(30) },
            state_bucket: "agent-state".to_owned(),
            facts: Facts { bucket: "agent-facts".to_owned(), ttl: DAY, max_bytes: 64 << 20 },
            objects: Objects { bucket: "objects".to_owned(), max_age: 7 * DAY, max_bytes: 10 << 30 },
            consumer: Consumer {
                queue_group: "job-agents".to_owned(),
                max_deliver: 5,
                ack_wait: Duration::from_secs(120),
                max_ack_pending: 1000,
                replay_original: false,
            },
        }
    }
}
