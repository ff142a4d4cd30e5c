//! The feed: a cursor over the two sequences, first up to where they were when the reader came, then on.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream;

use super::{Memory, Shared};
use crate::{Error, Feed, FeedItem, FeedStream, Position, Revision};

struct Reader {
    shared: Arc<Shared>,
    position: Position,
    phase: Phase,
    deletions_told: u64,
}

/// While catching up, nothing beyond the end is told, so that a busy sequence cannot hold off [`FeedItem::CaughtUp`].
#[derive(Clone, Copy)]
enum Phase {
    CatchingUp { end: Position },
    Live,
}

#[async_trait]
impl Feed for Memory {
    async fn follow(&self, from: Position) -> Result<FeedStream, Error> {
        let (end, deletions_told) = {
            let records = &self.0.state().records;
            (records.end(), records.deletions())
        };
        let phase = Phase::CatchingUp { end };
        let reader = Reader { shared: Arc::clone(&self.0), position: from, phase, deletions_told };
        Ok(stream::unfold(reader, |mut reader| async move { reader.next().await.map(|item| (Ok(item), reader)) }).boxed())
    }
}

impl Reader {
    async fn next(&mut self) -> Option<FeedItem> {
        loop {
            let shared = Arc::clone(&self.shared);
            let changed = shared.signals.records.notified();
            if let Some(item) = self.advance() {
                return Some(item);
            }
            changed.await;
        }
    }

    fn advance(&mut self) -> Option<FeedItem> {
        let shared = Arc::clone(&self.shared);
        let records = &shared.state().records;
        let end = match self.phase {
            Phase::CatchingUp { end } => end,
            Phase::Live => Position { queue: Revision::MAX, responses: Revision::MAX },
        };
        if let Some((revision, at, fact)) = records.next_in_queue(self.position.queue, end.queue) {
            self.position.queue = revision;
            return Some(FeedItem::Fact { position: self.position, at, n_behind: 0, fact });
        }
        if let Some((revision, at, fact)) = records.next_in_responses(self.position.responses, end.responses) {
            self.position.responses = revision;
            return Some(FeedItem::Fact { position: self.position, at, n_behind: 0, fact });
        }
        match self.phase {
            Phase::CatchingUp { .. } => {
                self.phase = Phase::Live;
                Some(FeedItem::CaughtUp)
            }
            Phase::Live => {
                let (count, at, fact) = records.next_deletion(self.deletions_told)?;
                self.deletions_told = count;
                Some(FeedItem::Fact { position: self.position, at, n_behind: 0, fact })
            }
        }
    }
}
