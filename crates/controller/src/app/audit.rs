//! The audit trail, read: pages from the newest on, and an export of all of it. Who writes it is `crate::audit`.

use std::collections::BTreeSet;

use bytes::Bytes;
use jiff::Timestamp;
use longshore_model::access::Caller;
use longshore_model::limits::PAGE_MAX;
use longshore_model::wire::audit::{AuditOutcome, AuditRecord};
use longshore_model::wire::rest::AuditList;
use longshore_store::Revision;
use tokio::sync::mpsc;

use super::stream::{Gone, Sink, produce};
use super::{App, Error, chain, permit};

/// Records that one page looks at: with a filter that few have it ends there, and its cursor goes on.
const LOOKED_AT_MAX: usize = 20_000;

/// Which records. Everything that is given must hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    pub(crate) who: Option<String>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) until: Option<Timestamp>,
    /// An operation, a method, or a part of the path.
    pub(crate) action: Option<String>,
    /// Any of these, or any at all.
    pub(crate) outcomes: BTreeSet<AuditOutcome>,
}

impl Filter {
    fn takes(&self, record: &AuditRecord) -> bool {
        self.who.as_ref().is_none_or(|who| record.who.as_ref() == Some(who))
            && self.since.is_none_or(|since| record.at >= since)
            && self.until.is_none_or(|until| record.at < until)
            && self.action.as_ref().is_none_or(|action| did(record, action))
            && (self.outcomes.is_empty() || self.outcomes.contains(&record.outcome()))
    }
}

/// What begins with a slash is looked for in the path; paths have no end of their own, since ids stand in them.
fn did(record: &AuditRecord, action: &str) -> bool {
    if action.starts_with('/') {
        return record.path.contains(action);
    }
    record.operation.as_deref() == Some(action) || record.method.eq_ignore_ascii_case(action)
}

/// A page of records, newest first. A cursor is a place, and fits every filter.
pub(crate) async fn list(app: &App, caller: &Caller, filter: &Filter, cursor: Option<&str>, limit: usize) -> Result<AuditList, Error> {
    permit(caller, "audit:read")?;
    let mut place: Option<Revision> = cursor.map(str::parse).transpose().map_err(|_| Error::Cursor)?;
    let mut items = Vec::new();
    let mut n_looked_at = 0;
    while items.len() < limit && n_looked_at < LOOKED_AT_MAX {
        let page = app.store.audit.before(place, PAGE_MAX).await?;
        place = page.next;
        for stored in page.items {
            // A record is stored after what it tells of, so everything further on is older still.
            if filter.since.is_some_and(|since| stored.stored_at < since) {
                return Ok(AuditList { items, next_cursor: None });
            }
            if items.len() == limit {
                place = Some(stored.place + 1);
                break;
            }
            n_looked_at += 1;
            if filter.takes(&stored.record) {
                items.push(stored.record);
            }
        }
        if place.is_none() {
            break;
        }
    }
    Ok(AuditList { items, next_cursor: place.map(|place| place.to_string()) })
}

/// What an export is made of.
pub(crate) enum Piece {
    /// Whole lines.
    Lines(Bytes),
    /// Everything was told. An export that breaks off instead is not complete.
    End,
}

/// Every record that is stored now, oldest first.
pub(crate) async fn export(app: &App, caller: &Caller, filter: Filter) -> Result<mpsc::Receiver<Piece>, Error> {
    permit(caller, "audit:read")?;
    let newest = app.store.audit.before(None, 1).await?;
    let last = newest.items.first().map(|stored| stored.place).or(newest.next).unwrap_or(0);
    Ok(produce(app, move |app, sink| tell(app, sink, filter, last)))
}

async fn tell(app: App, sink: Sink<Piece>, filter: Filter, last: Revision) -> Result<(), Gone> {
    let mut place = Some(0);
    while let Some(after) = place.filter(|place| *place < last) {
        let page = match app.store.audit.after(after, PAGE_MAX).await {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "an export of the audit trail was cut short");
                return Ok(());
            }
        };
        place = page.next;
        let mut lines = Vec::new();
        for stored in page.items.iter().filter(|stored| stored.place <= last && filter.takes(&stored.record)) {
            serde_json::to_writer(&mut lines, &stored.record).expect("a record has string keys only, and memory takes it");
            lines.push(b'\n');
        }
        if !lines.is_empty() {
            sink.send(Piece::Lines(lines.into())).await?;
        }
    }
    sink.send(Piece::End).await
}
