//! The audit trail on a stream of its own, one subject, read by place.

use async_nats::HeaderMap;
use async_nats::jetstream::stream::Stream;
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use longshore_model::wire::audit::AuditRecord;

use super::link::{Shared, from_json, to_json};
use super::read::{PAGE, Stored};
use crate::{Audit, AuditPage, Error, Revision, StoredAudit};

const READING: &str = "reading the audit trail";

pub(super) struct JetStreamAudit {
    link: Shared,
    stream: Stream<()>,
    subject: String,
}

impl JetStreamAudit {
    pub(super) async fn open(link: Shared) -> Result<Self, Error> {
        let stream = link.stream(&link.layout.audit, "opening the audit trail").await?;
        let subject = link.layout.audit_record();
        Ok(Self { link, stream, subject })
    }

    /// What is stored after a place, oldest first.
    async fn page(&self, after: Revision) -> Result<Vec<Stored>, Error> {
        self.link.read_page(&self.link.layout.audit, &self.subject, after, READING).await
    }
}

#[async_trait]
impl Audit for JetStreamAudit {
    async fn append(&self, records: &[AuditRecord]) -> Result<(), Error> {
        // All are under way before the first is awaited.
        let mut writes = FuturesOrdered::new();
        for record in records {
            let value = to_json(record, "audit record")?;
            writes.push_back(self.link.write_as(
                record.id.clone(),
                self.subject.clone(),
                value,
                HeaderMap::new(),
                "storing an audit record",
            ));
        }
        while let Some(written) = writes.next().await {
            written?;
        }
        Ok(())
    }

    async fn before(&self, place: Option<Revision>, limit: usize) -> Result<AuditPage, Error> {
        let Some(oldest) = self.link.read_next(&self.stream, &self.subject, 1, READING).await? else { return Ok(AuditPage::default()) };
        let mut end = match place {
            Some(place) => place,
            None => self.link.read_last(&self.stream, &self.subject, READING).await?.map_or(0, |newest| newest.sequence + 1),
        };
        let mut items = Vec::new();
        // Places are consecutive but for what was removed by hand; a window has as many at most as it is wide.
        while items.len() < limit && end > oldest.sequence {
            let width = (limit - items.len()).min(PAGE) as u64;
            let start = end.saturating_sub(width).max(oldest.sequence);
            let mut window = self.page(start - 1).await?;
            window.retain(|stored| stored.sequence < end);
            items.extend(window.into_iter().rev().filter_map(read));
            end = start;
        }
        Ok(AuditPage { items, next: (end > oldest.sequence).then_some(end) })
    }

    async fn after(&self, place: Revision, limit: usize) -> Result<AuditPage, Error> {
        let mut page = self.page(place).await?;
        let is_last = page.len() < PAGE && page.len() <= limit;
        page.truncate(limit);
        let next = page.last().filter(|_| !is_last).map(|last| last.sequence);
        Ok(AuditPage { items: page.into_iter().filter_map(read).collect(), next })
    }
}

fn read(stored: Stored) -> Option<StoredAudit> {
    match from_json(&stored.subject, &stored.payload) {
        Ok(record) => Some(StoredAudit { place: stored.sequence, stored_at: stored.time, record }),
        Err(error) => {
            tracing::error!(place = stored.sequence, %error, "an audit record cannot be read, and is passed over");
            None
        }
    }
}
