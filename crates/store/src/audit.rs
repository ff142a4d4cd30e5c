//! The audit trail: records of calls, in the order in which they were stored. Nothing rewrites or removes one but its age and the
//! stream's bound.

use async_trait::async_trait;
use jiff::Timestamp;
use longshore_model::wire::audit::AuditRecord;

use crate::{Error, Revision};

/// A record and its place in the trail; places grow, with holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAudit {
    /// Its place.
    pub place: Revision,
    /// When it was stored: not before what it tells of, as far as clocks agree.
    pub stored_at: Timestamp,
    /// The record.
    pub record: AuditRecord,
}

/// Some records in a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditPage {
    /// The records. One that cannot be read is passed over.
    pub items: Vec<StoredAudit>,
    /// Where to go on, given to the same call; `None` at the end. A page may be empty and have one.
    pub next: Option<Revision>,
}

/// The audit trail.
#[async_trait]
pub trait Audit: Send + Sync {
    /// Stores records; those of one call may change places among each other. A call with the same records may be repeated within two
    /// minutes: they are stored once, known by their ids.
    async fn append(&self, records: &[AuditRecord]) -> Result<(), Error>;

    /// Up to `limit` records before a place, or from the newest on; newest first.
    async fn before(&self, place: Option<Revision>, limit: usize) -> Result<AuditPage, Error>;

    /// Up to `limit` records after a place (0 is the beginning), oldest first.
    async fn after(&self, place: Revision, limit: usize) -> Result<AuditPage, Error>;
}
