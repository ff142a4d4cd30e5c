//! Streams of server-sent events that resume where they broke off.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::{BoxStream, Stream, StreamExt};
use reqwest::{Method, header};
use serde::de::DeserializeOwned;

use crate::backoff::Backoff;
use crate::client::{ANSWER_TIMEOUT, Client};
use crate::error::Error;
use crate::sse::Parser;

/// One item of a stream and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed<T> {
    /// Give it as `last_event_id` to go on after this item.
    pub place: Option<String>,
    /// The item.
    pub item: T,
}

/// A server says something (a comment at least) more often than this; otherwise the connection is taken for dead.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long a stream tries to resume without getting a single item.
const RESUME_BUDGET: Duration = Duration::from_secs(60);

struct Follow {
    client: Client,
    path: String,
    query: Vec<(&'static str, String)>,
    place: Option<String>,
    open: Option<(BoxStream<'static, reqwest::Result<Bytes>>, Parser)>,
    backoff: Backoff,
    failing_since: Option<Instant>,
    done: bool,
}

impl Client {
    /// Follows `path` from after `place` until the server says `end`. The first error ends the stream.
    pub(crate) fn follow<T: DeserializeOwned + Send + 'static>(
        &self,
        path: String,
        query: Vec<(&'static str, String)>,
        place: Option<String>,
    ) -> impl Stream<Item = Result<Followed<T>, Error>> + Send + use<T> {
        let follow = Follow {
            client: self.clone(),
            path,
            query,
            place,
            open: None,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
            failing_since: None,
            done: false,
        };
        futures::stream::unfold(follow, |mut follow| async move {
            let item = follow.next().await?;
            follow.done = item.is_err();
            Some((item, follow))
        })
    }
}

impl Follow {
    async fn next<T: DeserializeOwned>(&mut self) -> Option<Result<Followed<T>, Error>> {
        while !self.done {
            let event = match self.event().await {
                Ok(event) => event,
                Err(error) => match self.pause(error).await {
                    Ok(()) => continue,
                    Err(error) => return Some(Err(error)),
                },
            };
            if event.id.is_some() {
                self.place.clone_from(&event.id);
            }
            self.failing_since = None;
            self.backoff.reset();
            if event.name.as_deref() == Some("end") {
                return None;
            }
            // Who is cut off for being slow comes back and goes on where it was.
            if event.data.is_empty() || event.name.as_deref() == Some("lagged") {
                continue;
            }
            let item = serde_json::from_str(&event.data)
                .map_err(|error| self.client.odd(format!("an event of its stream is not what was expected: {error}")));
            return Some(item.map(|item| Followed { place: event.id, item }));
        }
        None
    }

    /// The next event of the open connection, opening one if there is none.
    async fn event(&mut self) -> Result<crate::sse::Event, Error> {
        let (body, parser) = match &mut self.open {
            Some(open) => open,
            None => {
                let mut request = self.client.to(Method::GET, &self.path).query(&self.query).header(header::ACCEPT, "text/event-stream");
                if let Some(place) = &self.place {
                    request = request.header("last-event-id", place);
                }
                let response = self.client.send(request, ANSWER_TIMEOUT).await?;
                self.open.insert((response.bytes_stream().boxed(), Parser::default()))
            }
        };
        loop {
            if let Some(event) = parser.next() {
                return Ok(event);
            }
            match tokio::time::timeout(SILENCE_MAX, body.next()).await {
                Ok(Some(Ok(chunk))) => parser.push(&chunk).map_err(|error| self.client.odd(error.to_string()))?,
                Ok(Some(Err(error))) => return Err(Error::unreachable(self.client.url(), error)),
                Ok(None) => return Err(self.broken("the stream ended before its end was told")),
                Err(_) => return Err(Error::silent(self.client.url(), SILENCE_MAX)),
            }
        }
    }

    /// Waits before the next try, or gives the error back when another try is of no use.
    async fn pause(&mut self, error: Error) -> Result<(), Error> {
        self.open = None;
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        let wait = self.backoff.next_wait();
        if !error.is_retryable() || since.elapsed() + wait > RESUME_BUDGET {
            return Err(error);
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }

    fn broken(&self, what: &str) -> Error {
        Error::Unreachable { url: self.client.url().to_owned(), nothing_sent: false, source: what.into() }
    }
}
