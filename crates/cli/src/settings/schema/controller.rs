//! `controller`: the REST API, who may use it, and how clients find it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use longshore_model::access::{Roles, TakenRole};
use longshore_model::unit::{ByteSize, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::secret::Secret;

/// The controller, and how clients find it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Controller {
    /// The REST API.
    pub(crate) api: Api,
    /// What keeps jobs safe on the broker.
    pub(crate) jobs: ControllerJobs,
    /// Workers that attach over a WebSocket.
    pub(crate) gateway: Gateway,
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

/// Workers that attach over a WebSocket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Gateway {
    /// Whether workers may attach at all: `true` or `false`.
    pub(crate) enabled: bool,
    /// Whose workers may attach: the tenant of every frame.
    pub(crate) tenant: String,
    /// Workers at once, attached or expected back.
    pub(crate) max_workers: usize,
    /// Largest frame that is taken of a worker, `64KiB` to `32MiB`.
    #[schemars(schema_with = "super::nats::size")]
    pub(crate) max_message: ByteSize,
    /// How long a connection may take to say who it is.
    #[schemars(with = "String")]
    pub(crate) greeting_within: Span,
    /// How long a worker may go on with its session by the token that it got for that; then it shakes hands anew.
    #[schemars(with = "String")]
    pub(crate) session_lifetime: Span,
    /// How long a connected worker may say nothing, not even a heartbeat, before it counts as gone.
    #[schemars(with = "String")]
    pub(crate) silence_max: Span,
    /// How long the session of a worker without a connection is kept.
    #[schemars(with = "String")]
    pub(crate) detached_max: Span,
    /// How long a worker that began anew must have had nothing under way until a task that it may never have had counts as gone.
    #[schemars(with = "String")]
    pub(crate) doubt_within: Span,
    /// How long a Longshore worker may take to end what was cancelled, before that is answered unverified.
    #[schemars(with = "String")]
    pub(crate) cancel_within: Span,
    /// How long after a job's time-out its worker may still tell the end.
    #[schemars(with = "String")]
    pub(crate) grace: Span,
    /// A second address, over TLS.
    pub(crate) tls: GatewayTls,
}

/// A second address of the controller, over TLS: for workers and for the API. The files are PEM, and read at start.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct GatewayTls {
    /// Address and port to listen on with TLS, for workers and the API; port 0 takes a free one. None: there is no TLS.
    pub(crate) listen: Option<String>,
    /// File with the controller's certificate, and those between it and its authority. Needed to listen.
    pub(crate) cert: Option<String>,
    /// File with the key of that certificate. Needed to listen.
    pub(crate) key: Option<String>,
    /// File with the authorities that vouch for workers: who shows a certificate of theirs attaches without a token (`auth_mode: mtls`), as a host that the certificate names. None: tokens alone.
    pub(crate) client_ca: Option<String>,
}

impl Default for Gateway {
    fn default() -> Self {
        let usual = longshore_controller::GatewayConfig::default();
        Self {
            enabled: usual.is_on,
            tenant: usual.tenant,
            max_workers: usual.workers_max,
            max_message: ByteSize(usual.frame_bytes_max as u64),
            greeting_within: Span(usual.greeting_within),
            session_lifetime: Span(usual.session_lifetime),
            silence_max: Span(usual.silence_max),
            detached_max: Span(usual.detached_max),
            doubt_within: Span(usual.doubt_within),
            cancel_within: Span(usual.cancel_within),
            grace: Span(usual.grace),
            tls: GatewayTls::default(),
        }
    }
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

impl Default for Api {
    fn default() -> Self {
        Self { listen: "127.0.0.1:8080".to_owned(), job_timeout: Span(Duration::from_secs(30)), security: ApiSecurity::default() }
    }
}
