//! The two forms of a frame: bytes for hosts of ours, a line of JSON for programs of others.
//!
//! ```text
//!   to a program:    {"kind":"call","call":1,"payload":{…}}    also: stop, next, pause, resume, quit
//!   from a program:  {"kind":"returned","call":1,"payload":{"value":{…}}}    also: failed, feedback, next, stopping
//! ```

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::frame::{self, Frame, FromHost, Nonsense, ToHost};

/// A form of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// See [`frame`].
    Frames,
    /// A line each.
    Lines,
}

impl Codec {
    pub(crate) fn encode(self, kind: ToHost, call: u32, payload: &[u8]) -> Vec<u8> {
        match self {
            Self::Frames => frame::encode(kind, call, payload),
            Self::Lines => {
                let payload = if payload.is_empty() { b"{}" } else { payload };
                let mut line = format!(r#"{{"kind":"{}","call":{call},"payload":"#, word(kind)).into_bytes();
                line.extend_from_slice(payload);
                line.extend_from_slice(b"}\n");
                line
            }
        }
    }

    /// Whether a frame may end in these bytes.
    pub(crate) fn may_end_in(self, bytes: &[u8]) -> bool {
        match self {
            Self::Frames => true,
            Self::Lines => bytes.contains(&b'\n'),
        }
    }

    /// Takes every whole frame at the beginning of `bytes`, and gives how many bytes that were.
    pub(crate) fn decode(self, bytes: &[u8], bytes_max: usize, mut take: impl FnMut(&Frame<'_>)) -> Result<usize, Nonsense> {
        let mut at = 0;
        match self {
            Self::Frames => {
                while let Some((frame, taken)) = frame::decode(&bytes[at..], bytes_max)? {
                    take(&frame);
                    at += taken;
                }
            }
            Self::Lines => {
                while let Some(end) = bytes[at..].iter().position(|byte| *byte == b'\n') {
                    let line = bytes[at..at + end].trim_ascii();
                    if !line.is_empty() {
                        match serde_json::from_slice::<Line>(line) {
                            Ok(read) => {
                                let payload = read.payload.to_string();
                                take(&Frame { kind: read.kind.into(), call: read.call, payload: payload.as_bytes() });
                            }
                            // Whose it is can still be read: then it is the fault of that task only, which is told when it reads it again.
                            Err(error) => {
                                let (kind, call) = Head::of(line).ok_or_else(|| Nonsense::Line(error.to_string()))?;
                                take(&Frame { kind: kind.into(), call, payload: line });
                            }
                        }
                    }
                    at += end + 1;
                }
                if bytes.len() - at > bytes_max {
                    return Err(Nonsense::Length(u32::try_from(bytes.len() - at).unwrap_or(u32::MAX)));
                }
            }
        }
        Ok(at)
    }
}

#[derive(Deserialize)]
struct Line {
    kind: Kind,
    call: u32,
    #[serde(default)]
    payload: Value,
}

/// What is read of a line whose payload cannot be: as far as it goes.
#[derive(Default)]
struct Head {
    kind: Option<Kind>,
    call: Option<u32>,
}

impl Head {
    fn of(line: &[u8]) -> Option<(Kind, u32)> {
        let mut head = Self::default();
        let _ends_where_it_cannot_be_read = serde_json::Deserializer::from_slice(line).deserialize_map(&mut head);
        Some((head.kind?, head.call?))
    }
}

impl<'de> Visitor<'de> for &mut Head {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a frame")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "kind" => self.kind = Some(map.next_value()?),
                "call" => self.call = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Returned,
    Failed,
    Feedback,
    Next,
    Stopping,
    Printed,
}

impl From<Kind> for FromHost {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Returned => Self::Returned,
            Kind::Failed => Self::Failed,
            Kind::Feedback => Self::Feedback,
            Kind::Next => Self::Next,
            Kind::Stopping => Self::Stopping,
            Kind::Printed => Self::Printed,
        }
    }
}

fn word(kind: ToHost) -> &'static str {
    match kind {
        ToHost::Hello => "hello",
        ToHost::Call => "call",
        ToHost::Stop => "stop",
        ToHost::Next => "next",
        ToHost::Pause => "pause",
        ToHost::Resume => "resume",
        ToHost::Quit => "quit",
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::Answer;
    use super::*;

    #[test]
    fn lines_are_read_however_they_are_cut_and_nonsense_is_told() {
        let text = b"{\"kind\":\"returned\",\"call\":3,\"payload\":{\"value\":{}}}\n\n{\"kind\":\"stop";
        let mut seen = Vec::new();
        let taken = Codec::Lines.decode(text, 100, |frame| seen.push((frame.kind, frame.call, frame.payload.to_vec()))).unwrap();
        assert_eq!(seen, [(FromHost::Returned, 3, b"{\"value\":{}}".to_vec())]);
        assert_eq!(&text[taken..], b"{\"kind\":\"stop");
        for nonsense in ["hello\n", "{\"kind\":\"odd\",\"call\":1}\n", "[]\n"] {
            assert!(Codec::Lines.decode(nonsense.as_bytes(), 100, |_| ()).is_err(), "{nonsense}");
        }
        assert!(Codec::Lines.decode(&[b'x'; 200], 100, |_| ()).is_err());
    }

    #[test]
    fn a_payload_that_cannot_be_read_is_the_fault_of_its_call() {
        let deep = "[".repeat(1000) + &"]".repeat(1000);
        for payload in ["NaN", "1e999", "\"\\ud800\"", deep.as_str(), "{\"a\":}"] {
            let line = format!("{{\"kind\":\"returned\",\"call\":3,\"payload\":{{\"value\":{payload}}}}}\n");
            let mut seen = Vec::new();
            Codec::Lines
                .decode(line.as_bytes(), 10_000, |frame| seen.push((frame.kind, frame.call, super::super::answer::returned(frame.payload))))
                .unwrap();
            assert!(matches!(seen.as_slice(), [(FromHost::Returned, 3, Answer::Failed(_))]), "{payload}: {seen:?}");
        }
    }

    #[test]
    fn a_line_is_one_line() {
        let line = Codec::Lines.encode(ToHost::Call, 7, br#"{"a":"b\nc"}"#);
        assert_eq!(line, b"{\"kind\":\"call\",\"call\":7,\"payload\":{\"a\":\"b\\nc\"}}\n");
    }
}
