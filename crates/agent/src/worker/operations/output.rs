//! Output of an operation on its way into the session: written without waiting for anybody, sent in order as feedback. What finds no room is
//! counted, and told by the next record or by a last one without bytes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use data_encoding::BASE64;
use jiff::Timestamp;
use longshore_exec::Output;
use longshore_model::limits::LOG_RECORD_BYTES_MAX;
use longshore_model::wire::attached::OutputPlace;
use longshore_model::wire::log::{LogGap, LogStream};
use longshore_session::Payload;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

/// Bytes of one task that wait for the session: a second of a loud program, and minutes of a quiet one while the connection is away.
const WAITING_BYTES_MAX: usize = 8 << 20;
/// What a short piece costs beside its bytes.
const PIECE_COST_BYTES: usize = 128;
/// Bytes of one frame of feedback.
const FRAME_BYTES_MAX: usize = 256 << 10;

/// Both ends.
pub(super) fn channel() -> (Arc<Sink>, Source) {
    let shared = Arc::new(Shared::default());
    (Arc::new(Sink(Arc::clone(&shared))), Source(shared))
}

/// Takes what is written; the source ends when it is dropped.
pub(super) struct Sink(Arc<Shared>);

/// What is to be sent.
pub(super) struct Source(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    something: Notify,
    room: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Piece>,
    bytes: usize,
    /// Of the next record.
    seq: u64,
    /// The step that was written last.
    step: u32,
    missed: Missed,
    is_closed: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Missed {
    records: u64,
    bytes: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Piece {
    seq: u64,
    step: u32,
    stream: LogStream,
    time: Timestamp,
    missed: Missed,
    bytes: Vec<u8>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn write(&mut self, step: u32, stream: LogStream, time: Timestamp, bytes: &[u8]) {
        self.step = step;
        if let Some(last) = self.waiting.back_mut()
            && (last.step, last.stream) == (step, stream)
            && self.missed == Missed::default()
            && last.bytes.len() + bytes.len() <= LOG_RECORD_BYTES_MAX
            && self.bytes + bytes.len() <= WAITING_BYTES_MAX
        {
            last.bytes.extend_from_slice(bytes);
            self.bytes += bytes.len();
            return;
        }
        let seq = self.seq;
        self.seq += 1;
        if self.bytes + bytes.len() + PIECE_COST_BYTES > WAITING_BYTES_MAX {
            self.missed = Missed { records: self.missed.records + 1, bytes: self.missed.bytes + bytes.len() as u64 };
            return;
        }
        self.put(Piece { seq, step, stream, time, missed: Missed::default(), bytes: bytes.to_vec() });
    }

    fn put(&mut self, piece: Piece) {
        self.bytes += piece.bytes.len() + PIECE_COST_BYTES;
        let missed = std::mem::take(&mut self.missed);
        self.waiting.push_back(Piece { missed, ..piece });
    }

    fn close(&mut self, time: Timestamp) {
        if self.missed != Missed::default() {
            let (seq, step) = (self.seq, self.step);
            self.put(Piece { seq, step, stream: LogStream::System, time, missed: Missed::default(), bytes: Vec::new() });
        }
        self.is_closed = true;
    }

    /// What fits a frame; nothing if nothing waits.
    fn take(&mut self) -> Vec<Piece> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(first) = self.waiting.front() {
            bytes += first.bytes.len() + PIECE_COST_BYTES;
            if bytes > FRAME_BYTES_MAX && !taken.is_empty() {
                break;
            }
            self.bytes -= first.bytes.len() + PIECE_COST_BYTES;
            taken.extend(self.waiting.pop_front());
        }
        taken
    }
}

impl Output for Sink {
    fn write(&self, step: u32, stream: LogStream, bytes: &[u8]) {
        let mut state = self.0.state();
        for bytes in bytes.chunks(LOG_RECORD_BYTES_MAX) {
            state.write(step, stream, Timestamp::now(), bytes);
        }
        drop(state);
        self.0.something.notify_one();
    }

    fn ready(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            loop {
                let room = self.0.room.notified();
                if self.0.state().bytes < WAITING_BYTES_MAX / 2 {
                    return;
                }
                room.await;
            }
        })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.0.state().close(Timestamp::now());
        self.0.something.notify_one();
    }
}

