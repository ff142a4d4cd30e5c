//! What agent and handler host say to each other over two pipes: frames, each for one call.
//!
//! ```text
//!   length (4 bytes, big-endian, of all that follows) │ kind (1 byte) │ call (4 bytes, big-endian) │ JSON
//! ```
//!
//! Kind and call are no part of the JSON, so that a payload that cannot be read is the fault of its task only.

/// Bytes before the JSON, the length's own included.
const HEAD_BYTES: usize = 9;

/// To the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ToHost {
    /// The first: the host's own program, its package and settings.
    Hello = b'H',
    /// Run a handler.
    Call = b'C',
    /// Stop it.
    Stop = b'X',
    /// The answer to a `next()`.
    Next = b'N',
    /// Send no more chunks for now.
    Pause = b'P',
    /// Send them again.
    Resume = b'R',
    /// End.
    Quit = b'Q',
}

/// From the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FromHost {
    /// It can take calls.
    Ready = b'h',
    /// A handler returned.
    Returned = b'r',
    /// A handler did not.
    Failed = b'e',
    /// Feedback.
    Feedback = b'f',
    /// A `next()`.
    Next = b'n',
    /// The host has seen the order to stop.
    Stopping = b'x',
    /// A handler has registered a resource, or given one up.
    Resource = b's',
    /// A handler has printed something.
    Printed = b'l',
}

impl ToHost {
    /// For a host that is written in Rust as well.
    #[cfg(feature = "wasm")]
    pub(crate) fn of_byte(byte: u8) -> Option<Self> {
        match byte {
            b'H' => Some(Self::Hello),
            b'C' => Some(Self::Call),
            b'X' => Some(Self::Stop),
            b'N' => Some(Self::Next),
            b'P' => Some(Self::Pause),
            b'R' => Some(Self::Resume),
            b'Q' => Some(Self::Quit),
            _ => None,
        }
    }
}

impl FromHost {
    fn of_byte(byte: u8) -> Option<Self> {
        match byte {
            b'h' => Some(Self::Ready),
            b'r' => Some(Self::Returned),
            b'e' => Some(Self::Failed),
            b'f' => Some(Self::Feedback),
            b'n' => Some(Self::Next),
            b'x' => Some(Self::Stopping),
            b's' => Some(Self::Resource),
            b'l' => Some(Self::Printed),
            _ => None,
        }
    }
}

/// One frame as bytes.
pub(crate) fn encode(kind: ToHost, call: u32, payload: &[u8]) -> Vec<u8> {
    encode_byte(kind as u8, call, payload)
}

/// One frame from a host as bytes.
#[cfg(feature = "wasm")]
pub(crate) fn encode_from_host(kind: FromHost, call: u32, payload: &[u8]) -> Vec<u8> {
    encode_byte(kind as u8, call, payload)
}

fn encode_byte(kind: u8, call: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len() + HEAD_BYTES - 4).expect("payloads are bounded far below");
    let mut frame = Vec::with_capacity(HEAD_BYTES + payload.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.push(kind);
    frame.extend_from_slice(&call.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A frame that has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: FromHost,
    pub(crate) call: u32,
    pub(crate) payload: &'a [u8],
}

/// Something that is no frame.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Nonsense {
    #[error("a frame of {0} bytes")]
    Length(u32),
    #[error("a frame of the kind {0}")]
    Kind(u8),
    #[error("a line that is none: {0}")]
    Line(String),
}

/// Reads the first frame in `bytes`, and how many of them it takes; nothing while a part is missing.
///
/// # Errors
/// What is there cannot be the beginning of a frame of at most `bytes_max`.
pub(crate) fn decode(bytes: &[u8], bytes_max: usize) -> Result<Option<(Frame<'_>, usize)>, Nonsense> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length);
    let length_of_all = usize::try_from(length).unwrap_or(usize::MAX);
    if length_of_all < HEAD_BYTES - 4 || length_of_all > bytes_max {
        return Err(Nonsense::Length(length));
    }
    if let Some(kind) = rest.first()
        && FromHost::of_byte(*kind).is_none()
    {
        return Err(Nonsense::Kind(*kind));
    }
    let Some(frame) = rest.get(..length_of_all) else { return Ok(None) };
    let (Some(kind), Some((call, payload))) = (FromHost::of_byte(frame[0]), frame[1..].split_first_chunk::<4>()) else {
        return Err(Nonsense::Length(length));
    };
    Ok(Some((Frame { kind, call: u32::from_be_bytes(*call), payload }, length_of_all + 4)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, call: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = encode(ToHost::Call, call, payload);
        frame[4] = kind;
        frame
    }

    #[test]
    fn frames_are_read_however_they_are_cut() {
        let bytes = [frame(b'r', 7, b"{}"), frame(b'f', 8, b"")].concat();
        for end in 0..11 {
            assert_eq!(decode(&bytes[..end], 100), Ok(None), "{end}");
        }
        let (first, taken) = decode(&bytes, 100).unwrap().unwrap();
        assert_eq!((first, taken), (Frame { kind: FromHost::Returned, call: 7, payload: b"{}" }, 11));
        let (second, taken) = decode(&bytes[11..], 100).unwrap().unwrap();
        assert_eq!((second, taken), (Frame { kind: FromHost::Feedback, call: 8, payload: b"" }, 9));
    }

    #[test]
    fn what_is_no_frame_is_told_at_its_first_bytes() {
        assert_eq!(decode(b"hello there", 100), Err(Nonsense::Length(u32::from_be_bytes(*b"hell"))));
        assert_eq!(decode(&[0, 0, 0, 4], 100), Err(Nonsense::Length(4)));
        assert_eq!(decode(&[0, 0, 0, 9, b'?'], 100), Err(Nonsense::Kind(b'?')));
        assert_eq!(decode(&frame(b'r', 1, &[b' '; 200]), 100), Err(Nonsense::Length(205)));
    }
}
