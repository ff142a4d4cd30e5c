//! What is kept of calls that change state and of calls that are refused. Says who, what and with which end; never arguments, tokens,
//! queries or results.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::problem::ErrorCode;
use super::record::SCHEMA;
use crate::id::JobId;

/// One call of the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditRecord {
    /// Version of this form.
    pub schema: u32,
    /// Of this record: a repeat of its write has the same one. Callers cannot choose it.
    pub id: String,
    /// When the answer was known.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The request's id, which the caller may have chosen.
    pub request_id: String,
    /// The token's subject; absent if there was no valid token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// The address that the connection came from: a proxy's, if there is one between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// The method.
    pub method: String,
    /// The path as it was asked for, without its query; cut at 512 bytes.
    pub path: String,
    /// The operation of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// The job that was submitted, or that the path names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub job: Option<JobId>,
    /// The job's target as it was submitted, or the agent that the path names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<String>,
    /// The status of the answer; absent if the caller went before there was one. What the call began may have been done all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The code of an answer that is an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<ErrorCode>,
    /// What a token lacked: said of refusals (401 and 403) only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many calls without a valid token and from the same address were made before this one, within a minute, and have no record of
    /// their own: this one stands for them. Absent for none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: u64,
    /// How many records were given up before this one, because too many waited for the broker.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped_before: u64,
    /// Its place among the records of the controller that wrote it. Absent in records of agents and of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<AuditLink>,
}

/// A record's place in a chain: see [`crate::chain`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditLink {
    /// One run of one controller.
    pub writer: String,
    /// Which of its records this is, from 1 on.
    pub number: u64,
    /// SHA-256, in 64 hex digits, over the digest of the record before it and over this record as JSON with an empty digest.
    pub digest: String,
}

impl AuditRecord {
    /// One that says nothing more.
    #[must_use]
    pub fn new(id: String, at: Timestamp, method: String, path: String) -> Self {
        Self {
            schema: SCHEMA,
            id,
            at,
            request_id: String::new(),
            who: None,
            remote: None,
            method,
            path,
            operation: None,
            job: None,
            targets: Vec::new(),
            status: None,
            code: None,
            reason: None,
            more: 0,
            dropped_before: 0,
            link: None,
        }
    }

    /// How the call ended.
    #[must_use]
    pub fn outcome(&self) -> AuditOutcome {
        match self.status {
            None => AuditOutcome::Unknown,
            Some(401 | 403) => AuditOutcome::Refused,
            Some(400..) => AuditOutcome::Failed,
            Some(_) => AuditOutcome::Done,
        }
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditOutcome {
    /// It was done.
    Done,
    /// It was refused for who made it: without a valid token, or without a permission.
    Refused,
    /// It was not done for another reason.
    Failed,
    /// The caller went before there was an answer.
    Unknown,
}

impl AuditOutcome {
    /// Every one of them.
    pub const ALL: [Self; 4] = [Self::Done, Self::Refused, Self::Failed, Self::Unknown];

    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }

    /// The one with this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == word)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}
