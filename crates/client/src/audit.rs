//! The audit trail: who changed what, and who was refused.

use bytes::Bytes;
use futures::Stream;
use longshore_model::wire::rest::AuditList;
use reqwest::Method;
use serde::Serialize;

use crate::client::{ANSWER_TIMEOUT, Client};
use crate::error::Error;

/// Which records a page shows. `Default` is all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AuditFilter {
    /// A token's subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// Answered at or after: RFC 3339, or a duration ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Answered before: RFC 3339, or a duration ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// An operation, a method, or what begins with a slash for a part of the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Ends, comma-separated: `done`, `refused`, `failed`, `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Records in the page, 1 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// From the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

impl Client {
    /// A page of the audit trail, newest first. It may have fewer records than its limit and still be followed by another.
    ///
    /// # Errors
    /// The token lacks `audit:read`, the filter cannot be, or the controller could not be reached.
    pub async fn audit(&self, filter: &AuditFilter) -> Result<AuditList, Error> {
        self.json(self.to(Method::GET, "/audit").query(filter), ANSWER_TIMEOUT).await
    }

    /// Everything in the audit trail that the filter takes, oldest first, as lines of JSON; its `limit` and `cursor` must be empty.
    ///
    /// A stream that ends without an error has all of it. Chunks need not end with a line. Dropping it ends the download.
    ///
    /// # Errors
    /// As [`Client::audit`]; the stream also ends with an error if it breaks off or stalls.
    pub async fn audit_export(&self, filter: &AuditFilter) -> Result<impl Stream<Item = Result<Bytes, Error>> + Send + use<>, Error> {
        self.download(self.to(Method::GET, "/audit").query(&[("format", "jsonl")]).query(filter)).await
    }
}
