//! Responses: to whoever listens, and to the streams that store them.

use std::sync::atomic::Ordering;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{GetStreamByNameErrorKind, PublishErrorKind};
use bytes::Bytes;

use super::Requests;
use crate::Error;

const DOING: &str = "publishing a response";
/// Bytes of a subject. A server closes the connection over one that is much longer.
const SUBJECT_BYTES_MAX: usize = 1024;

/// Where a response goes, and which of these subjects a stream stores.
#[derive(Debug, Clone)]
pub struct Routes(Vec<(String, bool)>);

impl Requests {
    /// Finds out what becomes of what is published to these subjects. Those that nothing can be published to are left out.
    pub async fn routes(&self, subjects: Vec<String>) -> Routes {
        let subjects = subjects.into_iter().filter(|subject| is_subject(subject));
        let found = futures::future::join_all(subjects.map(|subject| async {
            let is_stored = self.is_stored(&subject).await;
            (subject, is_stored)
        }));
        Routes(found.await)
    }

    /// Publishes the response to all subjects. Returns when every stream that stores one has it and the broker has taken the others.
    /// Repeats with the same `id` are not stored twice by a stream that looks at that.
    ///
    /// # Errors
    /// The broker did not confirm it.
    pub async fn respond(&self, routes: &Routes, payload: &Bytes, id: &str) -> Result<(), Error> {
        if !self.is_connected() {
            return Err(Error::Unavailable { doing: DOING, source: None });
        }
        let connects = self.connects();
        let mut waits_for_the_broker = false;
        let mut stored = Vec::new();
        for (index, (subject, is_stored)) in routes.0.iter().enumerate() {
            if *is_stored {
                let mut headers = HeaderMap::new();
                headers.insert(async_nats::header::NATS_MESSAGE_ID, format!("{id}:{index}"));
                let sent = self.0.context.publish_with_headers(subject.clone(), headers, payload.clone()).await;
                stored.push(sent.map_err(|fault| Error::unavailable(DOING, fault))?);
            } else {
                let sent = self.0.client.publish(subject.clone(), payload.clone()).await;
                sent.map_err(|fault| Error::unavailable(DOING, fault))?;
                waits_for_the_broker = true;
            }
        }
        for acknowledgement in stored {
            match acknowledgement.await {
                Ok(_) => {}
                // The stream is gone: whoever listens has got it.
                Err(fault) if matches!(fault.kind(), PublishErrorKind::StreamNotFound) => {}
                Err(fault) => return Err(Error::unavailable(DOING, fault)),
            }
        }
        if waits_for_the_broker {
            // It answers in order: what came before on the same connection has arrived.
            self.consumer().await?;
        }
        if self.connects() == connects { Ok(()) } else { Err(Error::Unavailable { doing: DOING, source: None }) }
    }

    async fn is_stored(&self, subject: &str) -> bool {
        if !self.0.tells_streams.load(Ordering::Relaxed) {
            return false;
        }
        match self.0.context.stream_by_subject(subject).await {
            Ok(_) => true,
            Err(fault) => {
                if fault.kind() == GetStreamByNameErrorKind::Request && self.is_connected() {
                    // A user who may not ask gets no answer. It is published all the same, and the broker takes it.
                    self.0.tells_streams.store(false, Ordering::Relaxed);
                }
                false
            }
        }
    }
}

/// Whether something can be published to it.
#[must_use]
pub fn is_subject(subject: &str) -> bool {
    let is_token = |token: &str| !token.is_empty() && !matches!(token, "*" | ">");
    subject.len() <= SUBJECT_BYTES_MAX
        && !subject.contains(|c: char| c.is_whitespace() || c.is_control())
        && subject.split('.').all(is_token)
}

#[cfg(test)]
mod tests {
    use super::is_subject;

    #[test]
    fn subjects_have_tokens_and_no_wildcards() {
        for subject in ["jobs.results", "jobs.results.v1.2", "jobs.results.ü-*x"] {
            assert!(is_subject(subject), "{subject}");
        }
        for subject in ["", ".", "a.", ".a", "a..b", "a b", "a.\n", "a.*", "a.>", &"x".repeat(2000)] {
            assert!(!is_subject(subject), "{subject:?}");
        }
    }
}
