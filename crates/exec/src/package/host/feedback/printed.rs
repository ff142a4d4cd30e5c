//! What a handler prints, said as feedback: in its place among the chunks, and counted and left out where nobody takes it in time.

use data_encoding::BASE64;
use longshore_model::limits::LOG_RECORD_BYTES_MAX;
use longshore_model::wire::log::LogStream;
use serde_json::Map;

use super::{CHUNK_BYTES_MAX, Channel, Chunk, Feedback, FeedbackSender, Slot, merge};
use crate::Output;

impl Output for FeedbackSender {
    /// Pieces of one stream that follow each other become one chunk, up to the size of a log's record.
    fn write(&self, _step: u32, stream: LogStream, bytes: &[u8]) {
        let channel = match stream {
            LogStream::Stdout => Channel::Stdout,
            LogStream::Stderr => Channel::Stderr,
            LogStream::System => Channel::Log,
        };
        let text = std::str::from_utf8(bytes).ok();
        let mut slot = self.0.slot();
        if slot.receiver_gone || bytes.is_empty() {
            return;
        }
        let Slot { waiting, chunk_bytes, metadata_bytes, printed, .. } = &mut *slot;
        let waiting = waiting.get_or_insert_default();
        let last = waiting.chunks.last_mut().filter(|_| *printed == Some(channel)).and_then(|chunk| chunk.text.as_mut());
        match (last, text) {
            (Some(last), Some(text)) if last.len() + text.len() <= LOG_RECORD_BYTES_MAX && *chunk_bytes + text.len() <= CHUNK_BYTES_MAX => {
                last.push_str(text);
                *chunk_bytes += text.len();
            }
            (_, text) => {
                let data_base64 = text.is_none().then(|| BASE64.encode(bytes));
                let text = text.map(str::to_owned);
                *printed = text.is_some().then_some(channel);
                let chunk = Chunk { channel, index: None, mime_type: None, text, data_base64, metadata: Map::new() };
                let n_dropped = waiting.dropped_chunks;
                merge(waiting, Feedback { chunks: vec![chunk], ..Feedback::default() }, chunk_bytes, metadata_bytes);
                if waiting.dropped_chunks > n_dropped {
                    *printed = None;
                }
            }
        }
        drop(slot);
        self.0.something.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::super::channel;
    use super::*;

    #[tokio::test]
    async fn what_is_printed_stands_among_the_chunks_in_order_and_short_pieces_go_together() {
        let (sender, mut receiver) = channel();
        for n in 0..1000 {
            sender.write(0, LogStream::Stdout, format!("{n}\n").as_bytes());
        }
        let said = serde_json::json!({ "chunks": [{ "channel": "stdout", "text": "said" }] });
        sender.push(serde_json::from_value(said).unwrap());
        sender.write(0, LogStream::Stdout, b"after");
        sender.write(0, LogStream::Stderr, b"\xff");
        let chunks = receiver.recv().await.unwrap().chunks;
        let of: Vec<_> = chunks.iter().map(|chunk| (chunk.channel, chunk.text.as_deref().unwrap_or_default().len())).collect();
        assert_eq!(of, [(Channel::Stdout, 3890), (Channel::Stdout, 4), (Channel::Stdout, 5), (Channel::Stderr, 0)]);
        assert_eq!(chunks[3].data_base64.as_deref(), Some("/w=="));
        // Nothing is added to what was taken already.
        sender.write(0, LogStream::Stdout, b"x");
        drop(sender);
        assert_eq!(receiver.recv().await.unwrap().chunks.len(), 1);
        assert_eq!(receiver.recv().await, None);
    }

    #[tokio::test]
    async fn a_handler_that_prints_faster_than_it_is_heard_costs_bounded_memory_and_what_is_left_out_is_counted() {
        let (sender, mut receiver) = channel();
        let line = "x".repeat(1024);
        for _ in 0..10_000 {
            sender.write(0, LogStream::Stdout, line.as_bytes());
        }
        drop(sender);
        let (mut kept, mut dropped) = (0, 0);
        while let Some(feedback) = receiver.recv().await {
            dropped += feedback.dropped_chunks;
            kept += feedback.chunks.iter().filter_map(|chunk| chunk.text.as_ref()).map(String::len).sum::<usize>();
        }
        assert!((CHUNK_BYTES_MAX / 2..=CHUNK_BYTES_MAX).contains(&kept) && dropped > 0, "{kept} kept, {dropped} dropped");
    }
}
