//! One call as the module sees it: what it reads, what it writes, and what it may use up.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wasmi_core::{LimiterError, ResourceLimiter};

use super::super::frame::FromHost;
use super::files::Files;
use super::wasi::Errno;

/// Bytes of memory of one call.
pub(super) const MEMORY_BYTES_MAX: usize = 256 << 20;
/// Elements of all tables of one call.
const TABLE_ELEMENTS_MAX: usize = 1 << 20;
/// Bytes that an element of a table takes.
const ELEMENT_BYTES: usize = 8;
/// Bytes of the end of stderr that are kept.
const LAST_WORDS_BYTES: usize = 2048;
/// Bytes of stderr that are passed on at a time, unless a line ends before.
const PIECE_BYTES: usize = 8192;
/// A wait without an end is several of these.
const LONG: Duration = Duration::from_secs(3600);

/// What others may tell a call that runs.
#[derive(Debug, Default)]
pub(super) struct Running {
    stopped: AtomicBool,
    told: Mutex<Told>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Told {
    /// No more feedback for now.
    paused: bool,
    /// The number of the last `next()`; it has one at a time.
    asked: u64,
    /// The answer to it.
    answer: Option<Vec<u8>>,
}

impl Running {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stop(&self) {
        let _in_order_with_who_waits = self.told();
        self.stopped.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    pub(super) fn pause(&self, paused: bool) {
        self.told().paused = paused;
        self.changed.notify_all();
    }

    /// The answer to a `next()` has come; a late one is nobody's.
    pub(super) fn answer(&self, number: u64, answer: Vec<u8>) {
        let mut told = self.told();
        if told.asked == number {
            told.answer = Some(answer);
        }
        drop(told);
        self.changed.notify_all();
    }

    /// The number of another `next()`.
    fn begin_next(&self) -> u64 {
        let mut told = self.told();
        (told.asked, told.answer) = (told.asked + 1, None);
        told.asked
    }

