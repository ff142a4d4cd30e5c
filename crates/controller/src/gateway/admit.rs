//! Who may attach a worker: the first frame of a connection, judged before any session is touched.

use std::sync::Arc;

use jiff::Timestamp;
use longshore_model::access::Caller;
use longshore_model::{AgentId, HostName, Label};
use longshore_session::control::{Auth, AuthMode, Handshake};
use longshore_session::{Admission, Greeting, Hail, Refusal, code};
use sha2::{Digest as _, Sha256};

use super::ticket::{self, Bearer};
use crate::app::App;
use crate::tls::Shown;

/// What a token needs to attach a worker.
pub(crate) const PERMISSION: &str = "agent:attach";
/// Bytes of an instance id and of a name: more than any that is meant so.
const NAME_BYTES_MAX: usize = 253;

/// What a worker says of itself in its handshake, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) agent: AgentId,
    pub(super) hostname: String,
    pub(super) name: String,
    pub(super) version: String,
    /// Whose token let it in.
    pub(super) subject: String,
    /// When that token ends, if it does: no session outlives it.
    pub(super) until: Option<Timestamp>,
    /// The groups that it may belong to; `None` for all of them.
    pub(super) groups: Option<Vec<Label>>,
    /// The certificate that let it in instead of a token: nobody goes on with its session without that.
    pub(super) certificate: Option<Arc<Shown>>,
}

impl Identity {
    /// Whether it may belong to what it says of itself.
    pub(super) fn may_join(&self, label: &Label) -> bool {
        self.groups.as_ref().is_none_or(|groups| groups.iter().any(|group| group.covers(label)))
    }
}

/// Somebody who may come in.
#[derive(Debug, Clone)]
pub(super) struct Admitted {
    pub(super) admission: Admission,
    /// Of a new session; one that goes on has it.
    pub(super) identity: Option<Identity>,
    /// What its connection has shown.
    pub(super) shown: Option<Arc<Shown>>,
}

/// The agent that a worker is: the same for an instance of a tenant, wherever it attaches.
pub(super) fn agent_of(tenant: &str, instance: &str) -> AgentId {
    let mut hash = Sha256::new();
    for part in ["longshore worker 1", tenant, instance] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let bytes = hash.finalize();
    AgentId::from_bits(bytes.iter().take(16).fold(0, |bits, byte| bits << 8 | u128::from(*byte)))
}

/// Whether a greeting is let in, over a connection that has `shown` this. Reads no session: that it has one to go on with is seen later.
pub(super) fn judge(app: &App, greeting: &Greeting, shown: Option<&Arc<Shown>>, now: Timestamp) -> Result<Admitted, Refusal> {
    let Greeting { tenant, instance, .. } = greeting;
    if *tenant != app.config.gateway.tenant {
        let reason = format!("this controller's tenant is {:?}", app.config.gateway.tenant);
        return Err(Refusal::new(code::TENANT_MISMATCH, &reason));
    }
    if instance.len() > NAME_BYTES_MAX || instance.contains(char::is_control) {
        return Err(Refusal::new(code::PROTOCOL, "the instance id is too long, or not a text"));
    }
    let identity = match &greeting.hail {
        Hail::Handshake(handshake) => Some(identity(app, handshake, shown, (tenant, instance), now)?),
        Hail::Resume(resume) => {
            let bearer = Bearer { session: &resume.session_id, tenant, instance };
            if !ticket::is_valid(&app.config.signing_key, &resume.session_token, bearer, now) {
                return Err(Refusal::new(code::SESSION_TOKEN, "the session's token is wrong or too old"));
            }
            None
        }
    };
    let session_id = match &greeting.hail {
        Hail::Handshake(_) => uuid::Uuid::now_v7().to_string(),
        Hail::Resume(resume) => resume.session_id.clone(),
    };
    let until = identity.as_ref().and_then(|identity| identity.until);
    Ok(Admitted { admission: admission(app, session_id, (tenant, instance), until, now), identity, shown: shown.cloned() })
}

/// What the next resume has to show: for a session of a worker whose token ends at `until`.
pub(super) fn admission(
    app: &App,
    session_id: String,
    (tenant, instance): (&str, &str),
    until: Option<Timestamp>,
    now: Timestamp,
) -> Admission {
    let left = until.map(|until| std::time::Duration::try_from(until.duration_since(now)).unwrap_or_default());
    let lifetime = app.config.gateway.session_lifetime.min(left.unwrap_or(app.config.gateway.session_lifetime));
    let bearer = Bearer { session: &session_id, tenant, instance };
    let (session_token, expires_at) = ticket::issue(&app.config.signing_key, bearer, lifetime, now);
    Admission { session_token, expires_at: Some(expires_at.to_string()), session_id }
}

