//! Reading a stream from a place on, for ever: what feeds, logs and the registry share.

use std::time::Duration;

use async_nats::Message;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use jiff::Timestamp;
use tokio::sync::{broadcast, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::link::{Shared, timestamp};
use super::pass::{Pass, Place};
use crate::{Error, Revision};

/// After a fault, before the next pass begins.
const PAUSE: Duration = Duration::from_millis(100);
/// Tries to begin again before the stream counts as gone, at one every [`PAUSE`] to 2 s.
const TRIES: u32 = 900;

/// Items that are handed over at once, if they are there: waking the reader for each costs as much as reading it.
const BATCH: usize = 64;
/// Batches read ahead of the reader.
const AHEAD: usize = 4;

/// Where to begin.
#[derive(Debug, Clone, Copy)]
pub(super) enum From {
    /// After this place; 0 is the beginning.
    Place(Revision),
    /// With the newest message of every subject.
    Newest,
}

/// What is read.
pub(super) enum Item<M = Box<Message>> {
    Message(M, Place),
    /// Everything that was there at the start has been given. Said once.
    Current,
}

/// A reader that survives broker restarts and gives every message once, in order. It ends with an error where its stream was set back.
pub(super) struct Tail {
    link: Shared,
    stream: String,
    filter: String,
    from: From,
    /// When the message at the place was stored that was read last.
    read_at: Option<Timestamp>,
    pass: Option<Pass>,
    is_current: bool,
    /// `Current` is due: the pass began while nothing was waiting, or the last message said so.
    owes_current: bool,
    reconnects: broadcast::Receiver<()>,
}

/// A reader at work.
pub(super) struct Reading<M = Box<Message>> {
    receiver: mpsc::Receiver<Vec<Result<Item<M>, Error>>>,
    here: std::vec::IntoIter<Result<Item<M>, Error>>,
    _task: AbortOnDropHandle<()>,
}

impl<M> Reading<M> {
    /// The next item. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Item<M>, Error> {
        let gone = || Error::Unavailable { doing: "reading on", source: None };
        loop {
            if let Some(item) = self.here.next() {
                return item;
            }
            self.here = self.receiver.recv().await.ok_or_else(gone)?.into_iter();
        }
    }

    /// The next item of a batch that is here.
    pub(super) fn next_here(&mut self) -> Option<Result<Item<M>, Error>> {
        self.here.next()
    }
}

impl Tail {
    /// Opens a reader. Its first pass begins at once, so that nothing that is written afterwards is missed.
    pub(super) async fn open(link: Shared, stream: String, filter: String, from: From) -> Result<Self, Error> {
        let reconnects = link.reconnects.subscribe();
        let mut tail = Self { link, stream, filter, from, read_at: None, pass: None, is_current: false, owes_current: false, reconnects };
        tail.begin().await?;
        Ok(tail)
    }

    /// Reads in a task of its own, a little ahead of the reader, until the receiver is dropped. After an `Err` nothing follows.
    pub(super) fn run(self) -> Reading {
        self.run_as(|message| message)
    }

