//! Where a program's output goes: to the log as it comes, its beginning into memory, and from the cap on nowhere.
//!
//! Memory is bounded by [`ANSWER_OUTPUT_BYTES_MAX`] a stream, or by what the job asked for; the program is read to its end in any case, so
//! it never blocks on us.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use longshore_model::limits::{ANSWER_OUTPUT_BYTES_MAX, LOG_RECORD_BYTES_MAX};
use longshore_model::unit::ByteSize;
use longshore_model::wire::log::LogStream;

use super::log_file::LogFile;
use super::redact::Redactor;
use crate::Output;

/// Bytes one stream may take up inside an answer once it is JSON, where one odd byte can become six.
const JSON_BYTES_MAX: usize = 3 * ANSWER_OUTPUT_BYTES_MAX;

/// How much of a program's output is kept for an answer.
#[derive(Debug, Clone, Copy)]
struct Room {
    /// Bytes of both streams.
    together: usize,
    /// Bytes of both once they are JSON.
    json_together: usize,
    /// Bytes of one of them once it is JSON.
    json_each: usize,
}

/// Takes one program's output.
pub(crate) struct Sink {
    output: Arc<dyn Output>,
    step: u32,
    cap: u64,
    left: u64,
    cut: bool,
    log: Option<LogFile>,
    stdout: Head,
    stderr: Head,
    room: Room,
    /// Bytes the program wrote to each.
    written: (u64, u64),
    /// Those of stdout and of stderr, if there are secrets.
    redactors: Option<Box<(Redactor, Redactor)>>,
}

/// What is left of a program's output when it has ended.
pub(crate) struct Captured {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) stdout_bytes: u64,
    pub(crate) stderr_bytes: u64,
    /// Whether one of the texts is only a part.
    pub(crate) truncated: bool,
    /// Whether the log was cut.
    pub(crate) cut: bool,
    /// The first fault of the log file.
    pub(crate) log_fault: Option<io::Error>,
}

#[derive(Default)]
struct Head {
    kept: Vec<u8>,
    room: usize,
    total: u64,
}

impl Sink {
    /// Keeps the beginning of each stream for an answer, and sends up to `cap` bytes to the log.
    pub(crate) fn keeping(output: Arc<dyn Output>, cap: u64) -> Self {
        let head = || Head { room: ANSWER_OUTPUT_BYTES_MAX, ..Head::default() };
        let room = Room { together: 2 * ANSWER_OUTPUT_BYTES_MAX, json_together: 2 * JSON_BYTES_MAX, json_each: JSON_BYTES_MAX };
        Self { stdout: head(), stderr: head(), room, ..Self::to_file(output, 0, cap, None) }
    }

    /// The same, but keeps the first `max` bytes of both streams together. Text in which every character needs an escape still fits.
    pub(crate) fn keeping_up_to(output: Arc<dyn Output>, cap: u64, max: usize) -> Self {
        let head = || Head { room: max, ..Head::default() };
        let json = (2 * max).max(JSON_BYTES_MAX);
        let room = Room { together: max, json_together: json, json_each: json };
        Self { stdout: head(), stderr: head(), room, ..Self::to_file(output, 0, cap, None) }
    }

    /// Sends up to `cap` bytes to the log and to the step's log file.
    pub(crate) fn to_file(output: Arc<dyn Output>, step: u32, cap: u64, log: Option<LogFile>) -> Self {
        let (stdout, stderr) = (Head::default(), Head::default());
        let room = Room { together: 0, json_together: 0, json_each: 0 };
        let (written, redactors) = ((0, 0), None);
        Self { output, step, cap, left: cap, cut: false, log, stdout, stderr, room, written, redactors }
    }

    /// The same, with these values taken out of the output before anything is done with it.
    pub(crate) fn without(mut self, secrets: &BTreeMap<String, String>) -> Self {
        self.redactors = Redactor::of(secrets).map(|redactor| Box::new((redactor.clone(), redactor)));
        self
    }

    /// Takes a piece of stdout or stderr. The bytes are in the log file when it returns, but for what may be the beginning of a secret.
    pub(crate) async fn take(&mut self, stream: LogStream, bytes: &[u8]) {
        match stream {
            LogStream::Stdout => self.written.0 += bytes.len() as u64,
            LogStream::Stderr => self.written.1 += bytes.len() as u64,
            LogStream::System => {}
        }
        let redacted = match (&mut self.redactors, stream) {
            (None, _) | (_, LogStream::System) => return self.pass_on(stream, bytes).await,
            (Some(redactors), LogStream::Stdout) => redactors.0.pass(bytes),
            (Some(redactors), LogStream::Stderr) => redactors.1.pass(bytes),
        };
        self.pass_on(stream, &redacted).await;
    }

    async fn pass_on(&mut self, stream: LogStream, bytes: &[u8]) {
        match stream {
            LogStream::Stdout => self.room.together -= self.stdout.take(bytes, self.room.together),
            LogStream::Stderr => self.room.together -= self.stderr.take(bytes, self.room.together),
            LogStream::System => {}
        }
        let fits = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        self.left -= fits as u64;
        if fits > 0 {
            bytes[..fits].chunks(LOG_RECORD_BYTES_MAX).for_each(|piece| self.output.write(self.step, stream, piece));
            self.write_log(&bytes[..fits]).await;
        }
        if fits < bytes.len() && !self.cut {
            self.cut = true;
            let marker = format!("\n[longshore] more than {} of output: the rest is cut, the program goes on\n", ByteSize(self.cap));
            self.remark(&marker).await;
        }
    }

