//! Who may attach a worker: the first frame of a connection, judged before any session is touched.

use jiff::Timestamp;
use longshore_model::{AgentId, HostName};
use longshore_session::control::{Auth, AuthMode, Handshake};
use longshore_session::{Admission, Greeting, Hail, Refusal, code};
use sha2::{Digest as _, Sha256};

use super::ticket::{self, Bearer};
use crate::app::App;

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
}

/// Somebody who may come in.
#[derive(Debug, Clone)]
pub(super) struct Admitted {
    pub(super) admission: Admission,
    /// Of a new session; one that goes on has it.
    pub(super) identity: Option<Identity>,
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

/// Whether a greeting is let in. Reads no session: that it has one to go on with is seen later.
pub(super) fn judge(app: &App, greeting: &Greeting, now: Timestamp) -> Result<Admitted, Refusal> {
    let Greeting { tenant, instance, .. } = greeting;
    if *tenant != app.config.gateway.tenant {
        let reason = format!("this controller's tenant is {:?}", app.config.gateway.tenant);
        return Err(Refusal::new(code::TENANT_MISMATCH, &reason));
    }
    if instance.len() > NAME_BYTES_MAX || instance.contains(char::is_control) {
        return Err(Refusal::new(code::PROTOCOL, "the instance id is too long, or not a text"));
    }
    let identity = match &greeting.hail {
        Hail::Handshake(handshake) => Some(identity(app, handshake, tenant, instance, now)?),
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
    Ok(Admitted { admission: admission(app, session_id, (tenant, instance), until, now), identity })
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

fn identity(app: &App, handshake: &Handshake, tenant: &str, instance: &str, now: Timestamp) -> Result<Identity, Refusal> {
    let worker = &handshake.worker;
    if worker.worker_instance_id.as_ref().is_some_and(|own| own != instance) {
        return Err(Refusal::new(code::SESSION_MISMATCH, "the worker's instance id is not its frame's sender"));
    }
    let refused = |reason: String| Refusal::new(code::INVALID_TOKEN, &reason);
    let token = token(&handshake.auth)?;
    let (roles, ring) = (&app.config.roles, &app.keyring);
    let caller = ring.verify(roles, token, now).map_err(|error| refused(error.to_string()))?;
    let until = ring.read(roles, token, now).map_err(|error| refused(error.to_string()))?.expires_at;
    if !caller.may(PERMISSION) {
        return Err(refused(format!("the token does not grant {PERMISSION}")));
    }
    let agent = agent_of(tenant, instance);
    if worker.hostname.parse::<HostName>().is_err() {
        return Err(Refusal::new(code::PROTOCOL, "the worker's host name is none"));
    }
    // By host name or agent id: what it says of its groups is its own word. An instance id is no secret, so whoever comes with one that the fleet
    // knows under another name must be allowed that one too: what waits for it was meant for that host.
    let known = app.fleet().heartbeat(agent).map(|heartbeat| heartbeat.hostname.clone());
    if !caller.reaches(agent, &worker.hostname, &[]) {
        return Err(refused(format!("the token is for other hosts than {}", worker.hostname)));
    }
    if known.is_some_and(|known| !caller.reaches(agent, &known, &[])) {
        return Err(refused("the token is for other hosts than that of this instance".to_owned()));
    }
    let short = |text: &str| text.chars().filter(|one| !one.is_control()).take(NAME_BYTES_MAX / 4).collect::<String>();
    Ok(Identity {
        agent,
        hostname: worker.hostname.clone(),
        name: short(&worker.worker_name),
        version: short(&worker.version),
        subject: caller.name,
        until,
    })
}

fn token(auth: &Auth) -> Result<&str, Refusal> {
    match (auth.mode, &auth.token, &auth.fingerprint) {
        (AuthMode::Token, Some(token), _) if !token.0.trim().is_empty() => Ok(token.0.trim()),
        (AuthMode::Token, _, _) => Err(Refusal::new(code::MISSING_TOKEN, "the handshake has no token")),
        (AuthMode::Mtls, _, None) => Err(Refusal::new(code::MTLS_REQUIRED, "the handshake has no fingerprint")),
        // Anybody can write a fingerprint; it counts where a handshake of TLS has shown the key, and this listener has none.
        (AuthMode::Mtls, _, Some(_)) => {
            Err(Refusal::new(code::MODE_UNSUPPORTED, "this controller checks no client certificates: attach with a token"))
        }
    }
}
