//! The feed as a controller sees it: each of the two sequences in order, the one before the other or after it, with hints that are lost and
//! ends that come early.

use std::collections::VecDeque;

use async_trait::async_trait;
use futures::{FutureExt as _, StreamExt as _, stream};
use jiff::Timestamp;
use longshore_store::{Error, Fact, Feed, FeedItem, FeedStream, Position};

use super::Kind::Read;
use super::Link;
use crate::plant::Bug;

/// Told to nobody yet.
struct Reader {
    link: Link,
    inner: FeedStream,
    position: Position,
    queue: VecDeque<(Position, Timestamp, Fact)>,
    answers: VecDeque<(Position, Timestamp, Fact)>,
    is_catching_up_over: bool,
}

#[async_trait]
impl Feed for Link {
    async fn follow(&self, from: Position) -> Result<FeedStream, Error> {
        let world = self.world.clone();
        let inner = self.ask(Read, "following", String::new, async move { world.raw.feed.follow(from).await }).await?;
        let reader = Reader {
            link: self.clone(),
            inner,
            position: from,
            queue: VecDeque::new(),
            answers: VecDeque::new(),
            is_catching_up_over: false,
        };
        Ok(stream::unfold(reader, |mut reader| async move { reader.next().await.map(|item| (item, reader)) }).boxed())
    }
}

impl Reader {
    async fn next(&mut self) -> Option<Result<FeedItem, Error>> {
        loop {
            // Everything that is there, so that there is something to choose from.
            while !self.is_catching_up_over
                && let Some(item) = self.inner.next().now_or_never()
            {
                self.take(item?)?;
            }
            let weather = self.link.world.weather();
            if self.link.strikes(weather.broken) {
                return Some(Err(Error::Unavailable { doing: "following", source: None }));
            }
            if let Some((_, at, fact)) = self.choose() {
                self.link.world.connected(self.link.me).await;
                if self.link.strikes(weather.slow / 4) {
                    self.link.travel().await;
                }
                let is_missed = matches!(fact, Fact::Answered(_)) && self.link.world.is(Bug::IndexMissesAnswers) && self.link.strikes(50);
                let is_lost_hint = matches!(fact, Fact::Deleted(_)) && self.link.strikes(weather.lost);
                if is_missed || is_lost_hint {
                    continue;
                }
                return Some(Ok(FeedItem::Fact { position: self.position, at, n_behind: 0, fact }));
            }
            if std::mem::take(&mut self.is_catching_up_over) {
                return Some(Ok(FeedItem::CaughtUp));
            }
            let item = self.inner.next().await?;
            self.link.travel().await;
            self.take(item)?;
        }
    }

    fn take(&mut self, item: Result<FeedItem, Error>) -> Option<()> {
        match item.ok()? {
            FeedItem::CaughtUp => self.is_catching_up_over = true,
            FeedItem::Fact { position, at, fact: fact @ Fact::Answered(_), .. } => self.answers.push_back((position, at, fact)),
            FeedItem::Fact { position, at, fact, .. } => self.queue.push_back((position, at, fact)),
        }
        Some(())
    }

    fn choose(&mut self) -> Option<(Position, Timestamp, Fact)> {
        let answer_first = match (self.queue.is_empty(), self.answers.is_empty()) {
            (true, _) => true,
            (false, true) => false,
            (false, false) => self.link.strikes(500),
        };
        if answer_first {
            let told = self.answers.pop_front()?;
            self.position.responses = told.0.responses;
            Some(told)
        } else {
            let told = self.queue.pop_front()?;
            self.position.queue = told.0.queue;
            Some(told)
        }
    }
}
