//! What an earlier process of this agent had in hand: its answers are stored, and its work is given back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use longshore_exec::Resumable;
use longshore_model::job::Execution;
use longshore_model::wire::record::Answer;
use longshore_store::Store;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::dispatcher::Key;
use crate::execution::Context;
use crate::host::{Host, Notes};
use crate::journal::Entry;
use crate::outbox::Outbox;
use crate::resumption::{self, Kept, Remains};

/// Between tries to store an earlier process's answer.
const OWED_PAUSE: Duration = Duration::from_secs(2);

/// Settles what an earlier process had in hand: stores its answers, finds what goes on, and gives back what nobody has taken since. Gives
/// the answers that the ledger does not have yet, and what this process is to go on with.
pub(crate) async fn recover(
    config: &Config,
    store: &Store,
    (host, journal): (&dyn Host, &dyn Notes),
    outbox: &Outbox,
) -> (BTreeMap<Key, Answer>, Vec<Kept>) {
    let (mut owed, mut kept) = (BTreeMap::new(), Vec::new());
    let mut running: BTreeMap<Key, Vec<Resumable>> = BTreeMap::new();
    host.resumable().into_iter().for_each(|left| running.entry((left.job, left.execution)).or_default().push(left));
    let place = host.process().place;
    for (key, Entry { token, answer, unbegun }) in journal.left_behind() {
        let mut unwanted = running.remove(&key).unwrap_or_default();
        let remains = match unbegun.filter(|unbegun| unbegun.place == place) {
            Some(unbegun) if unwanted.is_empty() => Remains::Unbegun(unbegun.attempt),
            Some(_) | None => Remains::Attempts(&unwanted),
        };
        // One that has an answer has ended, whatever else is there.
        if answer.is_none()
            && kept.len() < config.max_jobs
            && let Some(found) = resumption::find(config, store, key, remains, token.as_deref()).await
        {
            tracing::info!(job.id = %key.0, attempt = found.attempt.number, "going on with work that an earlier process began");
            unwanted.retain(|left| Some(*left) != found.attempt.left);
            kept.push(found);
        }
        discard(host, unwanted).await;
        if kept.last().is_some_and(|kept| kept.key == key) {
            continue;
        }
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
    // Nobody knows by which claim it was begun.
    discard(host, running.into_values().flatten().collect()).await;
    outbox.sweep(owed.values());
    (owed, kept)
}

/// Ends what goes on and is not this agent's any more, before anybody is told that the work may be taken.
async fn discard(host: &dyn Host, unwanted: Vec<Resumable>) {
    for left in unwanted {
        let is_gone = host.discard(left).await;
        tracing::info!(job.id = %left.job, attempt = left.attempt, is_gone, "ended work that an earlier process began and that cannot be gone on with");
    }
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
