//! Every setting there is, with its meaning and its default. Reference, JSON Schema and `config explain` are made from this file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use longshore_agent::{FactsPolicy, Thresholds};
use longshore_model::Label;
use longshore_model::access::{Roles, TakenRole};
use longshore_model::label::ParseLabelError;
use longshore_model::retry::standard_backoff;
use longshore_model::unit::{ByteSize, Span};
use longshore_store::jetstream;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::secret::Secret;

/// Longshore's configuration.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// The broker and what is kept on it.
    pub(crate) nats: Nats,
    /// The controller, and how clients find it.
    pub(crate) controller: Controller,
    /// The agent on this host.
    pub(crate) agent: Agent,
}

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

/// The controller, and how clients find it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Controller {
    /// The REST API.
    pub(crate) api: Api,
    /// What keeps jobs safe on the broker.
    pub(crate) jobs: ControllerJobs,
    /// How this host's client commands find a controller.
    pub(crate) client: ClientSide,
}

/// What keeps jobs safe on the broker.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ControllerJobs {
    /// Public key that seals jobs' secrets, `longshore-seal-…`. None: `secrets.pub` in the data directory; without one jobs with secrets are refused.
    pub(crate) sealing_key: Option<String>,
    /// Key that signs jobs, `longshore-sign-…`. None: `jobs.key` in the data directory; without one jobs are not signed.
    pub(crate) signing_key: Option<Secret>,
}

/// The REST API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Api {
    /// Address and port the API listens on; port 0 takes a free one.
    pub(crate) listen: String,
    /// How long a request with `?wait` and no time waits for the job.
    #[schemars(with = "String")]
    pub(crate) job_timeout: Span,
    /// Who may use it.
    pub(crate) security: ApiSecurity,
}

/// Who may use the API.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ApiSecurity {
    /// Key that signs tokens, at least 32 bytes. None: `signing.key` in the data directory, made at the first start.
    pub(crate) signing_key: Option<Secret>,
    /// Ed25519 public keys in PEM that tokens of others are checked with, such as `[{file: /etc/longshore/ci.pub}]`; several while keys change.
    pub(crate) verify_keys: Vec<VerifyKeyFile>,
    /// Which web pages of others may call the API.
    pub(crate) cors: Cors,
    /// Roles beside `read`, `write` and `admin`, such as `{ops: {permissions: [node:read, job:read]}}`.
    pub(crate) roles: BTreeMap<String, Role>,
}

/// A public key that tokens are checked with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct VerifyKeyFile {
    /// The file with it.
    pub(crate) file: PathBuf,
    /// The `kid` of its tokens. None: the key's thumbprint, which `token generate` uses, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kid: Option<String>,
}

/// Which web pages of others may call the API.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Cors {
    /// Origins whose pages a browser lets call the API, such as `https://ops.example`; `*` for all. None unless given.
    pub(crate) allow_origins: Vec<String>,
}

/// What a role grants.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Role {
    /// Permissions, `resource:verb`.
    pub(crate) permissions: BTreeSet<String>,
}

impl ApiSecurity {
    /// The roles that tokens may carry.
    pub(crate) fn roles(&self) -> Result<Roles, TakenRole> {
        Roles::with(self.roles.iter().map(|(name, role)| (name.clone(), role.permissions.clone())).collect())
    }
}

/// How client commands find a controller.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ClientSide {
    /// Address of the controller, such as http://127.0.0.1:8080. None: the current context's.
    pub(crate) url: Option<String>,
    /// Who we are.
    pub(crate) security: ClientSecurity,
}

/// Who a client is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ClientSecurity {
    /// Token that client commands send. None: the current context's.
    pub(crate) bearer_token: Option<Secret>,
}

/// The agent on this host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Agent {
    /// Name the agent goes by. Empty: the system's host name.
    pub(crate) hostname: String,
    /// Executions it runs at once.
    pub(crate) max_jobs: usize,
    /// Groups it belongs to, such as `{group: web.dev.us-east}`: jobs for `group:web` and `group:web.dev` are for it, too.
    pub(crate) labels: BTreeMap<String, String>,
    /// Name under which agents share the work for `_any`; the same for all agents of a fleet, since the work goes to one group.
    pub(crate) queue_group: String,
    /// Name of an agent's connection, for whoever looks at the broker.
    pub(crate) client_name: String,
    /// Which jobs it believes, and what opens their secrets.
    pub(crate) jobs: AgentJobs,
    /// How agents take work from the broker.
    pub(crate) consumer: Consumer,
    /// What it knows of its host.
    pub(crate) facts: AgentFacts,
    /// From where on its host counts as short of something.
    pub(crate) conditions: Conditions,
}

