//! The audit trail on a stream of its own, one subject, read by place.
//!
//! A message has a record a line, as many as waited together: a synced write for each would cost more than the calls that they tell of. A
//! record's place is its message's and its line.

use async_nats::HeaderMap;
use async_nats::jetstream::stream::Stream;
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use longshore_model::wire::audit::AuditRecord;

use super::link::{Shared, from_json, to_json};
use super::read::{Page, Stored};
use crate::work::PAGE;
use crate::{Audit, AuditPage, Error, Revision, StoredAudit};

/// Records in a message: at most this many, and no further one once they have this many bytes.
const LINES_MAX: u64 = 64;
const MESSAGE_BYTES: usize = 32 * 1024;
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

    /// What is stored from `start` to before `end`, oldest first.
    async fn window(&self, start: Revision, end: Revision) -> Result<Vec<Stored>, Error> {
        let mut window: Vec<Stored> = Vec::new();
        loop {
            let page = self.page(window.last().map_or(start - 1, |last| last.sequence)).await?;
            let is_last = page.is_last;
            window.extend(page.messages);
            if is_last || window.last().is_none_or(|last| last.sequence + 1 >= end) {
                window.retain(|stored| stored.sequence < end);
                return Ok(window);
            }
        }
    }

    /// What is stored after a place, oldest first.
    async fn page(&self, after: Revision) -> Result<Page, Error> {
        self.link.read_page(&self.link.layout.audit, &self.subject, after, READING).await
    }
}

#[async_trait]
impl Audit for JetStreamAudit {
    async fn append(&self, records: &[AuditRecord]) -> Result<(), Error> {
        // All are under way before the first is awaited.
        let mut writes = FuturesOrdered::new();
        for Message { first, n_lines, lines } in messages(records)? {
            let id = format!("{first} {n_lines}");
            writes.push_back(self.link.write_as(id, self.subject.clone(), lines.into(), HeaderMap::new(), "storing audit records"));
        }
        while let Some(written) = writes.next().await {
            written?;
        }
        Ok(())
    }

    async fn before(&self, place: Option<Revision>, limit: usize) -> Result<AuditPage, Error> {
        let Some(oldest) = self.link.read_next(&self.stream, &self.subject, 1, READING).await? else { return Ok(AuditPage::default()) };
        let before = match place {
            Some(place) => place,
            None => self.link.read_last(&self.stream, &self.subject, READING).await?.map_or(0, |newest| first_place(newest.sequence + 1)),
        };
        let mut end = before.div_ceil(LINES_MAX);
        let mut items = Vec::new();
        // Messages are consecutive but for what was removed by hand; a window has as many at most as it is wide, and each a record at least.
        while items.len() < limit && end > oldest.sequence {
            let width = (limit - items.len()).min(PAGE) as u64;
            let start = end.saturating_sub(width).max(oldest.sequence);
            let window = self.window(start, end).await?;
            items.extend(window.iter().rev().flat_map(|message| read(message).into_iter().rev()).filter(|record| record.place < before));
            end = start;
        }
        if items.len() > limit {
            items.truncate(limit);
            let next = items.last().map(|record| record.place);
            return Ok(AuditPage { items, next });
        }
        Ok(AuditPage { items, next: (end > oldest.sequence).then_some(first_place(end)) })
    }

    async fn after(&self, place: Revision, limit: usize) -> Result<AuditPage, Error> {
        let page = self.page((place / LINES_MAX).saturating_sub(1)).await?;
        let newest = page.next().map(|last| first_place(last + 1) - 1);
        let mut items: Vec<_> = page.messages.iter().flat_map(read).filter(|record| record.place > place).collect();
        if items.len() <= limit {
            return Ok(AuditPage { items, next: newest });
        }
        items.truncate(limit);
        let next = items.last().map(|record| record.place);
        Ok(AuditPage { items, next })
    }
}

/// The lines of one message, and what the broker knows a repeat of it by: its first record and how many follow.
struct Message {
    first: String,
    n_lines: u64,
    lines: Vec<u8>,
}

/// The same records make the same messages.
fn messages(records: &[AuditRecord]) -> Result<Vec<Message>, Error> {
    let mut messages: Vec<Message> = Vec::new();
    for record in records {
        let line = to_json(record, "audit record")?;
        let fits = |message: &&mut Message| message.n_lines < LINES_MAX && message.lines.len() + line.len() < MESSAGE_BYTES;
        if let Some(message) = messages.last_mut().filter(fits) {
            message.lines.push(b'\n');
            message.lines.extend_from_slice(&line);
            message.n_lines += 1;
        } else {
            messages.push(Message { first: record.id.clone(), n_lines: 1, lines: line.into() });
        }
    }
    Ok(messages)
}

/// The place of a message's first line.
fn first_place(sequence: Revision) -> Revision {
    sequence.saturating_mul(LINES_MAX)
}

fn read(message: &Stored) -> Vec<StoredAudit> {
    let lines = message.payload.split(|byte| *byte == b'\n').zip(first_place(message.sequence)..);
    lines
        .filter_map(|(line, place)| match from_json(&message.subject, line) {
            Ok(record) => Some(StoredAudit { place, stored_at: message.time, record }),
            Err(error) => {
                tracing::error!(place, %error, "an audit record cannot be read, and is passed over");
                None
            }
        })
        .collect()
}
