//! Feedback of a running handler on its way out, coalesced where its taker is slower.
//!
//! Between handler and taker lies at most one piece of feedback: of progress, stage and message the newest stands, metrics and
//! metadata are overlaid, chunks are kept in their order. Beyond [`CHUNK_BYTES_MAX`] the handler is asked to wait; what a handler
//! sends that does not wait is counted and left out. What it prints may go the same way ([`printed`]).

mod printed;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::Notify;

/// Bytes of chunks that are taken at a time, unless a single one has more.
const PIECE_BYTES_MAX: usize = 256 * 1024;
/// Bytes of chunks that wait before a handler is asked to wait.
const CHUNK_BYTES_PAUSE: usize = 256 * 1024;
/// Bytes of chunks that wait before more are left out: what was under way when the handler was asked to wait still fits.
pub const CHUNK_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Chunks that wait before more are left out.
const CHUNKS_MAX: usize = 16 * 1024;
/// Keys of metrics and of metadata that wait.
const KEYS_MAX: usize = 1024;
/// Bytes of metadata that wait, unless one piece alone has more.
const METADATA_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of a message or a stage.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// What a handler says while it runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feedback {
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// From 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<f64>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Pieces of output, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chunks: Vec<Chunk>,
    /// Named numbers.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metrics: Map<String, Value>,
    /// Anything else.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// Chunks left out before these, because nobody took them in time; in the metadata under the same name, for those who read only that.
    #[serde(skip)]
    pub dropped_chunks: u64,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunk {
    /// What it is a piece of.
    pub channel: Channel,
    /// Which piece, by the handler's own count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mime_type: Option<String>,
    /// The piece, if it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The piece, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_base64: Option<String>,
    /// Anything else.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
}

/// What a chunk is a piece of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// Standard output of something.
    Stdout,
    /// Its standard error.
    Stderr,
    /// A log.
    Log,
    /// What a language model says.
    Llm,
    /// A measurement.
    Metric,
    /// Whatever handler and viewer agree on.
    Custom,
}

impl Feedback {
    /// The same without what no reader takes: it comes from a program that may say anything.
    pub(crate) fn sound(self) -> Self {
        let text = |text: Option<String>| {
            let mut text = text.filter(|text| !text.is_empty())?;
            text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
            Some(text)
        };
        let mut metrics = self.metrics;
        metrics.retain(|_, value| value.is_number());
        Self {
            stage: text(self.stage),
            progress: self.progress.filter(|progress| (0.0..=1.0).contains(progress)),
            message: text(self.message),
            metrics,
            ..self
        }
    }
}

/// Both ends of one task's feedback.
#[must_use]
pub fn channel() -> (Arc<FeedbackSender>, FeedbackReceiver) {
    let shared = Arc::new(Shared::default());
    (Arc::new(FeedbackSender(Arc::clone(&shared))), FeedbackReceiver(shared))
}

/// The handler's end.
#[derive(Debug)]
pub struct FeedbackSender(Arc<Shared>);

/// The taker's end.
#[derive(Debug)]
pub struct FeedbackReceiver(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    slot: Mutex<Slot>,
    something: Notify,
    room: Notify,
}

#[derive(Debug, Default)]
struct Slot {
    waiting: Option<Feedback>,
    chunk_bytes: usize,
    metadata_bytes: usize,
    /// What the last chunk that waits was printed to, if it was: more of that goes into the same chunk.
    printed: Option<Channel>,
    sender_gone: bool,
    receiver_gone: bool,
}

/// Whether a sender should go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    Enough,
    Full,
}

impl Shared {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FeedbackSender {
    /// Adds to what waits. Never blocks.
    pub(crate) fn push(&self, newer: Feedback) -> Room {
        let mut slot = self.0.slot();
        if slot.receiver_gone {
            return Room::Enough;
        }
        let Slot { waiting, chunk_bytes, metadata_bytes, printed, .. } = &mut *slot;
        if !newer.chunks.is_empty() {
            *printed = None;
        }
        merge(waiting.get_or_insert_default(), newer, chunk_bytes, metadata_bytes);
        let room = if slot.chunk_bytes >= CHUNK_BYTES_PAUSE { Room::Full } else { Room::Enough };
        drop(slot);
        self.0.something.notify_one();
        room
    }