impl Source {
    /// Sends everything, until the sink is gone or nobody takes it any more.
    pub(super) async fn send(self, out: &mpsc::Sender<Payload>) {
        loop {
            // A place first: what is not taken yet goes on being put together.
            let Ok(place) = out.reserve().await else { return };
            let pieces = loop {
                let something = self.0.something.notified();
                let (pieces, is_closed) = {
                    let mut state = self.0.state();
                    (state.take(), state.is_closed)
                };
                if !pieces.is_empty() {
                    break pieces;
                }
                if is_closed {
                    return;
                }
                something.await;
            };
            self.0.room.notify_waiters();
            place.send(payload(&pieces));
        }
    }
}

fn payload(pieces: &[Piece]) -> Payload {
    let chunks: Vec<Value> = pieces.iter().map(chunk).collect();
    Payload::from_iter([("chunks".to_owned(), Value::Array(chunks))])
}

fn chunk(piece: &Piece) -> Value {
    let Piece { seq, step, stream, time, missed, bytes } = piece;
    let channel = match stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
        LogStream::System => "log",
    };
    let Missed { records, bytes: missed_bytes } = *missed;
    let gap = (records > 0).then_some(LogGap { records: Some(records), bytes: Some(missed_bytes) });
    let place = OutputPlace { step: *step, time: *time, gap };
    json!({ "channel": channel, "index": seq, "data_base64": BASE64.encode(bytes), "metadata": place })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_told_by_the_next_record_and_at_the_end() {
        let mut state = State::default();
        let now = Timestamp::UNIX_EPOCH;
        let block = vec![b'x'; LOG_RECORD_BYTES_MAX];
        let n_fit = WAITING_BYTES_MAX / (LOG_RECORD_BYTES_MAX + PIECE_COST_BYTES);
        for _ in 0..n_fit + 3 {
            state.write(1, LogStream::Stdout, now, &block);
        }
        assert_eq!((state.waiting.len(), state.missed.records), (n_fit, 3));
        assert!(state.bytes <= WAITING_BYTES_MAX);
        assert!(!state.take().is_empty());
        state.write(1, LogStream::Stderr, now, b"after");
        let last = state.waiting.back().unwrap();
        assert_eq!((last.seq, last.missed.records, last.missed.bytes), (n_fit as u64 + 3, 3, 3 * LOG_RECORD_BYTES_MAX as u64));
        // And once more, with nothing after it.
        while state.missed.records == 0 {
            state.write(2, LogStream::Stdout, now, &block);
        }
        state.close(now);
        let last = state.waiting.back().unwrap();
        assert_eq!((last.step, last.stream, last.missed.records, last.bytes.len()), (2, LogStream::System, 1, 0));
        let mut seen = 0;
        loop {
            let pieces = state.take();
            if pieces.is_empty() {
                break;
            }
            assert!(pieces.iter().map(|piece| piece.bytes.len()).sum::<usize>() <= FRAME_BYTES_MAX);
            seen += pieces.len();
        }
        assert!(seen > 0 && state.bytes == 0);
    }

    #[tokio::test]
    async fn short_pieces_go_together_and_the_source_ends_after_everything_was_sent() {
        let (sink, source) = channel();
        for n in 0..1000 {
            sink.write(0, LogStream::Stdout, format!("{n}\n").as_bytes());
        }
        sink.write(0, LogStream::Stderr, b"end");
        let (out, mut sent) = mpsc::channel(4);
        drop(sink);
        source.send(&out).await;
        drop(out);
        let frame = sent.recv().await.unwrap();
        let chunks = frame["chunks"].as_array().unwrap();
        assert_eq!((chunks.len(), chunks[1]["index"].as_u64(), chunks[1]["channel"].as_str()), (2, Some(1), Some("stderr")));
        let text = BASE64.decode(chunks[0]["data_base64"].as_str().unwrap().as_bytes()).unwrap();
        assert!(text.starts_with(b"0\n1\n") && text.ends_with(b"999\n"));
        assert!(sent.recv().await.is_none());
    }
}
