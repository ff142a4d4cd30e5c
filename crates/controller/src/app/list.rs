//! Lists of jobs and counts of them, from the index alone.

use jiff::Timestamp;
use longshore_model::access::Caller;
use longshore_model::wire::rest::{JobList, QueueView};

use super::{App, Error, permit};
use crate::index::Filter;

/// A page of jobs, newest first, with the counts over everything retained.
pub(crate) fn list(app: &App, caller: &Caller, mut filter: Filter, cursor: Option<&str>, limit: usize) -> Result<JobList, Error> {
    permit(caller, "job:read")?;
    let now = refresh(app)?;
    let before = match cursor {
        Some(cursor) => Some(filter.resume(cursor).ok_or(Error::Cursor)?),
        None => None,
    };
    let index = app.index();
    let page = index.list(&filter, before, limit, now);
    Ok(JobList { items: page.items, next_cursor: page.last.map(|last| filter.cursor(last)), counts: index.counts() })
}

/// What there is to do.
pub(crate) fn queue(app: &App, caller: &Caller) -> Result<QueueView, Error> {
    permit(caller, "job:read")?;
    refresh(app)?;
    let index = app.index();
    let (waiting, claimed) = index.depth();
    Ok(QueueView { jobs: index.counts(), waiting, claimed })
}

/// Makes sure that the index tells the whole, as of now.
fn refresh(app: &App) -> Result<Timestamp, Error> {
    // Half an index would look like the whole.
    if !app.index().is_caught_up() {
        return Err(Error::Indexing);
    }
    let now = app.now();
    if app.index().is_stale(now) {
        app.index_mut().pass_time(app.config.retention, now);
    }
    Ok(now)
}
