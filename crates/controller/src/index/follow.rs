//! Feeds the index, the hub and the waiters from the store, for as long as the controller lives.

use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use longshore_model::JobStatus;
use longshore_store::{Error as StoreError, Fact, FeedItem, Position};

use super::{Effect, Index};
use crate::app::App;
use crate::hub::{Item, RING_ITEMS, Source};
use crate::timeline;

/// Pause before the feed is asked for again.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

/// Follows the feed until the controller drains. A feed that ends is opened again where it ended, or from the beginning if the ledger was
/// set back.
pub(crate) async fn follow(app: App) {
    let mut position = Position::default();
    while !app.drain.is_cancelled() {
        let ended = tokio::select! {
            biased;
            () = app.drain.cancelled() => return,
            ended = read(&app, &mut position) => ended,
        };
        match ended {
            // What was stored after a backup, say, is no more, and what comes now has its places.
            Err(error @ StoreError::SetBack { .. }) => {
                tracing::error!(error = %crate::app::chain(&error), "the index is made again from what is stored now");
                position = Position::default();
                *app.index_mut() = Index::default();
            }
            Err(error) => tracing::warn!(error = %crate::app::chain(&error), "the feed ended and is opened again"),
            Ok(()) => {}
        }
        tokio::select! {
            biased;
            () = app.drain.cancelled() => return,
            () = tokio::time::sleep(REOPEN_AFTER) => {}
        }
    }
}

async fn read(app: &App, position: &mut Position) -> Result<(), StoreError> {
    let mut feed = app.store.feed.follow(*position).await?;
    let mut is_past = !app.index().is_caught_up();
    while let Some(item) = feed.next().await {
        match item? {
            FeedItem::CaughtUp => {
                app.index_mut().caught_up();
                is_past = false;
                tracing::info!("the index is complete");
            }
            FeedItem::Fact { position: place, at, n_behind, fact } => {
                *position = place;
                // Nobody follows all jobs before the past is read, and of the past the ring keeps what came last.
                let is_told = !is_past || n_behind < RING_ITEMS as u64;
                take(app, place, (at, app.now()), &fact, is_told);
            }
        }
    }
    Ok(())
}

/// Takes one fact, which was stored at `at`: the index first, so that whoever is woken finds it there.
fn take(app: &App, position: Position, (at, now): (Timestamp, Timestamp), fact: &Fact, is_told: bool) {
    app.waiters.tell(position, fact);
    let (job, source, Effect { status, is_settled }) = match fact {
        Fact::Defined(definition) => (definition.id, Source::Queue, app.index_mut().define(definition, at, now)),
        Fact::Happened { job, execution, event } => (*job, Source::Queue, app.index_mut().happen(*job, *execution, event, at, now)),
        Fact::Answered(answer) => (answer.job, Source::Responses, app.index_mut().answer(answer, position.responses, now)),
        Fact::Deleted(job) => {
            app.index_mut().delete(*job);
            (*job, Source::Deletion, Effect { status: None, is_settled: true })
        }
    };
    if is_told {
        let entry = match fact {
            Fact::Defined(definition) => timeline::submitted(definition, status.unwrap_or(JobStatus::Pending)),
            Fact::Happened { job, execution, event } => timeline::happened(*job, *execution, event, status),
            Fact::Answered(answer) => timeline::answered(answer, status),
            Fact::Deleted(job) => timeline::deleted(*job, now),
        };
        app.hub.publish(Item { position, source, entry, is_settled });
    } else {
        app.hub.pass_over(position);
    }
    // Whoever waits, waits for the end: being told of every step would wake each of thousands in vain.
    if status.is_none_or(JobStatus::is_final) {
        app.waiters.wake(job);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use futures::stream;
    use longshore_model::JobId;
    use longshore_store::{Feed, FeedStream, Store, memory};
    use tokio::sync::Notify;

    use super::*;
    use crate::reconcile::tests::{Bench, create};

    /// A ledger that is set back to an earlier one once everything of it was told.
    struct Restored {
        before: Store,
        after: Store,
        n_opened: AtomicUsize,
        /// Whether the test has seen the index of before.
        is_seen: Arc<Notify>,
    }

    #[async_trait]
    impl Feed for Restored {
        async fn follow(&self, from: Position) -> Result<FeedStream, StoreError> {
            match self.n_opened.fetch_add(1, Ordering::Relaxed) {
                0 => {
                    let is_told = |item: &Result<FeedItem, StoreError>| !matches!(item, Ok(FeedItem::CaughtUp));
                    let told = self.before.feed.follow(from).await?.take_while(move |item| std::future::ready(is_told(item)));
                    let is_seen = Arc::clone(&self.is_seen);
                    let end = stream::once(async move {
                        is_seen.notified().await;
                        Err(StoreError::SetBack { store: "the ledger".to_owned() })
                    });
                    Ok(told.chain(stream::iter([Ok(FeedItem::CaughtUp)])).chain(end).boxed())
                }
                _ => {
                    assert_eq!(from, Position::default(), "it is read from the beginning");
                    self.after.feed.follow(from).await
                }
            }
        }
    }

    #[tokio::test]
    async fn an_index_whose_ledger_was_set_back_is_made_again_from_what_is_stored() {
        let [before, after] = [(); 2].map(|()| memory::open(memory::MemoryOptions::default()));
        let (kept, _) = create(&before, 1).await;
        let (lost, _) = create(&before, 2).await;
        create(&after, 1).await;
        let (new, _) = create(&after, 3).await;
        let is_seen = Arc::new(Notify::new());
        let feed = Arc::new(Restored { before, after: after.clone(), n_opened: AtomicUsize::new(0), is_seen: Arc::clone(&is_seen) });
        let bench = Bench::on(&Store { feed, ..after });
        bench.index(|index| index.is_caught_up() && index.get(lost).is_some()).await;
        is_seen.notify_one();
        bench.index(|index| index.is_caught_up() && index.get(new).is_some()).await;
        let index = bench.app.index();
        assert!(index.get(lost).is_none() && index.get(kept).is_some());
        assert_eq!(index.counts()["pending"], 2);
        assert_eq!(new, JobId::from_bits(3));
    }
}
