//! Removing a job with everything that belongs to it. The definition goes last, so that a delete that broke off can be repeated.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use longshore_model::access::Caller;
use longshore_model::job::Execution;
use longshore_model::wire::record::Definition;
use longshore_model::{ExecutionId, JobId};
use longshore_store::{Error as StoreError, JobRecord, archive_name, bundle_name, result_name};

use super::{App, Error, cancel, fold, permit, permit_targets};

/// How long a forced delete waits for what runs to stop.
const STOP_WITHIN: Duration = Duration::from_secs(30);
/// Objects that are removed at once.
const OBJECTS_AT_ONCE: usize = 32;

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
    let objects = objects(&record);
    let is_settled = fold(&record).is_settled();
    let definition = record.definition;
    app.store.work.withdraw(&definition).await?;
    if let Some(key) = &definition.concurrency_key {
        app.store.turns.leave(key, id).await?;
    }
    remove(app, &objects).await?;
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
    if let Some(key) = &definition.concurrency_key {
        // An agent that asked for its turn meanwhile may have found no place, and entered it again. From now on it finds that the job is gone.
        app.store.turns.leave(key, id).await?;
    }
    if !is_settled {
        // An agent that was lost may have stored a result since. From now on it finds that the job is gone, and removes it itself.
        remove(app, &objects).await?;
    }
    app.index_mut().delete(id);
    if app.letters_mut().forget(id) {
        // A reconciler that read the job before may have written it again. From now on it finds that the job is gone.
        app.store.dead_letters.delete(id).await?;
    }
    tracing::info!(job.id = %id, caller = %caller.name, "job deleted");
    Ok(())
}

/// What may be in the object store of a job: an archive for each execution, and a result for each attempt, whether or not an answer leads
/// to it.
fn objects(record: &JobRecord) -> Vec<String> {
    let id = record.definition.id;
    let of_one = |(execution, state): (ExecutionId, Execution)| {
        let results = (1..=state.attempts()).map(move |attempt| result_name(id, execution, attempt));
        std::iter::once(archive_name(id, execution)).chain(results)
    };
    fold(record).0.into_iter().flat_map(of_one).collect()
}

async fn remove(app: &App, objects: &[String]) -> Result<(), StoreError> {
    let removals: Vec<_> = objects.iter().map(|name| app.store.objects.delete(name)).collect();
    futures::stream::iter(removals).buffer_unordered(OBJECTS_AT_ONCE).try_collect().await
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
