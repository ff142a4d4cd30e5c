//! Live output on a stream of its own: raw bytes as the payload, everything else in headers.

use std::ops::Range;

use async_nats::HeaderMap;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::stream::{DirectGetErrorKind, Stream};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use longshore_model::wire::log::{LogGap, LogRecord, LogStream as Output};
use longshore_model::{ExecutionId, JobId};

use super::link::Shared;
use super::tail::{From, Item, Tail};
use crate::{Error, LogStream, Logs, Revision, StoredLog};

const AGENT: &str = "Longshore-Agent";
const ATTEMPT: &str = "Longshore-Attempt";
const STEP: &str = "Longshore-Step";
const SEQ: &str = "Longshore-Seq";
const TIME: &str = "Longshore-Time";
const OUTPUT: &str = "Longshore-Stream";

const GAP_RECORDS: &str = "Longshore-Gap-Records";
const GAP_BYTES: &str = "Longshore-Gap-Bytes";
const STORING: &str = "storing output";
/// The broker takes a thousand; it keeps what is not yet whole in memory.
const BATCH_RECORDS_MAX: usize = 64;

/// What became of a batch.
#[derive(Debug, PartialEq, Eq)]
enum Batch {
    Stored,
    /// Nothing of it was: a part is stored already, the broker has too many batches at once, or knows none.
    Refused,
}

pub(super) struct JetStreamLogs {
    link: Shared,
    stream: Stream<()>,
}

impl JetStreamLogs {
    pub(super) async fn open(link: Shared) -> Result<Self, Error> {
        let stream = link.stream(&link.layout.logs, "opening the logs").await?;
        Ok(Self { link, stream })
    }

    /// Stores records together, all or none. Messages that are sent one by one without waiting could be stored in another order: if the
    /// connection breaks, the first are lost with it and the others sent over the next one.
    async fn append_batch(&self, records: &[LogRecord]) -> Result<Batch, Error> {
        if !self.link.is_up() {
            return Err(Error::Unavailable { doing: STORING, source: None });
        }
        let batch = self.link.client.new_inbox().rsplit('.').next().unwrap_or_default().to_owned();
        let Some((last, others)) = records.split_last() else { return Ok(Batch::Stored) };
        let message = |number: usize, record: &LogRecord| {
            let mut headers = headers(record);
            headers.insert(async_nats::header::NATS_MESSAGE_ID, message_id(record));
            headers.insert("Nats-Batch-Id", batch.as_str());
            headers.insert("Nats-Batch-Sequence", number.to_string());
            (self.link.layout.log(record.job, record.execution), headers, Bytes::copy_from_slice(&record.bytes))
        };
        for (index, record) in others.iter().enumerate() {
            let (subject, headers, bytes) = message(index + 1, record);
            let sent = self.link.client.publish_with_headers(subject, headers, bytes).await;
            sent.map_err(|fault| Error::unavailable(STORING, fault))?;
        }
        let (subject, mut headers, bytes) = message(records.len(), last);
        headers.insert("Nats-Batch-Commit", "1");
        let sent = self.link.context.publish_with_headers(subject, headers, bytes).await;
        let fault = match sent {
            Ok(acknowledged) => match acknowledged.await {
                Ok(_) => return Ok(Batch::Stored),
                Err(fault) => fault,
            },
            Err(fault) => fault,
        };
        match fault.kind() {
            PublishErrorKind::Other
            | PublishErrorKind::MaxPayloadExceeded
            | PublishErrorKind::WrongLastMessageId
            | PublishErrorKind::WrongLastSequence => Ok(Batch::Refused),
            PublishErrorKind::StreamNotFound
            | PublishErrorKind::TimedOut
            | PublishErrorKind::BrokenPipe
            | PublishErrorKind::MaxAckPending => Err(Error::unavailable(STORING, fault)),
        }
    }
}

fn message_id(record: &LogRecord) -> String {
    format!("{} {} {} {}", record.job, record.execution, record.attempt, record.seq)
}

#[async_trait]
impl Logs for JetStreamLogs {
    async fn append(&self, records: &[LogRecord]) -> Result<(), Error> {
        for batch in records.chunks(BATCH_RECORDS_MAX) {
            if batch.len() > 1 && self.append_batch(batch).await? == Batch::Stored {
                continue;
            }
            // One after the other is slower and as orderly: a record is sent when the one before it is known to be stored.
            for record in batch {
                let subject = self.link.layout.log(record.job, record.execution);
                let bytes = Bytes::copy_from_slice(&record.bytes);
                self.link.write_as(message_id(record), subject, bytes, headers(record), STORING).await?;
            }
        }
        Ok(())
    }

    async fn newest(&self, job: JobId, execution: ExecutionId) -> Result<Option<(u32, u64)>, Error> {
        let subject = self.link.layout.log(job, execution);
        // Not from the leader: what one that lags does not know yet is sent again, and known by its message id.
        let message = match self.stream.direct_get_last_for_subject(subject).await {
            Ok(message) => message,
            Err(fault) if fault.kind() == DirectGetErrorKind::NotFound => return Ok(None),
            Err(fault) => return Err(Error::unavailable("reading output", fault)),
        };
        let number = |name: &str| message.headers.get(name)?.as_str().parse().ok();
        Ok(number(ATTEMPT).and_then(|attempt| Some((u32::try_from(attempt).ok()?, number(SEQ)?))))
    }

    async fn kept(&self) -> Result<Range<Revision>, Error> {
        let info = self.stream.get_info().await.map_err(|fault| Error::unavailable("reading about the output", fault))?;
        Ok(info.state.first_sequence..info.state.last_sequence.saturating_add(1))
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
    let gap = record.gap.iter().flat_map(|gap| [(GAP_RECORDS, gap.records), (GAP_BYTES, gap.bytes)]);
    gap.filter_map(|(name, amount)| Some((name, amount?))).for_each(|(name, amount)| headers.insert(name, amount.to_string()));
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
    let amount = |name: &str| text(name).and_then(|text| text.parse().ok());
    let gap = LogGap { records: amount(GAP_RECORDS), bytes: amount(GAP_BYTES) };
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
        gap: (gap.records.is_some() || gap.bytes.is_some()).then_some(gap),
        bytes: message.payload.to_vec(),
    })
}
