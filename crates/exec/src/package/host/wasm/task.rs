//! One call as the module sees it: what it reads, what it writes, and what it may use up.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use wasmi_core::{LimiterError, ResourceLimiter};

use super::super::frame::FromHost;
use super::files::Files;

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

/// What others may tell a call that runs.
#[derive(Debug, Default)]
pub(super) struct Running {
    stopped: AtomicBool,
    paused: Mutex<bool>,
    changed: Condvar,
}

impl Running {
    pub(super) fn stop(&self) {
        let _in_order_with_who_waits = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        self.stopped.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    pub(super) fn pause(&self, paused: bool) {
        *self.paused.lock().unwrap_or_else(PoisonError::into_inner) = paused;
        self.changed.notify_all();
    }

    /// Waits until whoever takes the feedback has room again, or the call is stopped.
    pub(super) fn wait_for_room(&self) {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        while *paused && !self.is_stopped() {
            paused = self.changed.wait(paused).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits so long, or until the call is stopped.
    pub(super) fn sleep(&self, long: Duration) {
        let deadline = Instant::now().checked_add(long);
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.is_stopped() {
            let left = deadline.map_or(Duration::from_secs(3600), |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return;
            }
            paused = self.changed.wait_timeout(paused, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Passes words of a call on to the worker.
pub(super) type Say = Box<dyn Fn(FromHost, &[u8]) + Send>;

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
    say: Say,
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
        say: Say,
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
            say,
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
            (self.say)(FromHost::Printed, json!({ "stream": "stderr", "text": String::from_utf8_lossy(&line) }).to_string().as_bytes());
        }
    }

    /// Says something while it runs.
    pub(super) fn feedback(&self, said: &[u8]) {
        (self.say)(FromHost::Feedback, said);
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