/// What an agent knows of its host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AgentFacts {
    /// How often it looks, 1s to 24h.
    #[schemars(with = "String")]
    pub(crate) interval: Span,
}

/// From where on an agent's host counts as short of something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Conditions {
    /// Percent of memory in use, 1 to 100.
    pub(crate) memory_pressure_threshold: u32,
    /// Load of the last minute by the number of processors, 0.01 to 1000.
    pub(crate) high_load_multiplier: f64,
    /// Percent of space in use on a file system, 1 to 100.
    pub(crate) disk_pressure_threshold: u32,
}

/// Which jobs an agent believes, and what opens their secrets.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AgentJobs {
    /// Keys that open jobs' secrets, `longshore-open-…`, one a line, the newest first. None: `secrets.key` in the data directory; without one jobs with secrets fail.
    pub(crate) opening_keys: Option<Secret>,
    /// Public keys of the controllers whose jobs it runs, `longshore-trust-…`, comma separated. None: `jobs.pub` in the data directory; without one unsigned jobs are run.
    pub(crate) trusted_keys: Option<String>,
}

/// How agents take work from the broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Consumer {
    /// How often the broker offers the same work. Attempts are counted apart from this.
    pub(crate) max_deliver: i64,
    /// How long a claim lasts without being extended.
    #[schemars(with = "String")]
    pub(crate) ack_wait: Span,
    /// How many claims there may be at once, over all agents.
    pub(crate) max_ack_pending: i64,
    /// `instant`, or `original` for the pace the work came in.
    pub(crate) replay_policy: ReplayPolicy,
    /// Waits between the attempts of jobs that do not say what theirs are; the last one is repeated. Claims last `ack_wait` all the same.
    #[schemars(with = "Vec<String>")]
    pub(crate) back_off: Vec<Span>,
}

/// The pace at which waiting work is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReplayPolicy {
    #[default]
    Instant,
    Original,
}

fn size(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "integer"] })
}

impl Default for Server {
    fn default() -> Self {
        Self { host: "127.0.0.1".to_owned(), port: None, store_dir: None, namespace: String::new(), binary: None }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self { listen: "127.0.0.1:8080".to_owned(), job_timeout: Span(Duration::from_secs(30)), security: ApiSecurity::default() }
    }
}

// The broker's names and bounds have one home, the store's own configuration.

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

impl Default for AgentFacts {
    fn default() -> Self {
        Self { interval: Span(FactsPolicy::default().every) }
    }
}

impl Default for Conditions {
    fn default() -> Self {
        let Thresholds { memory_percent, load_percent, disk_percent } = Thresholds::default();
        Self {
            memory_pressure_threshold: memory_percent,
            high_load_multiplier: f64::from(load_percent) / 100.0,
            disk_pressure_threshold: disk_percent,
        }
    }
}

impl Default for Objects {
    fn default() -> Self {
        let objects = jetstream::Config::default().objects;
        Self { bucket: objects.bucket, max_age: Span(objects.max_age), max_bytes: ByteSize(objects.max_bytes) }
    }
}

impl Agent {
    /// Its labels, or the first that is none.
    pub(crate) fn labels(&self) -> Result<Vec<Label>, ParseLabelError> {
        self.labels.iter().map(|(key, value)| format!("{key}:{value}").parse()).collect()
    }
}

impl Default for Agent {
    fn default() -> Self {
        let consumer = jetstream::Config::default().consumer;
        Self {
            hostname: String::new(),
            max_jobs: 10,
            labels: BTreeMap::new(),
            queue_group: consumer.queue_group,
            client_name: "longshore-agent".to_owned(),
            jobs: AgentJobs::default(),
            consumer: Consumer::default(),
            facts: AgentFacts::default(),
            conditions: Conditions::default(),
        }
    }
}

impl Default for Consumer {
    fn default() -> Self {
        let consumer = jetstream::Config::default().consumer;
        Self {
            max_deliver: consumer.max_deliver,
            ack_wait: Span(consumer.ack_wait),
            max_ack_pending: consumer.max_ack_pending,
            replay_policy: if consumer.replay_original { ReplayPolicy::Original } else { ReplayPolicy::Instant },
            back_off: standard_backoff().into_iter().map(Span).collect(),
        }
    }
}
