//! What the frames of the session say. Unknown fields are refused, as the existing ends refuse them.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::envelope::Payload;
use crate::strict;

/// A token. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(pub String);

impl std::fmt::Debug for Token {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Token(***)")
    }
}

/// `control.handshake`: who comes, and why it may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handshake {
    /// At least 1.
    pub protocol: u32,
    /// Its credentials.
    #[serde(deserialize_with = "strict::object")]
    pub auth: Auth,
    /// What it is.
    #[serde(deserialize_with = "strict::object")]
    pub worker: Worker,
}

/// How a worker proves who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// Which of the two below counts.
    pub mode: AuthMode,
    /// A shared secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// The fingerprint of a client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

/// The two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// By token.
    Token,
    /// By client certificate.
    Mtls,
}

/// What a worker says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    /// A label for people.
    pub worker_name: String,
    /// Which one it is; its envelopes' sender says the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_instance_id: Option<String>,
    /// Of its program.
    pub version: String,
    /// Where it runs.
    pub hostname: String,
}

/// `control.register`: what a worker can do. The first one after a handshake opens the session, later ones are updates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// Limits, runtimes and features.
    #[serde(deserialize_with = "strict::object")]
    pub capabilities: Capabilities,
    /// Kinds of frames it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_types: Option<Vec<String>>,
    /// What is installed.
    #[serde(default, deserialize_with = "strict::list", skip_serializing_if = "Option::is_none")]
    pub packages: Option<Vec<Package>>,
    /// The manifests of those packages.
    #[serde(default, deserialize_with = "strict::list", skip_serializing_if = "Option::is_none")]
    pub manifests: Option<Vec<Manifest>>,
    /// Not used by anybody yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<Vec<String>>,
}

/// What a worker can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// How much at once.
    #[serde(deserialize_with = "strict::object")]
    pub concurrency: Concurrency,
    /// At least one.
    pub runtimes: Vec<String>,
    /// Free words; a Longshore worker says [`crate::FEATURE`].
    pub features: Vec<String>,
}

/// How much at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Concurrency {
    /// At least 1.
    pub max_parallel: u64,
    /// By node type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_node_limits: Option<BTreeMap<String, u64>>,
}

/// One package of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether it is there.
    pub status: PackageStatus,
}

/// Whether a package is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageStatus {
    /// It is.
    Installed,
    /// It is not.
    Missing,
    /// It was tried in vain.
    Failed,
}

/// A package's manifest, as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The package.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The object.
    pub manifest: Payload,
}

/// `control.resume`: an earlier session goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// Which one.
    pub session_id: String,
    /// The proof that came with its acceptance.
    pub session_token: Token,
    /// What the worker has received in order; a hint, the windows decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_seq: Option<u64>,
}

/// `control.session.accept`: from here on frames are numbered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accept {
    /// The session's name.
    pub session_id: String,
    /// What a resume has to show.
    pub session_token: Token,
    /// Whom the session belongs to.
    pub worker_instance_id: String,
    /// When the token ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// Whether windows and numbers go on; absent means no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<bool>,
}

/// `control.ack`: by id, by window, or both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ack {
    /// False is a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ok: Option<bool>,
    /// The id that is acknowledged; the envelope's own mark comes first.
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info: Option<String>,
    /// Everything up to this number was received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack_seq: Option<u64>,
    /// Bit k stands for `ack_seq + 1 + k`. A number that is too large for us to have sent says nothing.
    #[serde(default, deserialize_with = "bits", skip_serializing_if = "Option::is_none")]
    pub ack_bitmap: Option<u64>,
    /// How many numbers after `ack_seq` the receiver takes. At least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recv_window: Option<u64>,
}

/// `control.heartbeat`: how a worker is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// Whether it is well.
    pub healthy: bool,
    /// `inflight` at least, and any further key.
    pub metrics: Payload,
    /// Whether what is installed differs from what was registered.
    #[serde(default, deserialize_with = "strict::optional", skip_serializing_if = "Option::is_none")]
    pub packages: Option<Drift>,
}

/// Whether what is installed differs from what was registered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drift {
    /// It does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<bool>,
}

/// `control.reset`: the session is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reset {
    /// One of [`crate::code`], or another.
    pub code: String,
    /// For people.
    pub reason: String,
    /// How long to stay away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// `control.drain`: take no more work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long what runs may go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
}

/// A peer whose window is larger than 64 writes bitmaps of any length; we never have so much under way that the rest would matter.
fn bits<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    match Option::<Value>::deserialize(from)? {
        None => Ok(None),
        Some(Value::Number(number)) if number.as_u64().is_some() => Ok(number.as_u64()),
        Some(Value::Number(number)) if number.as_f64().is_some_and(|bits| bits >= 0.0) => Ok(Some(0)),
        Some(_) => Err(serde::de::Error::custom("ack_bitmap must be a number of 0 or more")),
    }
}
