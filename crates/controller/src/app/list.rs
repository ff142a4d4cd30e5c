//! Lists of jobs, from the index alone.

use longshore_model::access::Caller;
use longshore_model::wire::rest::JobList;

use super::{App, Error, permit};
use crate::index::Filter;

/// A page of jobs, newest first, with the counts over everything retained.
pub(crate) fn list(app: &App, caller: &Caller, mut filter: Filter, cursor: Option<&str>, limit: usize) -> Result<JobList, Error> {
    permit(caller, "job:read")?;
    // Half an index would look like the whole.
    if !app.index().is_caught_up() {
        return Err(Error::Indexing);
    }
    let before = match cursor {
        Some(cursor) => Some(filter.resume(cursor).ok_or(Error::Cursor)?),
        None => None,
    };
    let now = app.now();
    if app.index().is_stale(now) {
        app.index_mut().pass_time(app.config.retention, now);
    }
    let index = app.index();
    let page = index.list(&filter, before, limit, now);
    Ok(JobList { items: page.items, next_cursor: page.last.map(|last| filter.cursor(last)), counts: index.counts() })
}
