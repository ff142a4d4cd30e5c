//! Removing a job with everything that belongs to it. The definition goes last, so that a delete that broke off can be repeated.

use std::time::Duration;

use longshore_model::JobId;
use longshore_model::access::Caller;
use longshore_model::wire::record::Definition;
use longshore_store::{Error as StoreError, archive_name, bundle_name};

use super::{App, Error, cancel, fold, permit, permit_targets};

/// How long a forced delete waits for what runs to stop.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// What to do with a job that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Running {
    Refuse,
    CancelFirst,
}

/// Removes a job.
pub(crate) async fn delete(app: &App, caller: &Caller, id: JobId, running: Running) -> Result<(), Error> {
    permit(caller, "job:write")?;
    let mut record = app.load(id).await?.ok_or_else(|| Error::no_job(id))?;
    permit_targets(app, caller, &record.definition.target, &record.definition.executions)?;
    if !fold(&record).is_final() && running == Running::CancelFirst {
        cancel::end(app, &caller.name, id, STOP_WITHIN).await?;
        record = app.load(id).await?.ok_or_else(|| Error::no_job(id))?;
        if !fold(&record).is_final() {
            return Err(Error::Stopping { job: id });
        }
    }
    if !fold(&record).is_final() {
        return Err(Error::Running { job: id });
    }
    let definition = record.definition;
    app.store.work.withdraw(&definition).await?;
    if let Some(key) = &definition.concurrency_key {
        app.store.turns.leave(key, id).await?;
    }
    for execution in &definition.executions {
        app.store.objects.delete(&archive_name(id, *execution)).await?;
    }
    if let Some(bundle) = definition.args.get("bundle").and_then(serde_json::Value::as_str) {
        let _alone = app.bundles.write().await;
        if app.index().is_caught_up() && !app.index().is_bundle_shared(bundle, id) {
            app.store.objects.delete(&bundle_name(bundle)).await?;
        }
    }
    app.store.logs.delete(id).await?;
    // It stays in memory while the job is there, so that nobody writes it again meanwhile.
    app.store.dead_letters.delete(id).await?;
    // First, so that a repeat of the submission finds the job or learns that it is deleted, and never makes it again.
    let is_retired = retire_key(app, &definition).await?;
    app.store.ledger.delete(id).await?;
    if !is_retired {
        retire_key(app, &definition).await?;
    }
    app.index_mut().delete(id);
    app.letters_mut().forget(id);
    tracing::info!(job.id = %id, caller = %caller.name, "job deleted");
    Ok(())
}

/// Whether the key it was submitted with, if any, now stands for a deleted job: a full ledger has room for that only once the job is gone.
async fn retire_key(app: &App, definition: &Definition) -> Result<bool, Error> {
    let Some(key) = &definition.key_sha256 else { return Ok(true) };
    match app.store.ledger.retire(key, definition.id).await {
        Ok(()) => Ok(true),
        Err(StoreError::Full { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
