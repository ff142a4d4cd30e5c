//! Reading everything under a filter, as the stream's leader has it.

use std::time::Duration;

use async_nats::{HeaderMap, StatusCode};
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::json;

use super::link::{Link, timestamp};
use crate::{Error, Revision};

/// The most that is read at once of a list that can be long.
pub(super) const PAGE: usize = 1000;
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
    /// Everything under `filter`, oldest first, up to a [`PAGE`].
    ///
    /// On one server a direct read is the leader's and brings all in one answer. With replicas a direct read may be answered by one that
    /// lags, so there the leader is asked message by message.
    pub(super) async fn read_all(&self, stream: &str, filter: &str, doing: &'static str) -> Result<Vec<Stored>, Error> {
        if self.config.replicas == 1
            && let Some(all) = self.read_direct(stream, filter).await
        {
            return Ok(all);
        }
        let handle = self.stream(stream, doing).await?;
        let mut all = Vec::new();
        let mut next = 1;
        while all.len() < PAGE
            && let Some(message) = self.read_next(&handle, filter, next, doing).await?
        {
            next = message.sequence + 1;
            all.push(Stored {
                subject: message.subject.to_string(),
                sequence: message.sequence,
                time: timestamp(message.time),
                headers: message.headers,
                payload: message.payload,
            });
        }
        Ok(all)
    }

    /// The same in one request; `None` if the broker did not answer as it should, which the patient way will explain.
    async fn read_direct(&self, stream: &str, filter: &str) -> Option<Vec<Stored>> {
        let mut all: Vec<Stored> = Vec::new();
        loop {
            let mut answers = self.mux.route();
            let first = all.last().map_or(1, |last| last.sequence + 1);
            let request = json!({ "seq": first, "batch": BATCH, "next_by_subj": filter }).to_string();
            self.client.publish_with_reply(format!("$JS.API.DIRECT.GET.{stream}"), answers.subject(), request.into()).await.ok()?;
            let more = loop {
                let message = tokio::time::timeout(PATIENCE, answers.next()).await.ok()??;
                match message.status {
                    None | Some(StatusCode::OK) => all.push(stored(&message)?),
                    Some(StatusCode::NOT_FOUND) => break false,
                    // The end of this answer, and how many more there are.
                    Some(status) if status.as_u16() == 204 => break header(&message, "Nats-Num-Pending")? != "0",
                    Some(_) => return None,
                }
            };
            if !more || all.len() >= PAGE {
                return Some(all);
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
