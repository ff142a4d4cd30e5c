//! The feed from the two buckets of the ledger, and the hint of deletions.

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use longshore_model::JobId;

use super::link::{Shared, from_json, timestamp};
use super::tail::{From, Item, Reading, Tail};
use crate::layout::{Layout, QueueKey};
use crate::{Error, Fact, Feed, FeedItem, FeedStream, Position};

pub(super) struct JetStreamFeed {
    link: Shared,
}

impl JetStreamFeed {
    pub(super) fn new(link: Shared) -> Self {
        Self { link }
    }
}

#[async_trait]
impl Feed for JetStreamFeed {
    async fn follow(&self, from: Position) -> Result<FeedStream, Error> {
        let layout = &self.link.layout;
        let queue = Layout::bucket_stream(&layout.queue_bucket);
        let responses = Layout::bucket_stream(&layout.response_bucket);
        let deleted = self.link.client.subscribe(layout.deleted()).await.map_err(|fault| Error::unavailable("opening the feed", fault))?;
        let deletions = deleted.filter_map(|message| async move { std::str::from_utf8(&message.payload).ok()?.parse::<JobId>().ok() });
        let merged = Merged {
            link: self.link.clone(),
            queue: Tail::open(self.link.clone(), queue, layout.histories(), From::Place(from.queue)).await?.run(),
            responses: Tail::open(
                self.link.clone(),
                responses,
                Layout::bucket_subjects(&layout.response_bucket),
                From::Place(from.responses),
            )
            .await?
            .run(),
            deletions: deletions.boxed(),
            position: from,
            queue_is_current: false,
            responses_is_current: false,
        };
        Ok(stream::unfold(Some(merged), |state| async move {
            let mut merged = state?;
            match merged.next().await {
                Ok(item) => Some((Ok(item), Some(merged))),
                Err(fault) => Some((Err(fault), None)),
            }
        })
        .boxed())
    }
}

struct Merged {
    link: Shared,
    queue: Reading,
    responses: Reading,
    deletions: BoxStream<'static, JobId>,
    position: Position,
    queue_is_current: bool,
    responses_is_current: bool,
}

enum Source {
    Queue(Item),
    Responses(Item),
    Deleted(JobId),
}

impl Merged {
    async fn next(&mut self) -> Result<FeedItem, Error> {
        loop {
            let source = tokio::select! {
                item = self.queue.next() => Source::Queue(item?),
                // Answers wait until everything they belong to has been told: a reader need not keep them aside.
                item = self.responses.next(), if self.queue_is_current => Source::Responses(item?),
                Some(job) = self.deletions.next() => Source::Deleted(job),
            };
            let was_current = self.queue_is_current && self.responses_is_current;
            match source {
                Source::Queue(Item::Current) => self.queue_is_current = true,
                Source::Responses(Item::Current) => self.responses_is_current = true,
                Source::Deleted(job) => {
                    return Ok(FeedItem::Fact { position: self.position, at: jiff::Timestamp::UNIX_EPOCH, fact: Fact::Deleted(job) });
                }
                Source::Queue(Item::Message(message, place)) => {
                    self.position.queue = place;
                    if let Some(fact) = self.queue_fact(&message) {
                        return Ok(self.item(&message, fact));
                    }
                }
                Source::Responses(Item::Message(message, place)) => {
                    self.position.responses = place;
                    if let Some(answer) = readable(from_json(&message.subject, &message.payload)) {
                        return Ok(self.item(&message, Fact::Answered(Box::new(answer))));
                    }
                }
            }
            if !was_current && self.queue_is_current && self.responses_is_current {
                return Ok(FeedItem::CaughtUp);
            }
        }
    }

    fn item(&self, message: &async_nats::jetstream::Message, fact: Fact) -> FeedItem {
        let at = message.info().map_or(jiff::Timestamp::UNIX_EPOCH, |info| timestamp(info.published));
        FeedItem::Fact { position: self.position, at, fact }
    }

    fn queue_fact(&self, message: &async_nats::jetstream::Message) -> Option<Fact> {
        match self.link.layout.parse_queue_key(&message.subject)? {
            QueueKey::Share(..) => None,
            QueueKey::Definition(_) => {
                readable(from_json(&message.subject, &message.payload)).map(|definition| Fact::Defined(Box::new(definition)))
            }
            QueueKey::Event(job, execution) => {
                readable(from_json(&message.subject, &message.payload)).map(|event| Fact::Happened { job, execution, event })
            }
        }
    }
}

/// A record that cannot be read is reported and passed over: one bad record must not stop the index.
fn readable<T>(record: Result<T, Error>) -> Option<T> {
    record.inspect_err(|error| tracing::error!(%error, source = ?std::error::Error::source(error), "unreadable record in the ledger")).ok()
}
