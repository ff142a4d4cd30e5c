//! Whose word makes an archive worth installing: minisign keys of the settings.
//!
//! A digest says that the bytes are those that somebody meant; only a signature says who. Older signatures, over the bytes instead of
//! over their digest, are not taken.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use minisign_verify::{Error, PublicKey, Signature};

/// Keys that packages are trusted by. None: every package is.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    keys: Vec<(String, PublicKey)>,
}

/// Why nobody's word stands for an archive.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// It is no key.
    #[error("{0:?} is no public key of minisign")]
    Key(String),
    /// The signature is missing.
    #[error("believe the archive: packages have to be signed here, and there is no signature beside it")]
    Missing,
    /// The signature is none.
    #[error("believe the archive: its signature cannot be understood")]
    Damaged,
    /// It is of an older kind.
    #[error("believe the archive: its signature is of the older kind, which is not taken; sign again with a current minisign")]
    Legacy,
    /// The key is not known here.
    #[error("believe the archive: it was signed with a key that is not trusted here")]
    Unknown,
    /// The signature is for something else.
    #[error("believe the archive: its signature is not for these bytes")]
    Wrong,
    /// The archive could not be read.
    #[error("read the archive")]
    Read(#[source] io::Error),
}

impl Trust {
    /// Keys as `minisign -G` writes them: a file's two lines, or its second line alone.
    ///
    /// # Errors
    /// One is no key.
    pub fn new(keys: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self, TrustError> {
        let read = |text: &str| {
            let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default().to_owned();
            let key = PublicKey::from_base64(&line).map_err(|_| TrustError::Key(line.chars().take(80).collect()))?;
            Ok((line, key))
        };
        Ok(Self { keys: keys.into_iter().map(|key| read(key.as_ref())).collect::<Result<_, _>>()? })
    }

    /// Whether packages have to be signed.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Whether that key is one of them.
    pub(crate) fn has(&self, line: &str) -> bool {
        self.keys.iter().any(|(known, _)| known == line)
    }

    /// Whose word stands for the archive. Blocks.
    pub(crate) fn vouched(&self, mut archive: &File, signature: &[u8]) -> Result<String, TrustError> {
        let text = std::str::from_utf8(signature).map_err(|_| TrustError::Damaged)?;
        let signature = Signature::decode(text).map_err(|_| TrustError::Damaged)?;
        let mut refused = TrustError::Unknown;
        for (line, key) in &self.keys {
            let mut verifier = match key.verify_stream(&signature) {
                Ok(verifier) => verifier,
                Err(Error::UnsupportedLegacyMode) => {
                    refused = TrustError::Legacy;
                    continue;
                }
                Err(_another_key) => continue,
            };
            archive.seek(SeekFrom::Start(0)).map_err(TrustError::Read)?;
            let mut buffer = vec![0; 128 * 1024];
            loop {
                match archive.read(&mut buffer).map_err(TrustError::Read)? {
                    0 => break,
                    n => verifier.update(&buffer[..n]),
                }
            }
            match verifier.finalize() {
                Ok(()) => return Ok(line.clone()),
                Err(_not_for_these) => refused = TrustError::Wrong,
            }
        }
        Err(refused)
    }
}
