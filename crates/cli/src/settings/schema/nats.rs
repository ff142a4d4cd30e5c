//! `nats`: the broker and what is kept on it. Names and bounds have one home, the store's own configuration: defaults come from there.

use longshore_model::unit::{ByteSize, Span};
use longshore_store::jetstream;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::settings::secret::Secret;

/// The broker and what is kept on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Nats {
    /// An external NATS server or cluster, comma separated, nats:// or tls://. None: `start` runs its own nats-server.
    #[schemars(extend("x-address" = true))]
    pub(crate) url: Option<String>,
    /// The nats-server that Longshore runs itself.
    pub(crate) server: Server,
    /// How to log in to the broker at `nats.url`.
    pub(crate) auth: Auth,
    /// How the connection to the broker at `nats.url` is kept secret.
    pub(crate) tls: Tls,
    /// Beginning of the subjects that answers of the broker come to; a user of its own may be let listen there only.
    pub(crate) inbox_prefix: String,
    /// The work queue.
    pub(crate) stream: Stream,
    /// Job definitions, events and answers.
    pub(crate) kv: Kv,
    /// Jobs whose attempts are used up.
    pub(crate) dlq: Dlq,
    /// Live output of jobs.
    pub(crate) logs: Logs,
    /// Who changed what, and who was refused.
    pub(crate) audit: Audit,
    /// Heartbeats of agents.
    pub(crate) registry: Registry,
    /// What people want of agents.
    pub(crate) state: State,
    /// What agents know of their hosts.
    pub(crate) facts: Facts,
    /// Bundles and artifacts.
    pub(crate) objects: Objects,
}

/// The nats-server that Longshore runs itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Server {
    /// Address the managed nats-server listens on.
    pub(crate) host: String,
    /// Port of the managed nats-server. None: a free one, kept for the next start.
    pub(crate) port: Option<u16>,
    /// Where it keeps its streams. None: `nats/` in the data directory.
    pub(crate) store_dir: Option<String>,
    /// Prefixes the name of every stream and bucket, so that several fleets can share a broker.
    pub(crate) namespace: String,
    /// Path of the nats-server program, 2.12.0 or newer. None: it is looked for.
    pub(crate) binary: Option<String>,
}

/// How to log in to the broker.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Auth {
    /// `none`, `user_pass`, `token`, `nkey` or `creds`; one beside `none` wants the settings of its name.
    #[serde(rename = "type")]
    pub(crate) kind: AuthKind,
    /// User, for `user_pass`.
    pub(crate) user: Option<String>,
    /// Password, for `user_pass`.
    pub(crate) password: Option<Secret>,
    /// Token, for `token`.
    pub(crate) token: Option<Secret>,
    /// Path of a credentials file, for `creds`.
    pub(crate) creds: Option<String>,
    /// Seed of an nkey, for `nkey`.
    pub(crate) nkey: Option<Secret>,
}

/// How the connection to the broker is kept secret. With any of these it is made with TLS or not at all; the files are PEM.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Tls {
    /// File with the authorities that may vouch for the broker. None: the system's own, where the address says tls:// or the broker asks for TLS.
    pub(crate) ca: Option<String>,
    /// File with our certificate, for a broker that wants one. It needs `nats.tls.key`.
    pub(crate) cert: Option<String>,
    /// File with the key of our certificate.
    pub(crate) key: Option<String>,
}

/// Ways to log in to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AuthKind {
    #[default]
    None,
    UserPass,
    Token,
    Nkey,
    Creds,
}

/// The work queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Stream {
    /// Name of the stream.
    pub(crate) name: String,
    /// Subjects of the work, `PREFIX.>`.
    pub(crate) subjects: String,
    /// How long a notification of work is kept.
    #[schemars(with = "String")]
    pub(crate) max_age: Span,
    /// How many bytes of notifications are kept.
    #[schemars(schema_with = "size")]
    pub(crate) max_bytes: ByteSize,
    /// Copies of every stream and bucket: 1 on one server, 3 on a cluster.
    pub(crate) replicas: usize,
    /// Where every stream and bucket is kept: `file`, or `memory`, which loses everything when the broker restarts.
    pub(crate) storage: Storage,
}

/// Where the broker keeps streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Storage {
    #[default]
    File,
    Memory,
}

/// Jobs whose attempts are used up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Dlq {
    /// Name of the stream. None: that of the work queue with `-DLQ`.
    pub(crate) stream: Option<String>,
    /// How long a dead letter is kept, no shorter than `nats.kv.ttl`. None: as long as its job is, and the work queue keeps work.
    #[schemars(with = "Option<String>")]
    pub(crate) max_age: Option<Span>,
    /// How many bytes of dead letters are kept; beyond that they wait in the jobs' own records.
    #[schemars(schema_with = "size")]
    pub(crate) max_bytes: ByteSize,
}

/// What people want of agents, such as a drain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct State {
    /// Name of the bucket.
    pub(crate) bucket: String,
}

