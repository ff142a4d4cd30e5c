//! Live output of several hosts: whole lines, each with the name of its host before it.
//!
//! The invariant guarded here: a line is never mixed with another host's, however the pieces of both arrive.

use std::collections::BTreeMap;

use longshore_client::{ExecutionId, LogView, log_bytes};
use longshore_model::wire::log::LogStream;

use super::printable::printable;

/// Of a line without an end; a longer one is broken.
const LINE_BYTES_MAX: usize = 256 * 1024;

/// What is written, and where to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// Standard output or standard error.
    pub(crate) stream: LogStream,
    /// Whole lines.
    pub(crate) bytes: Vec<u8>,
}

/// Lines that have no end yet.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    open: BTreeMap<(ExecutionId, u8), Open>,
}

#[derive(Debug)]
struct Open {
    host: String,
    stream: LogStream,
    /// An attempt and a step: what follows another one's begins a line.
    of: (u32, u32),
    bytes: Vec<u8>,
}

impl Lines {
    /// Takes a piece of `host`'s output and gives the lines that are whole now.
    pub(crate) fn take(&mut self, host: &str, piece: &LogView) -> Written {
        let of = (piece.attempt, piece.step);
        let begin = || Open { host: printable(host), stream: piece.stream, of, bytes: Vec::new() };
        let open = self.open.entry((piece.execution, place(piece.stream))).or_insert_with(begin);
        let mut bytes = Vec::new();
        if open.of != of {
            open.end(&mut bytes);
        }
        (open.of, open.host) = (of, printable(host));
        for part in log_bytes(piece).split_inclusive(|byte| *byte == b'\n') {
            open.bytes.extend_from_slice(part);
            if part.ends_with(b"\n") || open.bytes.len() >= LINE_BYTES_MAX {
                open.end(&mut bytes);
            }
        }
        Written { stream: piece.stream, bytes }
    }

    /// The lines that never ended, now that nothing follows.
    pub(crate) fn rest(&mut self) -> Vec<Written> {
        let of_each = std::mem::take(&mut self.open).into_values().map(|mut open| {
            let mut bytes = Vec::new();
            open.end(&mut bytes);
            Written { stream: open.stream, bytes }
        });
        of_each.filter(|written| !written.bytes.is_empty()).collect()
    }
}

fn place(stream: LogStream) -> u8 {
    match stream {
        LogStream::Stdout => 0,
        LogStream::Stderr => 1,
        LogStream::System => 2,
    }
}

impl Open {
    fn end(&mut self, to: &mut Vec<u8>) {
        if self.bytes.is_empty() {
            return;
        }
        to.extend_from_slice(self.host.as_bytes());
        to.extend_from_slice(b" | ");
        to.append(&mut self.bytes);
        if to.last() != Some(&b'\n') {
            to.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use longshore_client::AgentId;

    use super::*;

    fn piece(agent: u128, stream: LogStream, attempt: u32, text: &str) -> LogView {
        LogView {
            execution: ExecutionId::Agent(AgentId::from_bits(agent)),
            agent: AgentId::from_bits(agent),
            attempt,
            step: 0,
            seq: 0,
            time: jiff::Timestamp::UNIX_EPOCH,
            stream,
            gap: None,
            text: Some(text.to_owned()),
            base64: None,
        }
    }

    #[test]
    fn lines_are_never_mixed_and_what_has_no_end_gets_one() {
        use LogStream::{Stderr, Stdout};
        let mut lines = Lines::default();
        let mut take = |agent: u128, stream, attempt, text: &str| {
            String::from_utf8(lines.take(&format!("h{agent}"), &piece(agent, stream, attempt, text)).bytes).unwrap()
        };
        assert_eq!(take(1, Stdout, 1, "a"), "");
        assert_eq!(take(2, Stdout, 1, "x\ny"), "h2 | x\n");
        assert_eq!(take(1, Stderr, 1, "e\n"), "h1 | e\n", "each stream has its own line");
        assert_eq!(take(1, Stdout, 1, "b\nc"), "h1 | ab\n");
        assert_eq!(take(1, Stdout, 2, "d\n\n"), "h1 | c\nh1 | d\nh1 | \n", "another attempt begins a line");
        let rest = lines.rest();
        assert_eq!(rest, [Written { stream: Stdout, bytes: b"h2 | y\n".to_vec() }]);
        assert_eq!(lines.rest(), []);
    }

    #[test]
    fn a_line_without_an_end_is_broken_rather_than_kept() {
        let mut lines = Lines::default();
        let long = "x".repeat(LINE_BYTES_MAX);
        let written = lines.take("h", &piece(1, LogStream::Stdout, 1, &long));
        assert_eq!(written.bytes.len(), "h | ".len() + LINE_BYTES_MAX + 1);
    }
}
