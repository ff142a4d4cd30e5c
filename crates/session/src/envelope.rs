//! What every frame looks like. Its bytes are the business of [`crate::codec`], its meaning that of [`crate::control`] and of whoever reads the payload.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::codec::{FLAGS_MAX, NAME_BYTES_MAX};
use crate::strict;

/// A JSON object: what a payload is.
pub type Payload = Map<String, Value>;

/// One frame. Unknown fields are refused; absent optional ones are left out when written, and `null` is read as absent.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// `control.*` for the session itself, `biz.*` first party, `ext.vendor.*` third party. Not empty.
    #[serde(rename = "type")]
    pub kind: String,
    /// Names this frame; kept when it is sent again. Not empty.
    pub id: String,
    /// When it was made.
    pub ts: Timestamp,
    /// Not empty.
    pub tenant: String,
    /// Who made it.
    #[serde(deserialize_with = "strict::object")]
    pub sender: Sender,
    /// What it says. May hold secrets, so it is not shown by `Debug`.
    pub payload: Payload,
    /// What it belongs to: a task, a request, a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corr: Option<String>,
    /// The counter of a run, copied from a dispatch to what answers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// The number within the session, from 1; frames of the session itself have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_seq: Option<u64>,
    /// Asks for an acknowledgement, or is one.
    #[serde(default, deserialize_with = "strict::optional", skip_serializing_if = "Option::is_none")]
    pub ack: Option<AckMark>,
    /// Reserved. No entry is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<Vec<String>>,
}

/// Who made a frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sender {
    /// Which end.
    pub role: Role,
    /// The worker's instance id, or the scheduler's name. Not empty.
    pub id: String,
}

/// The two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Who hands out work: a scheduler, or Longshore's gateway.
    Scheduler,
    /// Who does it.
    Worker,
}

/// The acknowledgement part of an envelope.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AckMark {
    /// The id of the frame that is acknowledged.
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// Whether an acknowledgement by id is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<bool>,
}

impl Envelope {
    /// Whether the sender asks for an acknowledgement by id.
    #[must_use]
    pub fn wants_ack(&self) -> bool {
        self.ack.as_ref().and_then(|ack| ack.request) == Some(true)
    }

    /// Whether it is about the session itself.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.kind.starts_with("control.")
    }

    /// The first field that is longer than [`crate::codec::NAME_BYTES_MAX`], or that has more entries than [`crate::codec::FLAGS_MAX`].
    pub(crate) fn long_field(&self) -> Option<&'static str> {
        let of = self.ack.as_ref().and_then(|mark| mark.of.as_ref());
        let fields =
            [("type", Some(&self.kind)), ("id", Some(&self.id)), ("tenant", Some(&self.tenant)), ("sender.id", Some(&self.sender.id))];
        let more = [("corr", self.corr.as_ref()), ("ack.for", of)];
        let is_long = |text: &String| text.len() > NAME_BYTES_MAX;
        let long = fields.into_iter().chain(more).find(|(_, text)| text.is_some_and(is_long)).map(|(name, _)| name);
        let flags = self.flags.as_deref().unwrap_or_default();
        long.or_else(|| (flags.len() > FLAGS_MAX || flags.iter().any(is_long)).then_some("flags"))
    }

    /// The first field that is empty and must not be.
    pub(crate) fn empty_field(&self) -> Option<&'static str> {
        let fields = [("type", &self.kind), ("id", &self.id), ("tenant", &self.tenant), ("sender.id", &self.sender.id)];
        let empty = fields.into_iter().find(|(_, text)| text.is_empty()).map(|(name, _)| name);
        empty.or_else(|| self.flags.iter().flatten().any(String::is_empty).then_some("flags"))
    }
}

impl std::fmt::Debug for Envelope {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Envelope")
            .field("kind", &self.kind)
            .field("id", &self.id)
            .field("corr", &self.corr)
            .field("seq", &self.seq)
            .field("session_seq", &self.session_seq)
            .field("ack", &self.ack)
            .field("payload_fields", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// An encoded frame. `Debug` shows its size only: the first frame of a session holds a token.
#[derive(Clone, PartialEq, Eq)]
pub struct Text(String);

impl Text {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    /// What goes over the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What goes over the wire.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Text({} bytes)", self.0.len())
    }
}
