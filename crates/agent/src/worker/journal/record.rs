//! What is in the journal, and how its lines look. Lines of the first version stay readable.

use longshore_session::{Message, Payload};
use serde::{Deserialize, Serialize};

/// The version of its records.
pub(super) const VERSION: u32 = 1;

/// One logical execution: sent any number of times, run once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) run: String,
    pub(crate) task: String,
    /// The counter of the run; the same for each time it is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seq: Option<u64>,
    /// The dispatch's own id, if it has no counter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dispatch: Option<String>,
}

/// What is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) node: String,
    /// From the moment it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) answer: Option<Kept>,
    /// The answer was acknowledged.
    #[serde(default)]
    pub(crate) is_settled: bool,
}

/// An answer as it is sent, and sent again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) payload: Payload,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) corr: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seq: Option<u64>,
}

impl Kept {
    pub(crate) fn message(&self) -> Message {
        Message {
            id: Some(self.id.clone()),
            kind: self.kind.clone(),
            payload: self.payload.clone(),
            corr: self.corr.clone(),
            seq: self.seq,
            wants_ack: true,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) v: u32,
    pub(super) key: Key,
    /// `None`: forgotten.
    pub(super) entry: Option<Entry>,
}

/// Only that an answer was acknowledged: the answer is not written again.
#[derive(Serialize, Deserialize)]
pub(super) struct Settled {
    pub(super) v: u32,
    pub(super) settled: Key,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Line {
    Record(Record),
    Settled(Settled),
}
