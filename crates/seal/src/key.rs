//! The text form of keys: what kind it is, then 32 bytes in base64. A key of one kind is never taken for one of another.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use data_encoding::HEXLOWER;

/// Bytes of every key here.
pub(crate) const KEY_BYTES: usize = 32;
/// Hex digits of a key's id: names it among a handful.
const ID_DIGITS: usize = 16;

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sealing,
    Opening,
    Signing,
    Trusted,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Sealing, Self::Opening, Self::Signing, Self::Trusted];

    fn prefix(self) -> &'static str {
        match self {
            Self::Sealing => "longshore-seal-",
            Self::Opening => "longshore-open-",
            Self::Signing => "longshore-sign-",
            Self::Trusted => "longshore-trust-",
        }
    }
}

/// Text that is not the key that is wanted. Never quotes it: it may be a private one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a key of ours.
    #[error("it is not a key: one begins with `{wanted}`")]
    NotAKey {
        /// What it should begin with.
        wanted: &'static str,
    },
    /// A key for something else.
    #[error("it is a key that begins with `{found}`, and one that begins with `{wanted}` belongs here")]
    OtherKind {
        /// What it begins with.
        found: &'static str,
        /// What it should begin with.
        wanted: &'static str,
    },
    /// Cut off, or mistyped.
    #[error("it is damaged: after `{wanted}` come 43 characters of base64")]
    Damaged {
        /// What it begins with.
        wanted: &'static str,
    },
    /// No key where at least one is needed.
    #[error("there is no key in it")]
    None,
}

pub(crate) fn write(kind: Kind, bytes: &[u8]) -> String {
    format!("{}{}", kind.prefix(), BASE64.encode(bytes))
}

pub(crate) fn read(kind: Kind, text: &str) -> Result<[u8; KEY_BYTES], KeyError> {
    let (wanted, text) = (kind.prefix(), text.trim());
    let Some(encoded) = text.strip_prefix(wanted) else {
        let other = Kind::ALL.into_iter().map(Kind::prefix).find(|prefix| text.starts_with(prefix));
        return Err(other.map_or(KeyError::NotAKey { wanted }, |found| KeyError::OtherKind { found, wanted }));
    };
    BASE64.decode(encoded).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(KeyError::Damaged { wanted })
}

/// Every key of a list, one a line; empty lines and those that begin with `#` are passed over.
pub(crate) fn read_list(kind: Kind, text: &str) -> Result<Vec<[u8; KEY_BYTES]>, KeyError> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<_> = lines.map(|line| read(kind, line)).collect::<Result<_, _>>()?;
    if keys.is_empty() { Err(KeyError::None) } else { Ok(keys) }
}

/// The id of a pair, made of its public half.
pub(crate) fn id_of(public: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, public);
    HEXLOWER.encode(&digest.as_ref()[..ID_DIGITS / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_another_kind_is_refused_by_name_and_never_quoted() {
        let text = write(Kind::Opening, &[7; 32]);
        assert_eq!(read(Kind::Opening, &format!("{text}\n")).unwrap(), [7; 32]);
        assert!(matches!(read(Kind::Sealing, &text), Err(KeyError::OtherKind { found: "longshore-open-", .. })));
        for damaged in [&text[..text.len() - 1], &format!("{text}A"), "longshore-open-", "longshore-open-\u{e9}"] {
            assert!(matches!(read(Kind::Opening, damaged), Err(KeyError::Damaged { .. })), "{damaged}");
        }
        let error = read(Kind::Opening, "hunter2").unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
        assert_eq!(read_list(Kind::Opening, &format!("# newest\n{text}\n\n{text}\n")).unwrap().len(), 2);
        assert_eq!(read_list(Kind::Opening, "# none\n"), Err(KeyError::None));
    }
}
