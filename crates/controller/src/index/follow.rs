//! Feeds the index, the hub and the waiters from the store, for as long as the controller lives.

use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use longshore_model::JobStatus;
use longshore_store::{Fact, FeedItem, Position};

use super::Effect;
use crate::app::App;
use crate::hub::{Item, RING_ITEMS, Source};
use crate::timeline;

/// Pause before the feed is asked for again.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

/// Follows the feed until the controller drains. A feed that ends is opened again where it ended.
pub(crate) async fn follow(app: App) {
    let mut position = Position::default();
    while !app.drain.is_cancelled() {
        let ended = tokio::select! {
            biased;
            () = app.drain.cancelled() => return,
            ended = read(&app, &mut position) => ended,
        };
        if let Err(error) = ended {
            tracing::warn!(error = %crate::app::chain(&error), "the feed ended and is opened again");
        }
        tokio::select! {
            biased;
            () = app.drain.cancelled() => return,
            () = tokio::time::sleep(REOPEN_AFTER) => {}
        }
    }
}

async fn read(app: &App, position: &mut Position) -> Result<(), longshore_store::Error> {
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
