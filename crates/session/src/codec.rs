//! Bytes to envelopes and back. Strict, bounded, and without a panic whatever comes.
//!
//! What this writes it reads: `decode(encode(x)) == x`. Both refuse what is too large or nested too deeply.

use serde_json::Value;

use crate::envelope::{Envelope, Payload};

/// How deeply a payload may be nested, itself counted. Well below what the JSON parser takes, so that whoever passes this is never refused there.
pub const PAYLOAD_DEPTH_MAX: usize = 100;

/// How long a kind, an identifier, a tenant or a sender may be. They are kept in tables and said again in answers, so they are bounded apart from the frame.
pub const NAME_BYTES_MAX: usize = 1024;

/// How many flags a frame may have.
pub const FLAGS_MAX: usize = 64;

/// How much memory a frame may take once it is read, as [`weight`] estimates it. Its text may be all small objects, of which each takes a hundred times its text.
pub const WEIGHT_MAX: usize = 256 << 20;

/// What a map's node takes, a list's first room, and one value.
const OBJECT_WEIGHT: usize = 640;
const LIST_WEIGHT: usize = 160;
const VALUE_WEIGHT: usize = 32;

/// Why bytes are no frame.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// More than this end reads.
    #[error("the frame has {size} bytes and at most {max} are read")]
    TooLarge {
        /// What came.
        size: usize,
        /// What is read.
        max: usize,
    },
    /// More values than this end keeps in memory.
    #[error("the frame would take {weight} bytes of memory and at most {WEIGHT_MAX} are given")]
    TooHeavy {
        /// What it would take.
        weight: usize,
    },
    /// Not text.
    #[error("the frame is not UTF-8")]
    NotText(#[source] std::str::Utf8Error),
    /// Something else than a JSON object; a list would be read as the fields in their order.
    #[error("the frame is no JSON object")]
    NoObject,
    /// Not an envelope: broken JSON, an unknown field, a field of the wrong type.
    #[error("the frame is no envelope")]
    Malformed(#[source] serde_json::Error),
    /// A field that must say something does not.
    #[error("the frame's {0} is empty")]
    Empty(&'static str),
    /// A name that is longer than [`NAME_BYTES_MAX`], or too many flags.
    #[error("the frame's {0} is longer than {NAME_BYTES_MAX} bytes, or has more than {FLAGS_MAX} entries")]
    TooLong(&'static str),
    /// Nested more deeply than [`PAYLOAD_DEPTH_MAX`].
    #[error("the frame's payload is nested more than {PAYLOAD_DEPTH_MAX} deep")]
    TooDeep,
}

/// Why an envelope cannot be sent. Nothing was numbered, so nothing is missing because of it.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// More than the other end reads.
    #[error("the frame has {size} bytes and the other end reads at most {max}")]
    TooLarge {
        /// What it would be.
        size: usize,
        /// What is allowed.
        max: usize,
    },
    /// More values than the other end keeps in memory.
    #[error("the frame would take {weight} bytes of memory and the other end gives at most {WEIGHT_MAX}")]
    TooHeavy {
        /// What it would take.
        weight: usize,
    },
    /// A field that must say something does not.
    #[error("the frame's {0} is empty")]
    Empty(&'static str),
    /// A name that is longer than [`NAME_BYTES_MAX`], or too many flags.
    #[error("the frame's {0} is longer than {NAME_BYTES_MAX} bytes, or has more than {FLAGS_MAX} entries")]
    TooLong(&'static str),
    /// Nested more deeply than [`PAYLOAD_DEPTH_MAX`].
    #[error("the frame's payload is nested more than {PAYLOAD_DEPTH_MAX} deep")]
    TooDeep,
    /// The writer refused it.
    #[error("the frame cannot be written")]
    Unwritable(#[source] serde_json::Error),
}

/// Reads one frame of at most `bytes_max`. The literals `NaN`, `Infinity` and `-Infinity`, which Python writes for such floats, are read as `null`.
///
/// # Errors
/// See [`DecodeError`]; whatever comes, no more than [`WEIGHT_MAX`] is allocated for it.
pub fn decode(bytes: &[u8], bytes_max: usize) -> Result<Envelope, DecodeError> {
    decode_weighed(bytes, bytes_max).map(|(envelope, _)| envelope)
}

/// The same, and what the frame takes in memory.
pub(crate) fn decode_weighed(bytes: &[u8], bytes_max: usize) -> Result<(Envelope, usize), DecodeError> {
    if bytes.len() > bytes_max {
        return Err(DecodeError::TooLarge { size: bytes.len(), max: bytes_max });
    }
    let text = std::str::from_utf8(bytes).map_err(DecodeError::NotText)?;
    if !text.trim_start().starts_with('{') {
        return Err(DecodeError::NoObject);
    }
    let weight = weight(text);
    if weight > WEIGHT_MAX {
        return Err(DecodeError::TooHeavy { weight });
    }
    let envelope: Envelope = match serde_json::from_str(text) {
        Ok(envelope) => envelope,
        Err(error) => match without_odd_numbers(text) {
            Some(text) => serde_json::from_str(&text).map_err(DecodeError::Malformed)?,
            None => return Err(DecodeError::Malformed(error)),
        },
    };
    if let Some(field) = envelope.empty_field() {
        return Err(DecodeError::Empty(field));
    }
    if let Some(field) = envelope.long_field() {
        return Err(DecodeError::TooLong(field));
    }
    if is_too_deep(&envelope.payload) {
        return Err(DecodeError::TooDeep);
    }
    Ok((envelope, weight))
}

/// Writes one frame of at most `bytes_max`.
///
/// # Errors
/// See [`EncodeError`].
pub fn encode(envelope: &Envelope, bytes_max: usize) -> Result<String, EncodeError> {
    if let Some(field) = envelope.empty_field() {
        return Err(EncodeError::Empty(field));
    }
    if let Some(field) = envelope.long_field() {
        return Err(EncodeError::TooLong(field));
    }
    if is_too_deep(&envelope.payload) {
        return Err(EncodeError::TooDeep);
    }
    let text = serde_json::to_string(envelope).map_err(EncodeError::Unwritable)?;
    if text.len() > bytes_max {
        return Err(EncodeError::TooLarge { size: text.len(), max: bytes_max });
    }
    let weight = weight(&text);
    if weight > WEIGHT_MAX { Err(EncodeError::TooHeavy { weight }) } else { Ok(text) }
}

/// About what JSON takes in memory once it is read: its text, and what is around each of its values. Strings are strings for the parser and here alike up to where
/// the text is broken, and nothing is read beyond that.
fn weight(text: &str) -> usize {
    let (mut rest, mut sum) = (text, text.len());
    while let Some(at) = rest.find(['"', '{', '[', ',']) {
        let end = match rest.as_bytes()[at] {
            b'"' => at + end_of_string(&rest[at..]),
            b'{' => {
                sum += OBJECT_WEIGHT;
                at + 1
            }
            b'[' => {
                sum += LIST_WEIGHT;
                at + 1
            }
            _ => {
                sum += VALUE_WEIGHT;
                at + 1
            }
        };
        rest = &rest[end..];
    }
    sum
}

/// Whether a payload passes [`PAYLOAD_DEPTH_MAX`]. The descent ends there, so the stack is bounded too.
fn is_too_deep(payload: &Payload) -> bool {
    payload.values().any(|value| is_deeper_than(value, PAYLOAD_DEPTH_MAX - 1))
}

fn is_deeper_than(value: &Value, left: usize) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        Value::Array(items) => left == 0 || items.iter().any(|item| is_deeper_than(item, left - 1)),
        Value::Object(fields) => left == 0 || fields.values().any(|field| is_deeper_than(field, left - 1)),
    }
}

/// The text with Python's odd numbers replaced by `null`, if it has any outside strings.
fn without_odd_numbers(text: &str) -> Option<String> {
    if !text.contains("NaN") && !text.contains("Infinity") {
        return None;
    }
    let (mut rest, mut out, mut found) = (text, String::with_capacity(text.len()), false);
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            let end = end_of_string(rest);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        } else if let Some(word) = ["NaN", "-Infinity", "Infinity"].into_iter().find(|word| rest.starts_with(word)) {
            out.push_str("null");
            rest = &rest[word.len()..];
            found = true;
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    found.then_some(out)
}

/// Where the string that `text` begins with ends, its closing quote included; the whole text if it is not closed.
fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}
