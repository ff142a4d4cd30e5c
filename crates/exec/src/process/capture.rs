//! Where a program's output goes: to the log as it comes, its beginning into memory, and from the cap on nowhere.
//!
//! Memory is bounded by [`ANSWER_OUTPUT_BYTES_MAX`] a stream; the program is read to its end in any case, so it never blocks on us.

use std::io;
use std::sync::Arc;

use longshore_model::limits::ANSWER_OUTPUT_BYTES_MAX;
use longshore_model::unit::ByteSize;
use longshore_model::wire::log::LogStream;
use tokio::io::AsyncWriteExt;

use crate::Output;

/// Bytes one stream may take up inside an answer once it is JSON, where one odd byte can become six.
const JSON_BYTES_MAX: usize = 3 * ANSWER_OUTPUT_BYTES_MAX;

/// Takes one program's output.
pub(crate) struct Sink {
    output: Arc<dyn Output>,
    step: u32,
    cap: u64,
    left: u64,
    cut: bool,
    log: Option<tokio::fs::File>,
    log_fault: Option<io::Error>,
    stdout: Head,
    stderr: Head,
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
        Self { stdout: head(), stderr: head(), ..Self::to_file(output, 0, cap, None) }
    }

    /// Sends up to `cap` bytes to the log and to the step's log file.
    pub(crate) fn to_file(output: Arc<dyn Output>, step: u32, cap: u64, log: Option<tokio::fs::File>) -> Self {
        let (stdout, stderr) = (Head::default(), Head::default());
        Self { output, step, cap, left: cap, cut: false, log, log_fault: None, stdout, stderr }
    }

    /// Takes a piece of stdout or stderr. The bytes are in the log file when it returns.
    pub(crate) async fn take(&mut self, stream: LogStream, bytes: &[u8]) {
        match stream {
            LogStream::Stdout => self.stdout.take(bytes),
            LogStream::Stderr => self.stderr.take(bytes),
            LogStream::System => {}
        }
        let fits = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        self.left -= fits as u64;
        if fits > 0 {
            self.output.write(self.step, stream, &bytes[..fits]);
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
    pub(crate) fn finish(self) -> Captured {
        let (stdout, stdout_cut) = self.stdout.text();
        let (stderr, stderr_cut) = self.stderr.text();
        Captured {
            stdout,
            stderr,
            stdout_bytes: self.stdout.total,
            stderr_bytes: self.stderr.total,
            truncated: stdout_cut || stderr_cut,
            cut: self.cut,
            log_fault: self.log_fault,
        }
    }

    async fn write_log(&mut self, bytes: &[u8]) {
        let Some(log) = &mut self.log else { return };
        let written = match log.write_all(bytes).await {
            Ok(()) => log.flush().await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            // The step goes on, as its output still reaches the log; the fault is reported at its end.
            self.log_fault = Some(error);
            self.log = None;
        }
    }
}

impl Head {
    fn take(&mut self, bytes: &[u8]) {
        let fits = self.room.min(bytes.len());
        self.kept.extend_from_slice(&bytes[..fits]);
        self.room -= fits;
        self.total += bytes.len() as u64;
    }

    /// The kept bytes as text that stays small as JSON, and whether something is missing from it.
    fn text(&self) -> (String, bool) {
        let mut cut = self.total > self.kept.len() as u64;
        let mut kept = self.kept.as_slice();
        if cut
            && let Err(error) = std::str::from_utf8(kept)
            && error.error_len().is_none()
        {
            // The cap fell inside a character; half of one would show as garbage.
            kept = &kept[..error.valid_up_to()];
        }
        let mut text = String::from_utf8_lossy(kept).into_owned();
        let mut json_bytes = 0;
        let end = text.char_indices().find_map(|(at, c)| {
            json_bytes += match c {
                '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
                '\0'..='\u{1f}' => 6,
                _plain => c.len_utf8(),
            };
            (json_bytes > JSON_BYTES_MAX).then_some(at)
        });
        if let Some(end) = end {
            text.truncate(end);
            cut = true;
        }
        (text, cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], room: usize, expected: (&str, bool)) {
        let mut head = Head { room, ..Head::default() };
        head.take(bytes);
        let (text, cut) = head.text();
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
            head.take(&vec![byte; 2 * ANSWER_OUTPUT_BYTES_MAX]);
            let (text, cut) = head.text();
            assert!(cut);
            assert!(serde_json::to_string(&text).unwrap().len() <= JSON_BYTES_MAX + 2);
        }
    }
}
