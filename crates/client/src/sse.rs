//! Server-sent events, parsed as bytes arrive. Chunks may end anywhere: inside a line, a CRLF, or a character.
//!
//! No input and no clock of its own. What a hostile or broken server can make it hold is bounded by [`EVENT_BYTES_MAX`].

use std::collections::VecDeque;

/// Bytes of one event, all of its lines together.
const EVENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One event with data, or with a name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Event {
    /// The last identifier seen at or before this event.
    pub(crate) id: Option<String>,
    /// Its name; `message` is written as none.
    pub(crate) name: Option<String>,
    /// Its data lines, joined by line feeds.
    pub(crate) data: String,
}

/// Why a stream cannot be read further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SseError {
    /// More than [`EVENT_BYTES_MAX`].
    #[error("an event is larger than {EVENT_BYTES_MAX} bytes")]
    TooLarge,
    /// The specification wants UTF-8.
    #[error("a line is not UTF-8")]
    NotUtf8,
}

/// The parser of one connection. Make a new one for the next.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    begun: bool,
    id: Option<String>,
    name: Option<String>,
    data: Option<String>,
    ready: VecDeque<Event>,
}

impl Parser {
    /// Takes the next bytes.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<(), SseError> {
        while let Some(&first) = bytes.first() {
            // The line feed of a CRLF whose carriage return already ended the line.
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let (part, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            if self.line.len() + self.data.as_ref().map_or(0, String::len) + part.len() > EVENT_BYTES_MAX {
                return Err(SseError::TooLarge);
            }
            self.line.extend_from_slice(part);
            let Some(terminator) = rest.first() else { return Ok(()) };
            self.after_cr = *terminator == b'\r';
            bytes = &rest[1..];
            self.end_line()?;
        }
        Ok(())
    }

    /// The oldest complete event.
    pub(crate) fn next(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }

    fn end_line(&mut self) -> Result<(), SseError> {
        let line = String::from_utf8(std::mem::take(&mut self.line)).map_err(|_| SseError::NotUtf8)?;
        let line = if std::mem::replace(&mut self.begun, true) { line.as_str() } else { line.trim_start_matches('\u{feff}') };
        if line.is_empty() {
            self.dispatch();
            return Ok(());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "event" => self.name = Some(value.to_owned()).filter(|name| !name.is_empty() && name != "message"),
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()).filter(|id| !id.is_empty()),
            // Comments (an empty field), `retry`, and what may be invented later.
            _ => {}
        }
        Ok(())
    }

    fn dispatch(&mut self) {
        let (name, data) = (self.name.take(), self.data.take());
        // Stricter readers drop events without data; ours keeps a bare `event: end`.
        if name.is_some() || data.is_some() {
            self.ready.push_back(Event { id: self.id.clone(), name, data: data.unwrap_or_default() });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(id: Option<&str>, name: Option<&str>, data: &str) -> Event {
        Event { id: id.map(str::to_owned), name: name.map(str::to_owned), data: data.to_owned() }
    }

    fn parse(chunks: &[&[u8]]) -> Vec<Event> {
        let mut parser = Parser::default();
        chunks.iter().for_each(|chunk| parser.push(chunk).unwrap());
        std::iter::from_fn(|| parser.next()).collect()
    }

    #[track_caller]
    fn check(text: &str, expected: &[Event]) {
        assert_eq!(parse(&[text.as_bytes()]), expected, "{text:?}");
    }

    #[test]
    fn events_parse() {
        check("data: a\n\n", &[event(None, None, "a")]);
        check("data:a\ndata: b\ndata\n\n", &[event(None, None, "a\nb\n")]);
        check("id: 7\nevent: end\n\n", &[event(Some("7"), Some("end"), "")]);
        check("id: 7\ndata: x\n\ndata: y\n\n", &[event(Some("7"), None, "x"), event(Some("7"), None, "y")]);
        check(": keep-alive\n\n:\n\nretry: 3\n\n", &[]);
        check("\u{feff}data: x\n\n", &[event(None, None, "x")]);
        check("event: message\ndata: x\r\n\r\n", &[event(None, None, "x")]);
        check("data: x\r\rdata: y\r\n\n", &[event(None, None, "x"), event(None, None, "y")]);
        check("id: a\0b\ndata: x\n\n", &[event(None, None, "x")]);
        check("data: unfinished\n", &[]);
        check("data:  two spaces\n\n", &[event(None, None, " two spaces")]);
    }

    #[test]
    fn a_stream_may_be_cut_anywhere() {
        let text = "id: 1\r\nevent: größe\r\ndata: {\"a\":\"ü\"}\r\n\r\n: note\r\ndata: b\r\n\r\n".as_bytes();
        let whole = parse(&[text]);
        assert_eq!(whole.len(), 2);
        for cut in 0..=text.len() {
            assert_eq!(parse(&[&text[..cut], &text[cut..]]), whole, "cut at {cut}");
        }
        assert_eq!(parse(&text.iter().map(std::slice::from_ref).collect::<Vec<_>>()), whole);
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut parser = Parser::default();
        let chunk = vec![b'x'; 1 << 20];
        let refused = (0..8).find_map(|_| parser.push(&chunk).err());
        assert_eq!(refused, Some(SseError::TooLarge));

        let mut parser = Parser::default();
        let line = [b"data: ".as_slice(), &vec![b'y'; 1 << 20], b"\n"].concat();
        assert_eq!((0..8).find_map(|_| parser.push(&line).err()), Some(SseError::TooLarge));
    }

    #[test]
    fn lines_that_are_not_utf8_are_refused() {
        assert_eq!(Parser::default().push(b"data: \xff\n"), Err(SseError::NotUtf8));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_never_panic(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20)) {
            let mut parser = Parser::default();
            for chunk in &chunks {
                if parser.push(chunk).is_err() {
                    break;
                }
            }
            while parser.next().is_some() {}
        }
    }
}
