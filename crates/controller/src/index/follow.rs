//! Feeds the index, the hub and the waiters from the store, for as long as the controller lives.

use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use longshore_store::{Fact, FeedItem, Position};

use crate::app::App;
use crate::hub::{Item, Source};
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
    while let Some(item) = feed.next().await {
        match item? {
            FeedItem::CaughtUp => {
                app.index_mut().caught_up();
                tracing::info!("the index is complete");
            }
            FeedItem::Fact { position: place, at, fact } => {
                *position = place;
                take(app, place, at, fact, app.now());
            }
        }
    }
    Ok(())
}

/// Takes one fact: the index first, so that whoever is woken finds it there.
fn take(app: &App, position: Position, at: Timestamp, fact: Fact, now: Timestamp) {
    app.waiters.tell(position, &fact);
    let (source, entry, is_settled) = match fact {
        Fact::Defined(definition) => {
            let effect = app.index_mut().define(&definition, at, now);
            let status = effect.status.unwrap_or(longshore_model::JobStatus::Pending);
            (Source::Queue, timeline::submitted(&definition, status), effect.is_settled)
        }
        Fact::Happened { job, execution, event } => {
            let effect = app.index_mut().happen(job, execution, &event, at, now);
            (Source::Queue, timeline::happened(job, execution, &event, effect.status), effect.is_settled)
        }
        Fact::Answered(answer) => {
            let effect = app.index_mut().answer(&answer, position.responses, now);
            (Source::Responses, timeline::answered(&answer, effect.status), effect.is_settled)
        }
        Fact::Deleted(job) => {
            app.index_mut().delete(job);
            (Source::Deletion, timeline::deleted(job, now), true)
        }
    };
    let job = entry.job;
    app.hub.publish(Item { position, source, entry, is_settled });
    app.waiters.wake(job);
}