    /// Waits until there is room again. Cancel-safe.
    pub(crate) async fn room(&self) {
        loop {
            let notified = self.0.room.notified();
            {
                let slot = self.0.slot();
                if slot.receiver_gone || slot.chunk_bytes < CHUNK_BYTES_PAUSE {
                    return;
                }
            }
            notified.await;
        }
    }
}

impl Drop for FeedbackSender {
    fn drop(&mut self) {
        self.0.slot().sender_gone = true;
        self.0.something.notify_one();
    }
}

impl FeedbackReceiver {
    /// All that has come since the last call, as one piece, or what of it fits one; nothing once the task is over and all was taken.
    /// Cancel-safe.
    pub async fn recv(&mut self) -> Option<Feedback> {
        loop {
            let notified = self.0.something.notified();
            {
                let mut slot = self.0.slot();
                if let Some(mut feedback) = slot.waiting.take() {
                    let rest = split(&mut feedback);
                    slot.chunk_bytes = rest.iter().map(weight).sum();
                    slot.metadata_bytes = 0;
                    if rest.is_empty() {
                        slot.printed = None;
                    } else {
                        slot.waiting = Some(Feedback { chunks: rest, ..Feedback::default() });
                    }
                    drop(slot);
                    self.0.room.notify_one();
                    if feedback.dropped_chunks > 0 {
                        feedback.metadata.insert("dropped_chunks".to_owned(), feedback.dropped_chunks.into());
                    }
                    return Some(feedback);
                }
                if slot.sender_gone {
                    return None;
                }
            }
            notified.await;
        }
    }
}

impl Drop for FeedbackReceiver {
    fn drop(&mut self) {
        self.0.slot().receiver_gone = true;
        self.0.room.notify_one();
    }
}

fn merge(into: &mut Feedback, newer: Feedback, chunk_bytes: &mut usize, metadata_bytes: &mut usize) {
    let Feedback { stage, progress, message, chunks, metrics, metadata, dropped_chunks } = newer;
    into.stage = stage.or(into.stage.take());
    into.progress = progress.or(into.progress);
    into.message = message.or(into.message.take());
    overlay(&mut into.metrics, metrics);
    let bytes = metadata.iter().map(|(key, value)| key.len() + value.to_string().len()).sum::<usize>();
    if *metadata_bytes == 0 || *metadata_bytes + bytes <= METADATA_BYTES_MAX {
        *metadata_bytes += bytes;
        overlay(&mut into.metadata, metadata);
    }
    into.dropped_chunks += dropped_chunks;
    for chunk in chunks {
        let bytes = weight(&chunk);
        if *chunk_bytes + bytes > CHUNK_BYTES_MAX && !into.chunks.is_empty() || into.chunks.len() >= CHUNKS_MAX {
            into.dropped_chunks += 1;
        } else {
            *chunk_bytes += bytes;
            into.chunks.push(chunk);
        }
    }
}

/// Takes off what does not fit one piece.
fn split(feedback: &mut Feedback) -> Vec<Chunk> {
    let mut bytes = 0;
    let fits = feedback.chunks.iter().take_while(|chunk| {
        bytes += weight(chunk);
        bytes <= PIECE_BYTES_MAX
    });
    let fits = fits.count().max(1);
    if fits < feedback.chunks.len() { feedback.chunks.split_off(fits) } else { Vec::new() }
}

/// About how many bytes it takes.
fn weight(chunk: &Chunk) -> usize {
    let metadata =
        if chunk.metadata.is_empty() { 0 } else { chunk.metadata.iter().map(|(key, value)| key.len() + value.to_string().len()).sum() };
    64 + metadata + [&chunk.text, &chunk.data_base64, &chunk.mime_type].iter().filter_map(|text| Some(text.as_ref()?.len())).sum::<usize>()
}

fn overlay(into: &mut Map<String, Value>, newer: Map<String, Value>) {
    for (key, value) in newer {
        if into.len() < KEYS_MAX || into.contains_key(&key) {
            into.insert(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Feedback {
        let chunk = Chunk {
            channel: Channel::Log,
            index: None,
            mime_type: None,
            text: Some(text.to_owned()),
            data_base64: None,
            metadata: Map::new(),
        };
        Feedback { chunks: vec![chunk], ..Feedback::default() }
    }

    fn texts(feedback: &Feedback) -> Vec<&str> {
        feedback.chunks.iter().filter_map(|chunk| chunk.text.as_deref()).collect()
    }

    #[tokio::test]
    async fn the_newest_progress_stands_and_chunks_keep_their_order() {
        let (sender, mut receiver) = channel();
        for n in 0..1000_u32 {
            sender.push(Feedback {
                progress: Some(f64::from(n) / 1000.0),
                stage: (n == 3).then(|| "third".to_owned()),
                ..text(&n.to_string())
            });
        }
        drop(sender);
        let all = receiver.recv().await.unwrap();
        assert_eq!((all.progress, all.stage.as_deref()), (Some(0.999), Some("third")));
        assert_eq!(texts(&all), (0..1000).map(|n| n.to_string()).collect::<Vec<_>>());
        assert_eq!(receiver.recv().await, None);
    }

    #[tokio::test]
    async fn a_taker_that_takes_nothing_is_waited_for_and_costs_bounded_memory() {
        let (sender, mut receiver) = channel();
        let piece = "x".repeat(64 * 1024);
        assert_eq!(sender.push(text(&piece)), Room::Enough);
        let sent = 200;
        for _ in 1..sent {
            sender.push(text(&piece));
        }
        assert_eq!(sender.push(Feedback::default()), Room::Full);
        let first = receiver.recv().await.unwrap();
        assert!(texts(&first).len() * piece.len() <= PIECE_BYTES_MAX);
        assert_eq!(first.metadata["dropped_chunks"], first.dropped_chunks);
        let (mut kept, mut room) = (first.chunks.len() as u64, Box::pin(sender.room()));
        while tokio::time::timeout(std::time::Duration::ZERO, &mut room).await.is_err() {
            kept += receiver.recv().await.unwrap().chunks.len() as u64;
        }
        drop(room);
        drop(sender);
        while let Some(piece) = receiver.recv().await {
            kept += piece.chunks.len() as u64;
        }
        assert_eq!(first.dropped_chunks + kept, sent);
        assert!(kept * piece.len() as u64 <= CHUNK_BYTES_MAX as u64);
    }

    #[test]
    fn what_no_reader_takes_is_left_out() {
        let said = serde_json::json!({ "stage": "", "progress": 7, "message": "x".repeat(100_000), "metrics": { "a": 1, "b": "two" } });
        let sound = serde_json::from_value::<Feedback>(said).unwrap().sound();
        assert_eq!((sound.stage, sound.progress, sound.metrics.len()), (None, None, 1));
        assert_eq!(sound.message.unwrap().len(), TEXT_BYTES_MAX);
        let good = Feedback { stage: Some("s".to_owned()), progress: Some(1.0), ..text("t") };
        assert_eq!(good.clone().sound(), good);
    }

    #[tokio::test]
    async fn metadata_that_nobody_takes_costs_bounded_memory() {
        let (sender, mut receiver) = channel();
        let large = Value::from("x".repeat(1 << 20));
        for n in 0..6 {
            sender.push(Feedback { metadata: Map::from_iter([(n.to_string(), large.clone())]), ..Feedback::default() });
        }
        assert_eq!(receiver.recv().await.unwrap().metadata.len(), 3);
        sender.push(Feedback { metadata: Map::from_iter([("next".to_owned(), large)]), ..Feedback::default() });
        assert_eq!(receiver.recv().await.unwrap().metadata.len(), 1);
    }

    #[tokio::test]
    async fn a_taker_that_has_left_is_no_obstacle() {
        let (sender, receiver) = channel();
        drop(receiver);
        assert_eq!(sender.push(text(&"x".repeat(CHUNK_BYTES_MAX))), Room::Enough);
        sender.room().await;
    }
}
