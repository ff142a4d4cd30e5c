//! What a handler says and prints, on its way to its job's log: bounded as a step's output is, and without the job's secrets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use longshore_model::limits::{LOG_BYTES_PER_STEP_MAX, LOG_RECORD_BYTES_MAX};
use longshore_model::wire::log::LogStream;

use crate::Output;
use crate::process::Redactor;

/// As much output as one step may have, and a remark where it was cut off.
pub(super) struct Log {
    output: Arc<dyn Output>,
    left: AtomicU64,
    /// Of stdout and of stderr. Held while a piece is written, so that none overtakes another.
    redactors: Option<Mutex<[Redactor; 2]>>,
}

impl Log {
    pub(super) fn new(output: Arc<dyn Output>, redactor: Option<&Redactor>) -> Self {
        let redactors = redactor.map(|redactor| Mutex::new([redactor.clone(), redactor.clone()]));
        Self { output, left: AtomicU64::new(LOG_BYTES_PER_STEP_MAX), redactors }
    }

    /// What was held back because it might have been the beginning of a secret is none.
    pub(super) fn end(&self) {
        let Some(redactors) = &self.redactors else { return };
        let mut redactors = redactors.lock().unwrap_or_else(PoisonError::into_inner);
        let [stdout, stderr] = &mut *redactors;
        self.pass_on(0, LogStream::Stdout, &stdout.rest());
        self.pass_on(0, LogStream::Stderr, &stderr.rest());
    }

    fn pass_on(&self, step: u32, stream: LogStream, bytes: &[u8]) {
        let wanted = bytes.len() as u64;
        let before = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(wanted)));
        let left = before.unwrap_or_default();
        let fits = usize::try_from(left.min(wanted)).unwrap_or(bytes.len());
        bytes[..fits].chunks(LOG_RECORD_BYTES_MAX).for_each(|piece| self.output.write(step, stream, piece));
        if fits < bytes.len() && left > 0 {
            self.output.write(step, LogStream::System, b"[truncated: the handler told more than its log keeps]\n");
        }
    }
}

impl Output for Log {
    fn write(&self, step: u32, stream: LogStream, bytes: &[u8]) {
        let Some(redactors) = &self.redactors else { return self.pass_on(step, stream, bytes) };
        let mut redactors = redactors.lock().unwrap_or_else(PoisonError::into_inner);
        let [stdout, stderr] = &mut *redactors;
        let bytes = match stream {
            LogStream::Stdout => stdout.pass(bytes),
            LogStream::Stderr => stderr.pass(bytes),
            // Whole lines of ours, with words of the handler's in them.
            LogStream::System => whole(stdout, bytes),
        };
        self.pass_on(step, stream, &bytes);
    }
}

/// A piece by itself, without the secrets; what `redactor` holds back stays with it.
fn whole(redactor: &Redactor, bytes: &[u8]) -> Vec<u8> {
    let mut alone = redactor.fresh();
    let mut ready = alone.pass(bytes);
    ready.extend(alone.rest());
    ready
}

/// A text without the secrets.
pub(super) fn without(redactor: &Redactor, text: &str) -> String {
    String::from_utf8_lossy(&whole(redactor, text.as_bytes())).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<(LogStream, Vec<u8>)>>);

    impl Output for Kept {
        fn write(&self, _step: u32, stream: LogStream, bytes: &[u8]) {
            self.0.lock().unwrap().push((stream, bytes.to_vec()));
        }
    }

    #[test]
    fn output_of_a_handler_is_cut_off_once_and_says_so() {
        let kept = Arc::new(Kept::default());
        let log = Log { left: AtomicU64::new(10), ..Log::new(Arc::clone(&kept) as Arc<dyn Output>, None) };
        for _ in 0..3 {
            log.write(0, LogStream::Stdout, b"sevenby");
        }
        let kept = kept.0.lock().unwrap();
        let pieces: Vec<_> =
            kept.iter().map(|(stream, bytes)| (*stream, if *stream == LogStream::System { 0 } else { bytes.len() })).collect();
        assert_eq!(pieces, [(LogStream::Stdout, 7), (LogStream::Stdout, 3), (LogStream::System, 0)]);
    }

    #[test]
    fn secrets_are_taken_out_of_each_stream_wherever_the_pieces_end() {
        let kept = Arc::new(Kept::default());
        let redactor = Redactor::of(&[("k".to_owned(), "hunter2-hunter2".to_owned())].into()).unwrap();
        let log = Log::new(Arc::clone(&kept) as Arc<dyn Output>, Some(&redactor));
        log.write(0, LogStream::Stdout, b"it is hunter2-");
        log.write(0, LogStream::Stderr, b"hunter2");
        log.write(0, LogStream::System, b"hunter2-hunter2 50%\n");
        log.write(0, LogStream::Stdout, b"hunter2.");
        log.end();
        let kept = kept.0.lock().unwrap();
        let of = |wanted: LogStream| {
            let pieces = kept.iter().filter(|(stream, _)| *stream == wanted).flat_map(|(_, bytes)| bytes.clone());
            String::from_utf8(pieces.collect()).unwrap()
        };
        assert_eq!(
            [of(LogStream::Stdout), of(LogStream::Stderr), of(LogStream::System)],
            ["it is ***.", "hunter2", "*** 50%\n"].map(str::to_owned)
        );
    }
}