    /// Writes a line of our own into the log.
    pub(crate) async fn remark(&mut self, line: &str) {
        self.output.write(self.step, LogStream::System, line.as_bytes());
        self.write_log(line.as_bytes()).await;
    }

    /// What was kept.
    pub(crate) async fn finish(mut self) -> Captured {
        if let Some(mut redactors) = self.redactors.take() {
            self.pass_on(LogStream::Stdout, &redactors.0.rest()).await;
            self.pass_on(LogStream::Stderr, &redactors.1.rest()).await;
        }
        let log_fault = match self.log.take() {
            Some(log) => log.close().await,
            None => None,
        };
        let (stdout, stdout_json, stdout_cut) = self.stdout.text(self.room.json_each);
        let (stderr, _, stderr_cut) = self.stderr.text(self.room.json_each.min(self.room.json_together - stdout_json));
        Captured {
            stdout,
            stderr,
            stdout_bytes: self.written.0,
            stderr_bytes: self.written.1,
            truncated: stdout_cut || stderr_cut,
            cut: self.cut,
            log_fault,
        }
    }

    async fn write_log(&mut self, bytes: &[u8]) {
        if let Some(log) = &mut self.log {
            log.write(bytes).await;
        }
    }
}

impl Head {
    /// Keeps what fits, and at most `left`. Gives how much that was.
    fn take(&mut self, bytes: &[u8], left: usize) -> usize {
        let fits = self.room.min(left).min(bytes.len());
        self.kept.extend_from_slice(&bytes[..fits]);
        self.room -= fits;
        self.total += bytes.len() as u64;
        fits
    }

    /// The kept bytes as text that has at most `json_max` bytes as JSON, how many it has, and whether something is missing from it.
    fn text(self, json_max: usize) -> (String, usize, bool) {
        let mut cut = self.total > self.kept.len() as u64;
        let mut kept = self.kept;
        if cut
            && let Err(error) = std::str::from_utf8(&kept)
            && error.error_len().is_none()
        {
            // The cap fell inside a character; half of one would show as garbage.
            kept.truncate(error.valid_up_to());
        }
        // Most output is text, and then this copies nothing.
        let mut text = String::from_utf8(kept).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        let mut json_bytes = 0;
        let end = text.char_indices().find_map(|(at, c)| {
            let bytes = match c {
                '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
                '\0'..='\u{1f}' => 6,
                _plain => c.len_utf8(),
            };
            let fits = json_bytes + bytes <= json_max;
            json_bytes += if fits { bytes } else { 0 };
            (!fits).then_some(at)
        });
        if let Some(end) = end {
            text.truncate(end);
            cut = true;
        }
        (text, json_bytes, cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], room: usize, expected: (&str, bool)) {
        let mut head = Head { room, ..Head::default() };
        head.take(bytes, usize::MAX);
        let (text, _, cut) = head.text(JSON_BYTES_MAX);
        assert_eq!((text.as_str(), cut), expected);
    }

    #[test]
    fn heads_are_cut_between_characters() {
        check(b"abc", 10, ("abc", false));
        check(b"abc", 2, ("ab", true));
        check("aé".as_bytes(), 2, ("a", true));
        check(b"a\xff", 10, ("a\u{fffd}", false));
    }

    #[test]
    fn text_stays_within_its_share_of_an_answer() {
        for byte in [0, 0xff, b'"', b'a'] {
            let mut head = Head { room: ANSWER_OUTPUT_BYTES_MAX, ..Head::default() };
            head.take(&vec![byte; 2 * ANSWER_OUTPUT_BYTES_MAX], usize::MAX);
            let (text, json_bytes, cut) = head.text(JSON_BYTES_MAX);
            assert!(cut);
            assert_eq!(serde_json::to_string(&text).unwrap().len(), json_bytes + 2);
            assert!(json_bytes <= JSON_BYTES_MAX);
        }
    }

    struct Nobody;

    impl Output for Nobody {
        fn write(&self, _: u32, _: LogStream, _: &[u8]) {}
    }

    #[tokio::test]
    async fn a_bound_that_was_asked_for_is_for_both_streams_together() {
        for (stdout, stderr, expected) in
            [(6, 4, (6, 4, false)), (6, 5, (6, 4, true)), (11, 3, (10, 0, true)), (10, 0, (10, 0, false)), (0, 11, (0, 10, true))]
        {
            let mut sink = Sink::keeping_up_to(Arc::new(Nobody), u64::MAX, 10);
            sink.take(LogStream::Stdout, &vec![b'\n'; stdout]).await;
            sink.take(LogStream::Stderr, &vec![b'"'; stderr]).await;
            let captured = sink.finish().await;
            assert_eq!((captured.stdout.len(), captured.stderr.len(), captured.truncated), expected);
            assert_eq!((captured.stdout_bytes, captured.stderr_bytes), (stdout as u64, stderr as u64));
        }
    }
}
