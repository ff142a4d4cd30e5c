//! Reading a stream from a place on, for ever: what feeds, logs and the registry share.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use futures::StreamExt;
use tokio::sync::{broadcast, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::link::Shared;
use crate::{Error, Revision};

/// After a fault, before the consumer is made again.
const PAUSE: Duration = Duration::from_millis(100);
/// Tries to make the consumer again before the stream counts as gone, at one every [`PAUSE`] to 2 s.
const TRIES: u32 = 900;

/// Items read ahead of the reader.
const AHEAD: usize = 256;

/// Where to begin.
#[derive(Debug, Clone, Copy)]
pub(super) enum From {
    /// After this place; 0 is the beginning.
    Place(Revision),
    /// With the newest message of every subject.
    Newest,
}

/// What is read.
pub(super) enum Item {
    Message(Box<jetstream::Message>, Revision),
    /// Everything that was there at the start has been given. Said once.
    Current,
}

/// A reader that survives broker restarts and gives every message once, in order.
pub(super) struct Tail {
    link: Shared,
    stream: String,
    filter: String,
    from: From,
    consumer: Option<Ordered>,
    is_current: bool,
    /// `Current` is due: the consumer was made while nothing was waiting, or the last message said so.
    owes_current: bool,
    reconnects: broadcast::Receiver<()>,
}

/// A reader at work.
pub(super) struct Reading {
    receiver: mpsc::Receiver<Result<Item, Error>>,
    _task: AbortOnDropHandle<()>,
}

impl Reading {
    /// The next item. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Item, Error> {
        let gone = || Error::Unavailable { doing: "reading on", source: None };
        self.receiver.recv().await.unwrap_or_else(|| Err(gone()))
    }
}

impl Tail {
    /// Opens a reader. The first consumer is made at once, so that nothing that is written afterwards is missed.
    pub(super) async fn open(link: Shared, stream: String, filter: String, from: From) -> Result<Self, Error> {
        let reconnects = link.reconnects.subscribe();
        let mut tail = Self { link, stream, filter, from, consumer: None, is_current: false, owes_current: false, reconnects };
        tail.make_consumer().await?;
        Ok(tail)
    }

    /// Reads in a task of its own, a little ahead of the reader, until the receiver is dropped. After an `Err` nothing follows.
    pub(super) fn run(mut self) -> Reading {
        let (items, receiver) = mpsc::channel(AHEAD);
        #[expect(clippy::disallowed_methods, reason = "the handle below owns the task")]
        let task = tokio::spawn(async move {
            loop {
                let item = self.next().await;
                let is_end = item.is_err();
                if items.send(item).await.is_err() || is_end {
                    return;
                }
            }
        });
        Reading { receiver, _task: AbortOnDropHandle::new(task) }
    }

    /// The next item. Not cancel-safe while the consumer is made again: [`Tail::run`] is what to select on.
    pub(super) async fn next(&mut self) -> Result<Item, Error> {
        loop {
            if self.owes_current {
                self.owes_current = false;
                self.is_current = true;
                return Ok(Item::Current);
            }
            if self.consumer.is_none() {
                self.reopen().await?;
                continue;
            }
            let Some(messages) = self.consumer.as_mut() else { continue };
            let message = tokio::select! {
                message = messages.next() => message,
                // The consumer may have gone with the old connection; finding out by missed heartbeats would take many seconds.
                _ = self.reconnects.recv() => None,
            };
            match message {
                Some(Ok(message)) => {
                    let Ok(info) = message.info() else { continue };
                    let (place, pending) = (info.stream_sequence, info.pending);
                    if let From::Place(last) = self.from
                        && place <= last
                    {
                        continue;
                    }
                    self.from = From::Place(place);
                    self.owes_current = !self.is_current && pending == 0;
                    return Ok(Item::Message(Box::new(message), place));
                }
                Some(Err(fault)) => {
                    tracing::debug!(stream = %self.stream, error = %fault, "reader interrupted");
                    self.consumer = None;
                    tokio::time::sleep(PAUSE).await;
                }
                None => self.consumer = None,
            }
        }
    }

    async fn reopen(&mut self) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            match self.make_consumer().await {
                Ok(()) => return Ok(()),
                Err(fault) if tries >= TRIES => return Err(fault),
                Err(_) => {
                    tries += 1;
                    tokio::time::sleep(PAUSE.saturating_mul(tries.min(20))).await;
                }
            }
        }
    }

    async fn make_consumer(&mut self) -> Result<(), Error> {
        const DOING: &str = "opening a reader";
        let deliver_policy = match self.from {
            From::Place(0) => DeliverPolicy::All,
            From::Place(place) => DeliverPolicy::ByStartSequence { start_sequence: place + 1 },
            From::Newest => DeliverPolicy::LastPerSubject,
        };
        let config = OrderedConfig { filter_subject: self.filter.clone(), deliver_policy, ..OrderedConfig::default() };
        let stream = self.link.stream(&self.stream, DOING).await?;
        let consumer = stream.create_consumer(config).await.map_err(|fault| Error::unavailable(DOING, fault))?;
        // What was said before this moment concerns the consumer before this one.
        self.reconnects = self.reconnects.resubscribe();
        self.owes_current = !self.is_current && consumer.cached_info().num_pending == 0;
        self.consumer = Some(consumer.messages().await.map_err(|fault| Error::unavailable(DOING, fault))?);
        Ok(())
    }
}