    /// [`Self::run`], and makes of each message in that task what the reader wants of it.
    pub(super) fn run_as<M: Send + 'static>(mut self, mut read: impl FnMut(Box<Message>) -> M + Send + 'static) -> Reading<M> {
        let (batches, receiver) = mpsc::channel(AHEAD);
        let mut read = move |item: Result<Item, Error>| -> Result<Item<M>, Error> {
            Ok(match item? {
                Item::Message(message, place) => Item::Message(read(message), place),
                Item::Current => Item::Current,
            })
        };
        #[expect(clippy::disallowed_methods, reason = "the handle below owns the task")]
        let task = tokio::spawn(async move {
            loop {
                let first = self.next().await;
                let mut batch = vec![read(first)];
                while batch.len() < BATCH
                    && let Some(item) = self.next_here()
                {
                    batch.push(read(Ok(item)));
                }
                let is_end = batch.first().is_some_and(Result::is_err);
                if batches.send(batch).await.is_err() || is_end {
                    return;
                }
            }
        });
        Reading { receiver, here: Vec::new().into_iter(), _task: AbortOnDropHandle::new(task) }
    }

    /// The next item. Not cancel-safe: [`Tail::run`] is what to select on.
    pub(super) async fn next(&mut self) -> Result<Item, Error> {
        loop {
            if let Some(item) = self.current() {
                return Ok(item);
            }
            let Some(pass) = self.pass.as_mut() else {
                self.reopen().await?;
                continue;
            };
            let told = tokio::select! {
                told = pass.next() => told,
                // The consumer may have gone with the old connection; finding out by silence would take many seconds.
                _ = self.reconnects.recv() => {
                    self.pass = None;
                    continue;
                }
            };
            match told {
                Some((message, place)) => {
                    if let Some(item) = self.take(message, place) {
                        return Ok(item);
                    }
                }
                None => {
                    tracing::debug!(stream = %self.stream, "reader interrupted");
                    self.pass = None;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// The next item, if it has come already.
    fn next_here(&mut self) -> Option<Item> {
        loop {
            if let Some(item) = self.current() {
                return Some(item);
            }
            let (message, place) = self.pass.as_mut()?.next_here()?;
            if let Some(item) = self.take(message, place) {
                return Some(item);
            }
        }
    }

    fn current(&mut self) -> Option<Item> {
        self.is_current |= self.owes_current;
        std::mem::take(&mut self.owes_current).then_some(Item::Current)
    }

    /// `None` if it was given before.
    fn take(&mut self, message: Message, place: Place) -> Option<Item> {
        if let From::Place(last) = self.from
            && place.sequence <= last
        {
            return None;
        }
        self.from = From::Place(place.sequence);
        self.read_at = Some(place.stored_at);
        self.owes_current = !self.is_current && place.n_behind == 0;
        Some(Item::Message(Box::new(message), place))
    }

    async fn reopen(&mut self) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            match self.begin().await {
                Ok(()) => return Ok(()),
                Err(fault) if tries >= TRIES || matches!(fault, Error::SetBack { .. }) => return Err(fault),
                Err(_) => {
                    tries += 1;
                    tokio::time::sleep(PAUSE.saturating_mul(tries.min(20))).await;
                }
            }
        }
    }

    /// Whether the stream still has what was read of it: one that lost its end would be passed over in silence until it has grown to the
    /// same place again.
    async fn is_what_was_read(&self) -> Result<(), Error> {
        const DOING: &str = "looking where a reader was";
        let From::Place(place @ 1..) = self.from else { return Ok(()) };
        let stream = self.link.stream(&self.stream, DOING).await?;
        let info = stream.get_info().await.map_err(|fault| Error::unavailable(DOING, fault))?;
        let mut is_same = info.state.last_sequence >= place;
        if let (true, Some(read_at)) = (is_same, self.read_at) {
            // It may have grown since. What was removed there tells nothing.
            let there = self.link.read_next(&stream, &self.filter, place, DOING).await?.filter(|there| there.sequence == place);
            is_same = there.is_none_or(|there| timestamp(there.time) == read_at);
        }
        if is_same { Ok(()) } else { Err(Error::SetBack { store: self.stream.clone() }) }
    }

    async fn begin(&mut self) -> Result<(), Error> {
        self.is_what_was_read().await?;
        let deliver_policy = match self.from {
            From::Place(0) => DeliverPolicy::All,
            From::Place(place) => DeliverPolicy::ByStartSequence { start_sequence: place + 1 },
            From::Newest => DeliverPolicy::LastPerSubject,
        };
        let config = OrderedConfig { filter_subject: self.filter.clone(), deliver_policy, ..OrderedConfig::default() };
        let (pass, n_waiting) = Pass::begin(&self.link, &self.stream, config).await?;
        // What was said before this moment concerns the pass before this one.
        self.reconnects = self.reconnects.resubscribe();
        self.owes_current = !self.is_current && n_waiting == 0;
        self.pass = Some(pass);
        Ok(())
    }
}