    /// Waits for the answer to the last `next()`; nothing if the time is over, or the call is stopped.
    fn wait_for_answer(&self, deadline: Option<Instant>) -> Option<Vec<u8>> {
        let mut told = self.told();
        while !self.is_stopped() {
            if let Some(answer) = told.answer.take() {
                return Some(answer);
            }
            let left = deadline.map_or(LONG, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                // Whatever comes from here on is late.
                told.asked += 1;
                return None;
            }
            told = self.changed.wait_timeout(told, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        None
    }

    /// Waits until whoever takes the feedback has room again, or the call is stopped.
    pub(super) fn wait_for_room(&self) {
        let mut told = self.told();
        while told.paused && !self.is_stopped() {
            told = self.changed.wait(told).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits so long, or until the call is stopped.
    pub(super) fn sleep(&self, long: Duration) {
        let deadline = Instant::now().checked_add(long);
        let mut told = self.told();
        while !self.is_stopped() {
            let left = deadline.map_or(LONG, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return;
            }
            told = self.changed.wait_timeout(told, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Whom a call talks to: the process that it runs in.
pub(super) trait Around: Send {
    /// Passes words of the call on to the worker.
    fn say(&self, kind: FromHost, words: &[u8]);

    /// The call waits for others, and needs no place among those that compute until it has gone on.
    fn step_aside(&self);

    /// It goes on.
    fn step_back(&self);
}

/// One call.
pub(super) struct Task {
    pub(super) running: Arc<Running>,
    pub(super) began: Instant,
    pub(super) args: Vec<String>,
    pub(super) input: Vec<u8>,
    pub(super) input_at: usize,
    pub(super) output: Vec<u8>,
    pub(super) output_bytes_max: usize,
    /// It wrote more than that.
    pub(super) overflown: bool,
    pub(super) files: Files,
    pub(super) share: Share,
    last_words: VecDeque<u8>,
    line: Vec<u8>,
    /// To its last `next()`.
    answer: Vec<u8>,
    around: Box<dyn Around>,
}

impl Task {
    /// # Errors
    /// There is no memory for what it reads.
    pub(super) fn new(
        running: Arc<Running>,
        memory: Arc<AtomicUsize>,
        args: Vec<String>,
        input: Vec<u8>,
        output_bytes_max: usize,
        around: Box<dyn Around>,
    ) -> Result<Self, String> {
        let mut share = Share { memory, taken: 0, elements: 0 };
        if !share.take(input.len()) {
            return Err("the host of the module has no memory for another task at the moment".to_owned());
        }
        Ok(Self {
            running,
            began: Instant::now(),
            args,
            input,
            input_at: 0,
            output: Vec::new(),
            output_bytes_max,
            overflown: false,
            files: Files::default(),
            share,
            last_words: VecDeque::new(),
            line: Vec::new(),
            answer: Vec::new(),
            around,
        })
    }

    /// The same with a directory that the module may use.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn with_data(mut self, dir: &Path) -> Result<Self, String> {
        self.files = Files::beneath(dir).map_err(|error| format!("the task's data directory cannot be opened: {error}"))?;
        Ok(self)
    }

    /// Takes what the module writes to stdout; gives whether that fitted.
    pub(super) fn write_output(&mut self, bytes: &[u8]) -> bool {
        if self.output.len() + bytes.len() > self.output_bytes_max || !self.share.take(bytes.len()) {
            self.overflown = true;
            return false;
        }
        self.output.extend_from_slice(bytes);
        true
    }

    /// Takes what the module writes to stderr.
    pub(super) fn print(&mut self, bytes: &[u8]) {
        let end = &bytes[bytes.len().saturating_sub(LAST_WORDS_BYTES)..];
        let excess = (self.last_words.len() + end.len()).saturating_sub(LAST_WORDS_BYTES);
        self.last_words.drain(..excess);
        self.last_words.extend(end);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n').flat_map(|line| line.chunks(PIECE_BYTES)) {
            self.line.extend_from_slice(piece);
            if self.line.ends_with(b"\n") || self.line.len() >= PIECE_BYTES {
                self.pass_line_on();
            }
        }
    }

    /// What it has written to stderr is said, also without an end of the line.
    pub(super) fn pass_line_on(&mut self) {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() {
            self.around
                .say(FromHost::Printed, json!({ "stream": "stderr", "text": String::from_utf8_lossy(&line) }).to_string().as_bytes());
        }
    }

    /// Says something while it runs.
    pub(super) fn feedback(&self, said: &[u8]) {
        self.around.say(FromHost::Feedback, said);
    }

    /// Calls the next element of the chain; nothing if it gave no answer until `deadline`, or the call was stopped.
    pub(super) fn ask_next(&mut self, request: &Value, deadline: Option<Instant>) -> Option<Vec<u8>> {
        let number = self.running.begin_next();
        self.around.say(FromHost::Next, json!({ "number": number, "request": request }).to_string().as_bytes());
        self.around.step_aside();
        let answer = self.running.wait_for_answer(deadline);
        self.around.step_back();
        answer
    }

    /// Keeps an answer until the next one.
    pub(super) fn keep_answer(&mut self, answer: Vec<u8>) -> Result<(), Errno> {
        self.share.give(std::mem::take(&mut self.answer).len());
        if !self.share.take(answer.len()) {
            return Err(Errno::NOMEM);
        }
        self.answer = answer;
        Ok(())
    }

    /// The last answer to a `next()`; empty without one.
    pub(super) fn answer(&self) -> &[u8] {
        &self.answer
    }

    pub(super) fn last_words(&mut self) -> String {
        String::from_utf8_lossy(self.last_words.make_contiguous()).trim().to_owned()
    }
}

/// What of the host's memory one call has taken; given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    memory: Arc<AtomicUsize>,
    taken: usize,
    elements: usize,
}

impl Share {
    fn take(&mut self, bytes: usize) -> bool {
        let taken = self.memory.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        if taken.is_ok() {
            self.taken += bytes;
        }
        taken.is_ok()
    }

    fn give(&mut self, bytes: usize) {
        self.taken -= bytes;
        self.memory.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.fetch_add(self.taken, Ordering::Relaxed);
    }
}

impl ResourceLimiter for Share {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool, LimiterError> {
        Ok(desired <= MEMORY_BYTES_MAX && self.take(desired.saturating_sub(current)))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool, LimiterError> {
        let more = desired.saturating_sub(current);
        let fits = self.elements + more <= TABLE_ELEMENTS_MAX && self.take(more * ELEMENT_BYTES);
        self.elements += if fits { more } else { 0 };
        Ok(fits)
    }

    fn instances(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        64
    }

    fn memories(&self) -> usize {
        1
    }
}