/// What lets a worker in.
enum Proof {
    Token(Caller, Option<Timestamp>),
    Certificate(Arc<Shown>),
}

impl Proof {
    /// Whether it is for a host. By host name or agent id: what a worker says of its groups is its own word.
    fn reaches(&self, agent: AgentId, hostname: &str) -> bool {
        match self {
            Self::Token(caller, _) => caller.reaches(agent, hostname, &[]),
            Self::Certificate(shown) => shown.names(hostname),
        }
    }

    fn refusal(&self, why: &str) -> Refusal {
        match self {
            Self::Token(..) => Refusal::new(code::INVALID_TOKEN, &format!("the token {why}")),
            Self::Certificate(_) => Refusal::new(code::UNAUTHENTICATED, &format!("the certificate {why}")),
        }
    }
}

fn identity(
    app: &App,
    handshake: &Handshake,
    shown: Option<&Arc<Shown>>,
    (tenant, instance): (&str, &str),
    now: Timestamp,
) -> Result<Identity, Refusal> {
    let worker = &handshake.worker;
    if worker.worker_instance_id.as_ref().is_some_and(|own| own != instance) {
        return Err(Refusal::new(code::SESSION_MISMATCH, "the worker's instance id is not its frame's sender"));
    }
    let proof = proof(app, &handshake.auth, shown, now)?;
    let agent = agent_of(tenant, instance);
    if worker.hostname.parse::<HostName>().is_err() {
        return Err(Refusal::new(code::PROTOCOL, "the worker's host name is none"));
    }
    // An instance id is no secret, so whoever comes with one that the fleet knows under another name must be allowed that one too: what waits for it
    // was meant for that host.
    let known = app.fleet().heartbeat(agent).map(|heartbeat| heartbeat.hostname.clone());
    if !proof.reaches(agent, &worker.hostname) {
        return Err(proof.refusal(&format!("is for other hosts than {}", worker.hostname)));
    }
    if known.is_some_and(|known| !proof.reaches(agent, &known)) {
        return Err(proof.refusal("is for other hosts than that of this instance"));
    }
    let short = |text: &str| text.chars().filter(|one| !one.is_control()).take(NAME_BYTES_MAX / 4).collect::<String>();
    let (hostname, name, version) = (worker.hostname.clone(), short(&worker.worker_name), short(&worker.version));
    Ok(match proof {
        Proof::Token(caller, until) => {
            let groups = caller.groups();
            Identity { agent, hostname, name, version, subject: caller.name, until, groups, certificate: None }
        }
        Proof::Certificate(shown) => {
            let (subject, groups) = (format!("certificate sha256:{}", shown.fingerprint()), Some(shown.groups()));
            Identity { agent, hostname, name, version, subject, until: None, groups, certificate: Some(shown) }
        }
    })
}

fn proof(app: &App, auth: &Auth, shown: Option<&Arc<Shown>>, now: Timestamp) -> Result<Proof, Refusal> {
    match (auth.mode, &auth.token, &auth.fingerprint) {
        (AuthMode::Token, Some(token), _) if !token.0.trim().is_empty() => {
            let refused = |reason: String| Refusal::new(code::INVALID_TOKEN, &reason);
            let (roles, ring, token) = (&app.config.roles, &app.keyring, token.0.trim());
            let caller = ring.verify(roles, token, now).map_err(|error| refused(error.to_string()))?;
            let until = ring.read(roles, token, now).map_err(|error| refused(error.to_string()))?.expires_at;
            if !caller.may(PERMISSION) {
                return Err(refused(format!("the token does not grant {PERMISSION}")));
            }
            Ok(Proof::Token(caller, until))
        }
        (AuthMode::Token, _, _) => Err(Refusal::new(code::MISSING_TOKEN, "the handshake has no token")),
        // What a frame says of a fingerprint proves nothing; that a handshake of TLS has shown the key does.
        (AuthMode::Mtls, _, fingerprint) => match (shown, &app.config.gateway.tls) {
            (Some(shown), _) => Ok(Proof::Certificate(Arc::clone(shown))),
            (None, Some(tls)) if tls.is_mutual => {
                let reason = "this connection has shown no certificate: dial the controller's address for TLS, with a client certificate";
                Err(Refusal::new(code::MTLS_REQUIRED, reason))
            }
            (None, _) if fingerprint.is_none() => Err(Refusal::new(code::MTLS_REQUIRED, "the handshake has no fingerprint")),
            (None, _) => {
                let reason = "this controller checks no client certificates: attach with a token";
                Err(Refusal::new(code::MODE_UNSUPPORTED, reason))
            }
        },
    }
}
