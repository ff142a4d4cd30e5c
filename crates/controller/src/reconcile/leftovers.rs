//! Records of jobs that are gone: an agent that was cut off while its job was deleted stores its answer all the same. They are removed, so
//! that a deleted job leaves nothing.

use jiff::Timestamp;
use longshore_model::JobId;
use longshore_store::Error as StoreError;

use super::{Cursor, LOADS_MAX, each};
use crate::app::App;

/// One pass.
pub(super) async fn pass(app: App, cursor: Cursor, _: Timestamp) -> Result<Cursor, StoreError> {
    let jobs = app.index().leftovers(cursor, LOADS_MAX);
    for job in &jobs {
        each("leftovers", *job, remove(&app, *job).await)?;
    }
    Ok(jobs.last().copied().filter(|_| jobs.len() == LOADS_MAX))
}

/// A definition is stored before anything else of its job, so records without one are of a job that is gone. One that is there is about to
/// be told.
async fn remove(app: &App, job: JobId) -> Result<(), StoreError> {
    if app.load(job).await?.is_none() {
        app.store.ledger.delete(job).await?;
        app.index_mut().forget_leftovers(job);
        app.metrics.repaired("leftovers");
        tracing::info!(job.id = %job, "records that came after their job was deleted are removed");
    }
    Ok(())
}
