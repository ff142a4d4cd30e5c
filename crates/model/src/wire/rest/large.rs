//! Results that are too large to be shown wherever they belong.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Stands for a result that is not shown in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LargeResult {
    /// Bytes of its JSON.
    pub bytes: u64,
    /// SHA-256 of its JSON, lower-case hex.
    pub sha256: String,
    /// `GET` of this path gives its JSON.
    pub href: String,
    /// Why it could not be shown, where that was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}
