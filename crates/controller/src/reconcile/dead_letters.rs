//! Letters of jobs whose attempts are used up: one each, saying what the ledger says, and none for a job that is gone or not dead.
//!
//! So the list is complete whoever was away when a job died, and whatever was lost since.

use jiff::Timestamp;
use longshore_store::Error as StoreError;

use super::{Cursor, LOADS_MAX, SCAN_MAX, each};
use crate::app::{App, dead_letters};

/// One pass.
pub(super) async fn pass(app: App, cursor: Cursor, _: Timestamp) -> Result<Cursor, StoreError> {
    // Until they are known every letter would seem to be missing.
    if !app.letters().is_current() {
        return Ok(cursor);
    }
    let (jobs, next) = dead_letters::unsettled(&app, cursor, (LOADS_MAX, SCAN_MAX));
    let mut full = None;
    for job in jobs {
        match dead_letters::settle(&app, job).await {
            // Going on may make room: letters of jobs that are gone are removed.
            Err(error @ StoreError::Full { .. }) => full = Some(error),
            done => each("dead_letters", job, done.map(drop))?,
        }
    }
    if let Some(error) = full {
        tracing::warn!(error = %crate::app::chain(&error), "dead letters cannot be recorded, and are tried again");
    }
    Ok(next)
}
