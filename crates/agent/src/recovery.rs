//! What an earlier process of this agent had in hand: its answers are stored, and its work is given back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use longshore_model::job::Execution;
use longshore_model::wire::record::Answer;
use longshore_store::Store;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::dispatcher::Key;
use crate::execution::Context;
use crate::host::Notes;
use crate::journal::Entry;
use crate::outbox::Outbox;

/// Between tries to store an earlier process's answer.
const OWED_PAUSE: Duration = Duration::from_secs(2);

/// Settles what an earlier process had in hand: stores its answers, and gives back what nobody has taken since. Gives the answers that
/// the ledger does not have yet.
pub(crate) async fn recover(config: &Config, store: &Store, journal: &dyn Notes, outbox: &Outbox) -> BTreeMap<Key, Answer> {
    let mut owed = BTreeMap::new();
    for (key, Entry { token, answer }) in journal.left_behind() {
        tracing::info!(job.id = %key.0, has_answer = answer.is_some(), "found work that an earlier process had in hand");
        if let Some(answer) = answer
            && let Err(error) = outbox.deliver(&answer).await
        {
            tracing::warn!(%error, job.id = %key.0, "its answer could not be stored yet; keeping it");
            owed.insert(key, answer);
            continue;
        }
        if let Some(token) = token
            && is_ours(config, store, key).await
            && let Err(error) = store.work.give_back(&token).await
        {
            tracing::warn!(%error, job.id = %key.0, "it could not be given back; its claim will lapse");
        }
        journal.forget(key);
    }
    outbox.sweep(owed.values());
    owed
}

/// Whether giving the work back takes it from nobody: another agent may have it by now, under the same message.
async fn is_ours(config: &Config, store: &Store, key: Key) -> bool {
    let Ok(Some(record)) = store.ledger.load_execution(key.0, key.1).await else { return false };
    let Ok(execution) = Execution::fold(&record.events, record.answer.as_ref()) else { return false };
    execution.holder().is_none_or(|(agent, _)| agent == config.id)
}

/// Goes on trying to store the answers of an earlier process, until there are none or `stop`.
pub(crate) async fn deliver_owed(ctx: Arc<Context>, stop: CancellationToken) {
    let owed = || ctx.owed.lock().expect("no holder of this lock panics").iter().next().map(|(key, answer)| (*key, answer.clone()));
    while let Some((key, answer)) = owed() {
        match ctx.outbox.deliver(&answer).await {
            Ok(_) => {
                ctx.owed.lock().expect("no holder of this lock panics").remove(&key);
                ctx.journal.forget(key);
            }
            Err(error) => {
                tracing::debug!(%error, job.id = %key.0, "an earlier process's answer is still to be stored");
                if stop.run_until_cancelled(tokio::time::sleep(OWED_PAUSE)).await.is_none() {
                    return;
                }
            }
        }
    }
}
