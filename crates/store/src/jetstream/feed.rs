//! The feed from the two buckets of the ledger, and the hint of deletions.

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use longshore_model::JobId;

use super::link::{Shared, from_json};
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
        let histories = Tail::open(self.link.clone(), queue, layout.histories(), From::Place(from.queue)).await?;
        let answers = Layout::bucket_subjects(&layout.response_bucket);
        let answers = Tail::open(self.link.clone(), responses, answers, From::Place(from.responses)).await?;
        let link = self.link.clone();
        let merged = Merged {
            // Records are read in the tasks that receive them, beside whoever takes the facts: an index of millions is waited for.
            queue: histories.run_as(move |message| queue_fact(&link.layout, &message)),
            responses: answers.run_as(|message| readable(from_json(&message.subject, &message.payload)).map(Fact::Answered)),
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
    /// Facts, and `None` for what tells none.
    queue: Reading<Option<Fact>>,
    responses: Reading<Option<Fact>>,
    deletions: BoxStream<'static, JobId>,
    position: Position,
    queue_is_current: bool,
    responses_is_current: bool,
}

enum Source {
    Queue(Item<Option<Fact>>),
    Responses(Item<Option<Fact>>),
    Deleted(JobId),
}

impl Merged {
    async fn next(&mut self) -> Result<FeedItem, Error> {
        loop {
            let source = self.source().await?;
            let was_current = self.queue_is_current && self.responses_is_current;
            let told = match source {
                Source::Queue(Item::Current) => {
                    self.queue_is_current = true;
                    None
                }
                Source::Responses(Item::Current) => {
                    self.responses_is_current = true;
                    None
                }
                Source::Deleted(job) => {
                    let at = jiff::Timestamp::UNIX_EPOCH;
                    return Ok(FeedItem::Fact { position: self.position, at, n_behind: 0, fact: Fact::Deleted(job) });
                }
                Source::Queue(Item::Message(fact, place)) => {
                    self.position.queue = place.sequence;
                    fact.map(|fact| (fact, place))
                }
                Source::Responses(Item::Message(fact, place)) => {
                    self.position.responses = place.sequence;
                    fact.map(|fact| (fact, place))
                }
            };
            if let Some((fact, place)) = told {
                return Ok(FeedItem::Fact { position: self.position, at: place.stored_at, n_behind: place.n_behind, fact });
            }
            if !was_current && self.queue_is_current && self.responses_is_current {
                return Ok(FeedItem::CaughtUp);
            }
        }
    }

    /// Cancel-safe.
    async fn source(&mut self) -> Result<Source, Error> {
        // What is here already needs no waiting; a batch is short, so nobody is kept waiting by it for long.
        if let Some(item) = self.queue.next_here() {
            return item.map(Source::Queue);
        }
        if self.queue_is_current
            && let Some(item) = self.responses.next_here()
        {
            return item.map(Source::Responses);
        }
        tokio::select! {
            item = self.queue.next() => item.map(Source::Queue),
            // Answers wait until everything they belong to has been told: a reader need not keep them aside.
            item = self.responses.next(), if self.queue_is_current => item.map(Source::Responses),
            Some(job) = self.deletions.next() => Ok(Source::Deleted(job)),
        }
    }
}

fn queue_fact(layout: &Layout, message: &async_nats::Message) -> Option<Fact> {
    match layout.parse_queue_key(&message.subject)? {
        QueueKey::Share(..) => None,
        QueueKey::Definition(_) => readable(from_json(&message.subject, &message.payload)).map(Fact::Defined),
        QueueKey::Event(job, execution) => {
            readable(from_json(&message.subject, &message.payload)).map(|event| Fact::Happened { job, execution, event })
        }
    }
}

/// A record that cannot be read is reported and passed over: one bad record must not stop the index.
fn readable<T>(record: Result<T, Error>) -> Option<T> {
    record.inspect_err(|error| tracing::error!(%error, source = ?std::error::Error::source(error), "unreadable record in the ledger")).ok()
}
