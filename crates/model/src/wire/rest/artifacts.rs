//! What executions brought back.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::wire::result::FileInfo;
use crate::{AgentId, ExecutionId};

/// What a job brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArtifactList {
    /// Files, sorted by path, then by host; of all hosts together at most 20,000.
    pub items: Vec<ArtifactFile>,
    /// The archive of each execution that brought something back, in the job's order.
    #[serde(default)]
    pub archives: Vec<ArtifactArchive>,
    /// Size of all archives together; absent when nothing came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive_bytes: Option<u64>,
    /// How many files the list leaves out; the archives have them.
    #[serde(default)]
    pub unlisted: usize,
}

/// One file that came back, and from whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArtifactFile {
    /// The file.
    #[serde(flatten)]
    pub file: FileInfo,
    /// The execution that made it.
    #[schema(value_type = String)]
    pub execution: ExecutionId,
    /// Its host's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

/// Everything that one execution brought back, packed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArtifactArchive {
    /// The execution.
    #[schema(value_type = String)]
    pub execution: ExecutionId,
    /// Who answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub agent: Option<AgentId>,
    /// Its host's name, as the agent says it: any text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Packed size.
    pub bytes: u64,
    /// Files in it, as far as its answer lists them.
    pub files: usize,
}
