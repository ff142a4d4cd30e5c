//! Live output on a stream of its own: raw bytes as the payload, everything else in headers.

use async_nats::HeaderMap;
use async_nats::jetstream::stream::Stream;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, FuturesOrdered};
use longshore_model::JobId;
use longshore_model::wire::log::{LogRecord, LogStream as Output};

use super::link::Shared;
use super::tail::{From, Item, Tail};
use crate::{Error, LogStream, Logs, Revision, StoredLog};

const AGENT: &str = "Longshore-Agent";
const ATTEMPT: &str = "Longshore-Attempt";
const STEP: &str = "Longshore-Step";
const SEQ: &str = "Longshore-Seq";
const TIME: &str = "Longshore-Time";
const OUTPUT: &str = "Longshore-Stream";

pub(super) struct JetStreamLogs {
    link: Shared,
    stream: Stream<()>,
}

impl JetStreamLogs {
    pub(super) async fn open(link: Shared) -> Result<Self, Error> {
        let stream = link.stream(&link.layout.logs, "opening the logs").await?;
        Ok(Self { link, stream })
    }
}

#[async_trait]
impl Logs for JetStreamLogs {
    async fn append(&self, records: &[LogRecord]) -> Result<(), Error> {
        // All are under way before the first is awaited.
        let mut writes: FuturesOrdered<_> = records
            .iter()
            .map(|record| {
                let subject = self.link.layout.log(record.job, record.execution);
                self.link.write_as(
                    format!("{subject} {} {}", record.attempt, record.seq),
                    subject,
                    Bytes::copy_from_slice(&record.bytes),
                    headers(record),
                    "storing output",
                )
            })
            .collect();
        while let Some(written) = writes.next().await {
            written?;
        }
        Ok(())
    }

    async fn follow(&self, job: JobId, after: Revision) -> Result<LogStream, Error> {
        let tail = Tail::open(self.link.clone(), self.link.layout.logs.clone(), self.link.layout.logs_of(job), From::Place(after)).await?;
        let link = self.link.clone();
        Ok(stream::unfold(Some((tail, link)), |state| async move {
            let (mut tail, link) = state?;
            loop {
                match tail.next().await {
                    Ok(Item::Current) => {}
                    Ok(Item::Message(message, place)) => {
                        if let Some(record) = parse(&link, &message) {
                            return Some((Ok(StoredLog { place: place.sequence, record }), Some((tail, link))));
                        }
                    }
                    Err(fault) => return Some((Err(fault), None)),
                }
            }
        })
        .boxed())
    }

    async fn last(&self, job: JobId) -> Result<Revision, Error> {
        let newest = self.link.read_last(&self.stream, &self.link.layout.logs_of(job), "reading output").await?;
        Ok(newest.map_or(0, |message| message.sequence))
    }

    async fn delete(&self, job: JobId) -> Result<(), Error> {
        self.link.purge(&self.stream, &self.link.layout.logs_of(job), "deleting output").await
    }
}

fn headers(record: &LogRecord) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(AGENT, record.agent.to_string());
    headers.insert(ATTEMPT, record.attempt.to_string());
    headers.insert(STEP, record.step.to_string());
    headers.insert(SEQ, record.seq.to_string());
    headers.insert(TIME, record.time.to_string());
    headers.insert(
        OUTPUT,
        match record.stream {
            Output::Stdout => "stdout",
            Output::Stderr => "stderr",
            Output::System => "system",
        },
    );
    headers
}

fn parse(link: &Shared, message: &async_nats::Message) -> Option<LogRecord> {
    let (job, execution) = link.layout.parse_log(&message.subject)?;
    let headers = message.headers.as_ref()?;
    let text = |name: &str| headers.get(name).map(async_nats::HeaderValue::as_str);
    Some(LogRecord {
        job,
        execution,
        agent: text(AGENT)?.parse().ok()?,
        attempt: text(ATTEMPT)?.parse().ok()?,
        step: text(STEP)?.parse().ok()?,
        seq: text(SEQ)?.parse().ok()?,
        time: text(TIME)?.parse().ok()?,
        stream: match text(OUTPUT)? {
            "stdout" => Output::Stdout,
            "stderr" => Output::Stderr,
            _ => Output::System,
        },
        bytes: message.payload.to_vec(),
    })
}
