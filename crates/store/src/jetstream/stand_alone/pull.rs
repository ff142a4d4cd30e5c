//! Asking for requests, one at a time, such that none is forgotten that the broker has handed out.

use std::time::Duration;

use async_nats::jetstream::consumer::pull::BatchConfig;
use async_nats::{StatusCode, Subject, Subscriber, jetstream};
use futures::StreamExt;
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Request, Requests};
use crate::Error;

/// How long the broker keeps one question. Short enough that a worker that goes away leaves none behind for long.
const WAITS: Duration = Duration::from_secs(30);
/// The broker's sign of life meanwhile.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Silence after which the broker has forgotten the question.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Before asking again what was refused or met nobody.
const PAUSE: Duration = Duration::from_millis(250);
/// How long what is on its way may take when no more is wanted.
const LAST_WITHIN: Duration = Duration::from_secs(2);

/// Whoever asks.
pub struct Pull {
    requests: Requests,
    inbox: Subject,
    subscription: Subscriber,
    reconnects: broadcast::Receiver<()>,
    is_asked: bool,
    /// Questions that the broker may answer yet, those of lost connections among them.
    unanswered: usize,
    /// Which connection it was asked on.
    asked_on: u64,
}

enum News {
    Message(Option<async_nats::Message>),
    Connected,
    Silence,
    Deadline,
}

impl Requests {
    /// Begins to ask for requests.
    ///
    /// # Errors
    /// The connection is gone for good.
    pub async fn pull(&self) -> Result<Pull, Error> {
        let client = &self.0.client;
        let reconnects = self.0.reconnects.subscribe();
        let inbox: Subject = client.new_inbox().into();
        let subscription = client.subscribe(inbox.clone()).await.map_err(|fault| Error::unavailable("asking for requests", fault))?;
        Ok(Pull { requests: self.clone(), inbox, subscription, reconnects, is_asked: false, unanswered: 0, asked_on: 0 })
    }
}

impl Pull {
    /// The next request, or nothing when `deadline` has passed. Goes on over lost connections, and makes the stream and the consumer
    /// again if somebody has removed them. Cancel-safe: what has come meanwhile comes with the next call, or with [`Self::close`].
    ///
    /// # Errors
    /// The deadline has passed and the broker is not there, or the consumer cannot be used any more.
    pub async fn next(&mut self, deadline: Option<Instant>) -> Result<Option<Request>, Error> {
        loop {
            if !self.is_asked && self.requests.is_connected() {
                self.ask(deadline).await?;
            }
            let quiet = if self.is_asked { SILENCE_MAX } else { PAUSE };
            let news = tokio::select! {
                biased;
                message = self.subscription.next() => News::Message(message),
                _ = self.reconnects.recv() => News::Connected,
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => News::Deadline,
                () = sleep(quiet) => News::Silence,
            };
            match news {
                News::Message(None) => return Err(Error::Unavailable { doing: "asking for requests", source: None }),
                News::Message(Some(message)) => match message.status {
                    None | Some(StatusCode::OK) => {
                        self.answered();
                        return Ok(Some(self.request(message)));
                    }
                    Some(StatusCode::IDLE_HEARTBEAT) => {}
                    Some(StatusCode::TIMEOUT | StatusCode::NOT_FOUND) => self.answered(),
                    // Nobody there, or the consumer is gone.
                    Some(status) => {
                        tracing::debug!(%status, "the broker does not serve requests at the moment");
                        self.answered();
                        sleep(PAUSE).await;
                        self.make_again().await?;
                    }
                },
                // The broker forgets questions of a connection that ends. The news of the first one may come late.
                News::Connected => self.is_asked &= self.asked_on == self.requests.connects(),
                News::Silence => self.is_asked = false,
                News::Deadline if self.requests.is_connected() => return Ok(None),
                News::Deadline => return Err(Error::Unavailable { doing: "waiting for requests", source: None }),
            }
        }
    }

    /// A request that nobody waits for: the broker answers a question from before a lost connection as well as the one after it.
    /// Never ready otherwise. Cancel-safe.
    pub async fn stray(&mut self) -> Request {
        loop {
            match self.subscription.next().await {
                Some(message) if message.status.is_none_or(|status| status == StatusCode::OK) => {
                    self.answered();
                    return self.request(message);
                }
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Wants no more; gives what was on its way.
    pub async fn close(mut self) -> Vec<Request> {
        let mut last = Vec::new();
        if self.unanswered == 0 {
            return last;
        }
        if self.requests.is_connected() && self.subscription.drain().await.is_ok() {
            let reading = async {
                while let Some(message) = self.subscription.next().await {
                    if message.status.is_none_or(|status| status == StatusCode::OK) {
                        last.push(self.request(message));
                    }
                }
            };
            // A broker that is gone now gives it to somebody else later.
            let _gone = timeout(LAST_WITHIN, reading).await;
        }
        last
    }

    async fn ask(&mut self, deadline: Option<Instant>) -> Result<(), Error> {
        let left = deadline.map_or(WAITS, |deadline| deadline.saturating_duration_since(Instant::now()));
        let expires = left.clamp(Duration::from_millis(10), WAITS);
        let idle_heartbeat = if expires >= 2 * HEARTBEAT { HEARTBEAT } else { Duration::ZERO };
        let question = BatchConfig { batch: 1, expires: Some(expires), idle_heartbeat, ..BatchConfig::default() };
        let config = &self.requests.0.config;
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", config.stream, config.consumer);
        let payload = serde_json::to_vec(&question).map_err(|fault| Error::unavailable("asking for requests", fault))?;
        // Before it is sent: whoever drops this in between must not ask twice.
        (self.is_asked, self.asked_on) = (true, self.requests.connects());
        self.unanswered += 1;
        let asked = self.requests.0.client.publish_with_reply(subject, self.inbox.clone(), payload.into()).await;
        asked.map_err(|fault| Error::unavailable("asking for requests", fault))
    }

    fn answered(&mut self) {
        self.is_asked = false;
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    async fn make_again(&self) -> Result<(), Error> {
        match self.requests.ensure().await {
            Err(error) if error.is_retryable() => Ok(()),
            ended => ended,
        }
    }

    fn request(&self, message: async_nats::Message) -> Request {
        Request::new(self.requests.clone(), jetstream::Message { message, context: self.requests.0.context.clone() })
    }
}
