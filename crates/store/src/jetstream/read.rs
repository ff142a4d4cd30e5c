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

impl Link {
    /// Everything under `filter`, oldest first.
    pub(super) async fn read_all(&self, stream: &str, filter: &str, doing: &'static str) -> Result<Vec<Stored>, Error> {
        let mut all: Vec<Stored> = Vec::new();
        loop {
            let page = self.read_page(stream, filter, all.last().map_or(0, |last| last.sequence), doing).await?;
            let is_last = page.len() < PAGE;
            all.extend(page);
            if is_last {
                return Ok(all);
            }
        }
    }

    /// What is under `filter` after `after`, oldest first: a [`PAGE`] or somewhat more, or fewer if there are no more.
    ///
    /// On one server a direct read is the leader's and brings all in one answer. With replicas a direct read may be answered by one that
    /// lags, so there the leader is asked message by message.
    pub(super) async fn read_page(&self, stream: &str, filter: &str, after: Revision, doing: &'static str) -> Result<Vec<Stored>, Error> {
        if self.config.replicas == 1
            && let Some(page) = self.read_direct(stream, filter, after).await
        {
            return Ok(page);
        }
        let handle = self.stream(stream, doing).await?;
        let mut page = Vec::new();
        let mut next = after + 1;
        while page.len() < PAGE
            && let Some(message) = self.read_next(&handle, filter, next, doing).await?
        {
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
    async fn read_direct(&self, stream: &str, filter: &str, after: Revision) -> Option<Vec<Stored>> {
        let mut page: Vec<Stored> = Vec::new();
        loop {
            let (batch, more) = self.read_batch(stream, filter, page.last().map_or(after, |last| last.sequence), BATCH).await?;
            page.extend(batch);
            if !more || page.len() >= PAGE {
                return Some(page);
            }
        }
    }

    /// Up to `batch` of what is under `filter` after `after`, as some copy of the stream has it, and whether there is more. `None` if the broker
    /// did not answer as it should.
    pub(super) async fn read_batch(&self, stream: &str, filter: &str, after: Revision, batch: usize) -> Option<(Vec<Stored>, bool)> {
        let (mut found, mut answers) = (Vec::new(), self.mux.route());
        let request = json!({ "seq": after + 1, "batch": batch, "next_by_subj": filter }).to_string();
        self.client.publish_with_reply(format!("$JS.API.DIRECT.GET.{stream}"), answers.subject(), request.into()).await.ok()?;
        loop {
            let message = tokio::time::timeout(PATIENCE, answers.next()).await.ok()??;
            match message.status {
                None | Some(StatusCode::OK) => found.push(stored(&message)?),
                Some(StatusCode::NOT_FOUND) => return Some((found, false)),
                // The end of this answer, and how many more there are.
                Some(status) if status.as_u16() == 204 => {
                    let more = header(&message, "Nats-Num-Pending")? != "0";
                    return Some((found, more));
                }
                Some(_) => return None,
            }
        }
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
