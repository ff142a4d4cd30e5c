//! The audit trail: one sequence, bounded; the oldest make room.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use jiff::Timestamp;
use longshore_model::wire::audit::AuditRecord;

use super::Memory;
use super::records::measure;
use crate::{Audit, AuditPage, Error, Revision, StoredAudit};

/// Records that are kept.
const KEPT_MAX: usize = 100_000;

/// Invariant: `ids` has the id of every record in `records`.
#[derive(Default)]
pub(super) struct Trail {
    newest: Revision,
    records: BTreeMap<Revision, StoredAudit>,
    ids: BTreeSet<String>,
}

#[async_trait]
impl Audit for Memory {
    async fn append(&self, records: &[AuditRecord]) -> Result<(), Error> {
        let (trail, now) = (&mut self.0.state().audit, self.0.options.clock.now());
        records.iter().try_for_each(|record| trail.append(record, now))
    }

    async fn before(&self, place: Option<Revision>, limit: usize) -> Result<AuditPage, Error> {
        let records = &self.0.state().audit.records;
        let mut found = records.range(..place.unwrap_or(Revision::MAX)).rev();
        let items: Vec<_> = found.by_ref().take(limit).map(|(_, stored)| stored.clone()).collect();
        Ok(AuditPage { next: found.next().map(|(place, _)| place + 1), items })
    }

    async fn after(&self, place: Revision, limit: usize) -> Result<AuditPage, Error> {
        let records = &self.0.state().audit.records;
        let mut found = records.range(place.saturating_add(1)..);
        let items: Vec<_> = found.by_ref().take(limit).map(|(_, stored)| stored.clone()).collect();
        Ok(AuditPage { next: found.next().map(|(place, _)| place - 1), items })
    }
}

impl Trail {
    fn append(&mut self, record: &AuditRecord, now: Timestamp) -> Result<(), Error> {
        measure(record)?;
        if !self.ids.insert(record.id.clone()) {
            return Ok(());
        }
        self.newest += 1;
        let stored = StoredAudit { place: self.newest, stored_at: now, record: record.clone() };
        self.records.insert(self.newest, stored);
        if self.records.len() > KEPT_MAX
            && let Some((_, oldest)) = self.records.pop_first()
        {
            self.ids.remove(&oldest.record.id);
        }
        Ok(())
    }
}