/// Job definitions, events and answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Kv {
    /// Bucket of definitions and events.
    pub(crate) bucket: String,
    /// Bucket of answers.
    pub(crate) response_bucket: String,
    /// How long a job's records are kept.
    #[schemars(with = "String")]
    pub(crate) ttl: Span,
    /// How many bytes each bucket keeps; beyond that new work is refused.
    #[schemars(schema_with = "size")]
    pub(crate) max_bytes: ByteSize,
}

/// Live output of jobs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Logs {
    /// Name of the stream.
    pub(crate) stream: String,
    /// How long output is kept.
    #[schemars(with = "String")]
    pub(crate) max_age: Span,
    /// How many bytes of output are kept.
    #[schemars(schema_with = "size")]
    pub(crate) max_bytes: ByteSize,
}

/// Who changed what, and who was refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Audit {
    /// Name of the stream.
    pub(crate) stream: String,
    /// How long a record is kept.
    #[schemars(with = "String")]
    pub(crate) max_age: Span,
    /// How many bytes of records are kept; old ones make room for new ones.
    #[schemars(schema_with = "size")]
    pub(crate) max_bytes: ByteSize,
}

/// Heartbeats of agents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Registry {
    /// Name of the bucket.
    pub(crate) bucket: String,
    /// How long an agent counts as alive after a heartbeat; it sends three in that time.
    #[schemars(with = "String")]
    pub(crate) ttl: Span,
}

/// What agents know of their hosts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Facts {
    /// Name of the bucket.
    pub(crate) bucket: String,
    /// How long what an agent knows is kept after it is gone; one that lives writes it again in time.
    #[schemars(with = "String")]
    pub(crate) ttl: Span,
    /// How many bytes are kept.
    #[schemars(schema_with = "size")]
    pub(crate) max_bytes: ByteSize,
}

/// Bundles and artifacts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Objects {
    /// Name of the object store.
    pub(crate) bucket: String,
    /// How long an object is kept.
    #[schemars(with = "String")]
    pub(crate) max_age: Span,
    /// How many bytes are kept; beyond that uploads are refused.
    #[schemars(schema_with = "size")]
    pub(crate) max_bytes: ByteSize,
}

pub(super) fn size(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "integer"] })
}

impl Default for Server {
    fn default() -> Self {
        Self { host: "127.0.0.1".to_owned(), port: None, store_dir: None, namespace: String::new(), binary: None }
    }
}

impl Default for Nats {
    fn default() -> Self {
        Self {
            url: None,
            server: Server::default(),
            auth: Auth::default(),
            tls: Tls::default(),
            inbox_prefix: jetstream::Config::default().inbox_prefix,
            stream: Stream::default(),
            kv: Kv::default(),
            dlq: Dlq::default(),
            logs: Logs::default(),
            audit: Audit::default(),
            registry: Registry::default(),
            state: State::default(),
            facts: Facts::default(),
            objects: Objects::default(),
        }
    }
}

impl Default for Stream {
    fn default() -> Self {
        let jetstream::Config { stream, work_prefix, replicas, .. } = jetstream::Config::default();
        Self {
            name: stream.name,
            subjects: format!("{work_prefix}.>"),
            max_age: Span(stream.max_age),
            max_bytes: ByteSize(stream.max_bytes),
            replicas,
            storage: Storage::File,
        }
    }
}

impl Default for Dlq {
    fn default() -> Self {
        let jetstream::DeadLetters { name, max_age, max_bytes } = jetstream::Config::default().dead_letters;
        Self { stream: name, max_age: max_age.map(Span), max_bytes: ByteSize(max_bytes) }
    }
}

impl Default for State {
    fn default() -> Self {
        Self { bucket: jetstream::Config::default().state_bucket }
    }
}

impl Default for Kv {
    fn default() -> Self {
        let kv = jetstream::Config::default().kv;
        Self { bucket: kv.bucket, response_bucket: kv.response_bucket, ttl: Span(kv.ttl), max_bytes: ByteSize(kv.max_bytes) }
    }
}

impl Default for Logs {
    fn default() -> Self {
        let logs = jetstream::Config::default().logs;
        Self { stream: logs.name, max_age: Span(logs.max_age), max_bytes: ByteSize(logs.max_bytes) }
    }
}

impl Default for Audit {
    fn default() -> Self {
        let audit = jetstream::Config::default().audit;
        Self { stream: audit.name, max_age: Span(audit.max_age), max_bytes: ByteSize(audit.max_bytes) }
    }
}

impl Default for Registry {
    fn default() -> Self {
        let registry = jetstream::Config::default().registry;
        Self { bucket: registry.bucket, ttl: Span(registry.ttl) }
    }
}

impl Default for Facts {
    fn default() -> Self {
        let facts = jetstream::Config::default().facts;
        Self { bucket: facts.bucket, ttl: Span(facts.ttl), max_bytes: ByteSize(facts.max_bytes) }
    }
}

impl Default for Objects {
    fn default() -> Self {
        let objects = jetstream::Config::default().objects;
        Self { bucket: objects.bucket, max_age: Span(objects.max_age), max_bytes: ByteSize(objects.max_bytes) }
    }
}
