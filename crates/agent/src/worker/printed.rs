//! What handlers print, in the worker's own log: a line each, with its task, without the secrets that the task was handed, and so much of it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use longshore_exec::Output;
use longshore_exec::process::Redactor;
use longshore_model::operation::RESOURCE_BINDINGS;
use longshore_model::wire::log::LogStream;
use serde_json::Value;

use super::handlers::Task;

/// Bytes of one line; what is longer is several.
const LINE_BYTES_MAX: usize = 8 << 10;
/// Bytes of one task: a log that one loud handler fills says nothing of the others.
const TASK_BYTES_MAX: usize = 1 << 20;

/// One task's. What was printed without an end of its line is logged when it is dropped.
pub(super) struct Printed {
    run: String,
    task: String,
    /// Of the values that are no business of whoever reads the log.
    redactor: Option<Redactor>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    streams: BTreeMap<&'static str, Stream>,
    n_bytes: usize,
}

#[derive(Default)]
struct Stream {
    redactor: Option<Redactor>,
    line: Vec<u8>,
}

impl Printed {
    pub(super) fn of(task: &Task) -> Self {
        let bindings = task.parameters.get(RESOURCE_BINDINGS).and_then(Value::as_object);
        let value = |(name, binding): (&String, &Value)| Some((name.clone(), binding.get("value")?.as_str()?.to_owned()));
        let secrets = bindings.into_iter().flatten().filter_map(value).collect();
        Self { run: task.run_id.clone(), task: task.task_id.clone(), redactor: Redactor::of(&secrets), state: Mutex::default() }
    }

    fn take(&self, n_bytes: &mut usize, name: &'static str, stream: &mut Stream, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n').flat_map(|piece| piece.chunks(LINE_BYTES_MAX)) {
            stream.line.extend_from_slice(piece);
            if stream.line.ends_with(b"\n") || stream.line.len() >= LINE_BYTES_MAX {
                self.log(n_bytes, name, &std::mem::take(&mut stream.line));
            }
        }
    }

    fn log(&self, n_bytes: &mut usize, stream: &'static str, line: &[u8]) {
        let line = line.trim_ascii_end();
        if line.is_empty() || *n_bytes > TASK_BYTES_MAX {
            return;
        }
        *n_bytes += line.len();
        if *n_bytes > TASK_BYTES_MAX {
            return tracing::warn!(run = self.run, task = self.task, "a handler prints more than is logged; the rest is left out");
        }
        let text = String::from_utf8_lossy(line);
        tracing::info!(run = self.run, task = self.task, stream, text = &*text, "a handler printed");
    }
}

impl Output for Printed {
    fn write(&self, _step: u32, stream: LogStream, bytes: &[u8]) {
        let name = match stream {
            LogStream::Stdout => "stdout",
            LogStream::Stderr => "stderr",
            LogStream::System => "system",
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { streams, n_bytes } = &mut *state;
        let stream = streams.entry(name).or_insert_with(|| Stream { redactor: self.redactor.clone(), line: Vec::new() });
        let passed = stream.redactor.as_mut().map(|redactor| redactor.pass(bytes));
        self.take(n_bytes, name, stream, passed.as_deref().unwrap_or(bytes));
    }
}

impl Drop for Printed {
    fn drop(&mut self) {
        let State { streams, mut n_bytes } = std::mem::take(self.state.get_mut().unwrap_or_else(PoisonError::into_inner));
        for (name, mut stream) in streams {
            let rest = stream.redactor.as_mut().map(Redactor::rest).unwrap_or_default();
            self.take(&mut n_bytes, name, &mut stream, &rest);
            self.log(&mut n_bytes, name, &stream.line);
        }
    }
}
