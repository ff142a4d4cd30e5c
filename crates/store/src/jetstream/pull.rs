//! One pull: a request for work, and what comes of it.
//!
//! Written out rather than taken from the client: its batch stream loses the wake-up of whatever follows an idle heartbeat, and does not
//! notice missing ones (async-nats 0.51).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::consumer::{Consumer, pull};
use async_nats::{StatusCode, Subscriber, jetstream};
use futures::StreamExt;
use futures::stream::{self, Stream};
use tokio::sync::broadcast;

use super::link::{Shared, TRY};
use crate::Error;

/// How long one pull waits for work. Short enough that an agent that goes away leaves no request behind for long.
const WAITS: Duration = Duration::from_secs(30);
/// The broker's sign of life while a pull waits.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Silence after which the broker has forgotten the pull.
const SILENCE_MAX: Duration = Duration::from_secs(5);

struct Pull {
    link: Shared,
    subscription: Subscriber,
    reconnects: broadcast::Receiver<()>,
    left: usize,
    is_doubtful: Arc<AtomicBool>,
}

/// Asks for up to `max` messages. The stream ends when they have come, when the request has expired or failed, or when the connection
/// was lost: the broker forgets requests of a connection that ends.
pub(super) async fn pull(
    link: Shared,
    consumer: &Consumer<pull::Config>,
    max: usize,
    is_doubtful: Arc<AtomicBool>,
) -> Result<impl Stream<Item = jetstream::Message> + use<>, Error> {
    const DOING: &str = "asking for work";
    let reconnects = link.reconnects.subscribe();
    let inbox = link.client.new_inbox();
    let subscription = link.client.subscribe(inbox.clone()).await.map_err(|fault| Error::unavailable(DOING, fault))?;
    let request = pull::BatchConfig { batch: max, expires: Some(WAITS), idle_heartbeat: HEARTBEAT, ..pull::BatchConfig::default() };
    consumer.request_batch(request, inbox.into()).await.map_err(|fault| Error::unavailable(DOING, fault))?;
    let pull = Pull { link, subscription, reconnects, left: max, is_doubtful };
    Ok(stream::unfold(pull, |mut pull| async move { Some((pull.next().await?, pull)) }))
}

/// Takes up to `max` messages that are there now.
pub(super) async fn pull_now(link: Shared, consumer: &Consumer<pull::Config>, max: usize) -> Result<Vec<jetstream::Message>, Error> {
    const DOING: &str = "taking work";
    let inbox = link.client.new_inbox();
    let mut subscription = link.client.subscribe(inbox.clone()).await.map_err(|fault| Error::unavailable(DOING, fault))?;
    let request = pull::BatchConfig { batch: max, no_wait: true, ..pull::BatchConfig::default() };
    consumer.request_batch(request, inbox.into()).await.map_err(|fault| Error::unavailable(DOING, fault))?;
    let mut messages = Vec::new();
    while messages.len() < max {
        let Ok(Some(message)) = tokio::time::timeout(TRY, subscription.next()).await else { break };
        match message.status {
            None | Some(StatusCode::OK) => messages.push(jetstream::Message { message, context: link.context.clone() }),
            Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => break,
            Some(status) if messages.is_empty() => {
                return Err(Error::Unavailable { doing: DOING, source: Some(format!("the broker says {status}").into()) });
            }
            Some(_) => break,
        }
    }
    Ok(messages)
}

impl Pull {
    async fn next(&mut self) -> Option<jetstream::Message> {
        while self.left > 0 {
            let message = tokio::select! {
                biased;
                message = self.subscription.next() => message?,
                _ = self.reconnects.recv() => return None,
                () = tokio::time::sleep(SILENCE_MAX) => return None,
            };
            match message.status {
                None | Some(StatusCode::OK) => {
                    self.left -= 1;
                    return Some(jetstream::Message { message, context: self.link.context.clone() });
                }
                Some(StatusCode::IDLE_HEARTBEAT) => {}
                Some(StatusCode::TIMEOUT) => return None,
                // Refused, nobody there: the next pull looks for the consumer again.
                Some(_) => {
                    self.is_doubtful.store(true, Ordering::Relaxed);
                    return None;
                }
            }
        }
        None
    }
}
