//! Reading everything under a filter, as the stream's leader has it.

use std::time::Duration;

use async_nats::{HeaderMap, StatusCode};
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::json;

use super::link::{Link, timestamp};
use crate::work::PAGE;
use crate::{Error, Revision};

/// Messages in one answer of the broker.
const BATCH: usize = 256;
/// Bytes after which a page ends: the messages of one page are held at once.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// How long the broker may take for one answer.
const PATIENCE: Duration = Duration::from_millis(1500);

/// One stored message.
pub(super) struct Stored {
    pub(super) subject: String,
    pub(super) sequence: Revision,
    pub(super) time: Timestamp,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

/// What is stored after a place.
#[derive(Default)]
pub(super) struct Page {
    /// Oldest first.
    pub(super) messages: Vec<Stored>,
    /// Whether there are no more.
    pub(super) is_last: bool,
    bytes: usize,
}

impl Page {
    fn push(&mut self, message: Stored) {
        self.bytes += message.payload.len();
        self.messages.push(message);
    }

    fn is_full(&self) -> bool {
        self.messages.len() >= PAGE || self.bytes >= PAGE_BYTES
    }

    /// Where the next page begins, if there is one.
    pub(super) fn next(&self) -> Option<Revision> {
        self.messages.last().map(|last| last.sequence).filter(|_| !self.is_last)
    }
}

impl Link {
    /// Everything under `filter`, oldest first.
    pub(super) async fn read_all(&self, stream: &str, filter: &str, doing: &'static str) -> Result<Vec<Stored>, Error> {
        let mut all: Vec<Stored> = Vec::new();
        loop {
            let page = self.read_page(stream, filter, all.last().map_or(0, |last| last.sequence), doing).await?;
            all.extend(page.messages);
            if page.is_last {
                return Ok(all);
            }
        }
    }

    /// What is under `filter` after `after`, oldest first: a [`PAGE`] or somewhat more, or fewer if they are large, or there are no more.
    ///
    /// On one server a direct read is the leader's and brings all in one answer. With replicas a direct read may be answered by one that
    /// lags, so there the leader is asked message by message.
    pub(super) async fn read_page(&self, stream: &str, filter: &str, after: Revision, doing: &'static str) -> Result<Page, Error> {
        if self.config.replicas == 1
            && let Some(page) = self.read_direct(stream, filter, after).await
        {
            return Ok(page);
        }
        let handle = self.stream(stream, doing).await?;
        let mut page = Page::default();
        let mut next = after + 1;
        while !page.is_full() {
            let Some(message) = self.read_next(&handle, filter, next, doing).await? else {
                page.is_last = true;
                break;
            };
            next = message.sequence + 1;
            page.push(Stored {
                subject: message.subject.to_string(),
                sequence: message.sequence,
                time: timestamp(message.time),
                headers: message.headers,
                payload: message.payload,
            });
        }
        Ok(page)
    }

    /// The same in one request; `None` if the broker did not answer as it should, which the patient way will explain.
    async fn read_direct(&self, stream: &str, filter: &str, after: Revision) -> Option<Page> {
        let mut page = Page::default();
        loop {
            let after = page.messages.last().map_or(after, |last| last.sequence);
            let (batch, more) = self.read_batch(stream, filter, after, (BATCH, PAGE_BYTES - page.bytes)).await?;
            batch.into_iter().for_each(|message| page.push(message));
            page.is_last = !more;
            if page.is_last || page.is_full() {
                return Some(page);
            }
        }
    }

    /// Up to `batch` messages, of not much more than `bytes` together, of what is under `filter` after `after`, as some copy of the stream has it, and whether there is more. `None` if the broker
    /// did not answer as it should.
    pub(super) async fn read_batch(
        &self,
        stream: &str,
        filter: &str,
        after: Revision,
        (batch, bytes): (usize, usize),
    ) -> Option<(Vec<Stored>, bool)> {
        let (mut read, mut answers) = (Batch::default(), self.mux.route());
        let request = json!({ "seq": after + 1, "batch": batch, "max_bytes": bytes, "next_by_subj": filter }).to_string();
        self.client.publish_with_reply(format!("$JS.API.DIRECT.GET.{stream}"), answers.subject(), request.into()).await.ok()?;
        loop {
            let message = tokio::time::timeout(PATIENCE, answers.next()).await.ok()??;
            match message.status {
                None | Some(StatusCode::OK) => read.take(&message)?,
                // There is nothing at all: it would be told before the first.
                Some(StatusCode::NOT_FOUND) if read.0.is_empty() => return Some((Vec::new(), false)),
                // The end of this answer, and how many more there are.
                Some(status) if status.as_u16() == 204 && read.is_whole_before(&message) => {
                    let more = header(&message, "Nats-Num-Pending")? != "0";
                    return Some((read.0, more));
                }
                Some(_) => return None,
            }
        }
    }
}

/// What came of one answer of the broker. Each of its messages, and its end, names the place of the message before it: one that was lost on
/// its way, because this client was too slow for the broker or for itself, is noticed.
#[derive(Default)]
struct Batch(Vec<Stored>);

impl Batch {
    /// `None` if one before it is missing, or it cannot be read.
    fn take(&mut self, message: &async_nats::Message) -> Option<()> {
        if !self.is_whole_before(message) {
            return None;
        }
        self.0.push(stored(message)?);
        Some(())
    }

    fn is_whole_before(&self, message: &async_nats::Message) -> bool {
        let before = header(message, "Nats-Last-Sequence").and_then(|place| place.parse::<Revision>().ok());
        before == Some(self.0.last().map_or(0, |last| last.sequence))
    }
}

fn stored(message: &async_nats::Message) -> Option<Stored> {
    Some(Stored {
        subject: header(message, "Nats-Subject")?.to_owned(),
        sequence: header(message, "Nats-Sequence")?.parse().ok()?,
        time: header(message, "Nats-Time-Stamp")?.parse().ok()?,
        headers: message.headers.clone().unwrap_or_default(),
        payload: message.payload.clone(),
    })
}

fn header<'a>(message: &'a async_nats::Message, name: &str) -> Option<&'a str> {
    message.headers.as_ref()?.get(name).map(async_nats::HeaderValue::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(place: u64, before: u64) -> async_nats::Message {
        let mut headers = HeaderMap::new();
        for (name, value) in [("Nats-Subject", "s".to_owned()), ("Nats-Sequence", place.to_string())] {
            headers.insert(name, value);
        }
        headers.insert("Nats-Time-Stamp", "2026-01-01T00:00:00Z");
        headers.insert("Nats-Last-Sequence", before.to_string());
        async_nats::Message {
            subject: "inbox".into(),
            reply: None,
            payload: Bytes::new(),
            headers: Some(headers),
            status: None,
            description: None,
            length: 0,
        }
    }

    #[test]
    fn a_message_that_is_missing_from_an_answer_is_noticed() {
        let takes = |places: &[(u64, u64)]| {
            let mut batch = Batch::default();
            places.iter().all(|(place, before)| batch.take(&message(*place, *before)).is_some())
        };
        assert!(takes(&[(3, 0), (7, 3), (8, 7)]));
        assert!(!takes(&[(7, 3), (8, 7)]), "the first");
        assert!(!takes(&[(3, 0), (8, 7)]), "one in between");
        let mut batch = Batch::default();
        batch.take(&message(3, 0)).unwrap();
        assert!(batch.is_whole_before(&message(0, 3)) && !batch.is_whole_before(&message(0, 7)), "the last");
    }
}
