//! What the stand-alone door of workspace jobs reads and writes: definitions, responses, manifests. The names that the program had
//! whose place it takes come first and are camel case; what was added follows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::args::{LimitArgs, ShellChoice, StepArgs};
use super::result::{WorkspaceResult, WorkspaceStatus};

/// Where a manifest is, below the job's directory.
pub const MANIFEST_FILE: &str = "results/result.json";

/// What a job does: the content of `job.json`, and of a request beside its `id`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefinitionArgs {
    /// What to run, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<Vec<StepArgs>>,
    /// Variables for all steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// What runs the steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<ShellChoice>,
    /// Time-out of the whole job, such as `30m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Globs of what to bring back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<Vec<String>>,
    /// Bounds on the steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitArgs>,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    /// The job's name, as it was asked for.
    pub id: String,
    /// How it ended.
    pub status: WorkspaceStatus,
    /// The exit status of the step that ended the job; 0 where none did, 128 and the signal's number where one ended it, 1 otherwise.
    pub exit_code: i32,
    /// Where the manifest is, below the job's directory.
    pub manifest_file: String,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `results/result.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// What every workspace job has.
    #[serde(flatten)]
    pub result: WorkspaceResult,
    /// As in the response.
    pub exit_code: i32,
    /// The message that asked for the run; absent for a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Asked>,
}

/// A message in a stream: what a second delivery of it is known by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The stream.
    pub stream: String,
    /// The message's place in it.
    pub sequence: u64,
    /// When the stream took it; another stream of that name has numbers of its own.
    pub stored_at: jiff::Timestamp,
}

impl Manifest {
    /// The response that says the same.
    #[must_use]
    pub fn response(&self) -> Response {
        Response {
            id: self.result.job_id.clone(),
            status: self.result.status,
            exit_code: self.exit_code,
            manifest_file: MANIFEST_FILE.to_owned(),
            error: self.result.error.clone(),
        }
    }
}
