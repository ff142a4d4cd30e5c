//! What the loop is told of the broker's side: pulls, visits to groups, looks. Each is a task that asks and tells, so that the loop itself
//! never waits for the broker.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use longshore_model::{AgentId, Label};
use longshore_store::{Delivery, Error, InboxPage, Registry, Store};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Before the broker is asked again after a fault.
pub(crate) const PULL_PAUSE: Duration = Duration::from_millis(250);

/// Before it is asked again for what it refuses until somebody changes it.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// What a pull or a look tells.
pub(crate) enum News {
    /// A pull brought it.
    Pulled(Box<Delivery>),
    PullEnded {
        unused: usize,
    },
    /// A visit to a group brought it.
    Found(Box<Delivery>),
    Visited {
        unfinished: BTreeSet<Label>,
    },
    Inbox(Result<InboxPage, Error>),
    /// Whether people want this agent to take no work; `None` if that could not be read.
    Drained(Option<bool>),
}

/// Whether people want this agent to take no work; `None` if that cannot be read.
pub(crate) async fn is_drained(registry: &dyn Registry, me: AgentId) -> Option<bool> {
    let state = registry.state_of(me).await.inspect_err(|error| tracing::debug!(%error, "could not read whether to take work")).ok()?;
    Some(state.is_some_and(|state| state.drained))
}

/// Takes what these groups have, up to `n_slots` in all. Those that may have more are to be visited again.
pub(crate) async fn visit(store: Store, groups: BTreeSet<Label>, mut n_slots: usize, events: mpsc::Sender<News>, end: CancellationToken) {
    let mut unfinished = BTreeSet::new();
    for group in groups {
        if n_slots == 0 || end.is_cancelled() {
            unfinished.insert(group);
            continue;
        }
        // Most groups have none, and a consumer is made by asking one for it.
        if !store.work.has_work(&group).await.unwrap_or(false) {
            continue;
        }
        let deliveries = store.work.take(&group, n_slots).await.unwrap_or_else(|error| {
            tracing::debug!(%error, %group, "a group's work was not taken");
            Vec::new()
        });
        n_slots -= deliveries.len();
        if n_slots == 0 {
            unfinished.insert(group);
        }
        for delivery in deliveries {
            if events.send(News::Found(Box::new(delivery))).await.is_err() {
                return;
            }
        }
    }
    let _ = events.send(News::Visited { unfinished }).await;
}

/// One pull, to its end or to ours.
pub(crate) async fn pull(store: Store, n_slots: usize, events: mpsc::Sender<News>, end: CancellationToken) {
    let mut unused = n_slots;
    let asked = Instant::now();
    match store.work.pull(n_slots).await {
        Ok(mut deliveries) => {
            while let Some(Some(delivery)) = end.run_until_cancelled(deliveries.next()).await {
                unused = unused.saturating_sub(1);
                if events.send(News::Pulled(Box::new(delivery))).await.is_err() {
                    return;
                }
            }
        }
        Err(error) if error.is_retryable() => tracing::debug!(%error, "no work asked for"),
        Err(error) => {
            tracing::error!(%error, "work for anybody cannot be taken");
            end.run_until_cancelled(tokio::time::sleep(REFUSED_PAUSE)).await;
        }
    }
    // Refused at once: asking again at once would only be refused again.
    if unused == n_slots && asked.elapsed() < PULL_PAUSE {
        end.run_until_cancelled(tokio::time::sleep(PULL_PAUSE)).await;
    }
    // The loop is gone if nobody listens: nothing to tell.
    let _ = events.send(News::PullEnded { unused }).await;
}
