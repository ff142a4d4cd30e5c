//! Fetches a package's archive from an address that nobody vouches for.
//!
//! - `http`, `https` and `file`; no user or password in an address, no proxy, nothing from the environment.
//! - The host is resolved here, and a connection is made to an address that was judged, so a name that means another address the next
//!   time does not help. Every redirect is judged like the first address.
//! - Bytes, time and pace are limited. What comes is digested on its way into a file that has no name another process knows.

mod http;
mod reach;

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use url::Url;

pub use self::reach::Reach;

/// How packages are fetched.
#[derive(Debug, Clone)]
pub struct FetchConfig {
    /// Which addresses may be fetched from.
    pub reach: Reach,
    /// The longest that fetching one file may take.
    pub timeout: Duration,
    /// The longest without a byte, and after which the pace must be [`FetchConfig::pace_bytes_per_second`] on average.
    pub patience: Duration,
    /// Bytes a second, on average, below which a transfer is given up.
    pub pace_bytes_per_second: u64,
    /// Certificates (PEM) of authorities that are trusted beside those of the system.
    pub authorities: Vec<PathBuf>,
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self {
            reach: Reach::Public,
            timeout: Duration::from_secs(600),
            patience: Duration::from_secs(30),
            pace_bytes_per_second: 1024,
            authorities: Vec::new(),
        }
    }
}

/// Why something was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It is no address that is fetched from.
    #[error("fetch {url:?}: {reason}")]
    Address {
        /// As far as it may be shown.
        url: String,
        /// Why.
        reason: &'static str,
    },
    /// It leads to an address that may not be fetched from.
    #[error("fetch from {host}: {address} is not among the {reach} addresses that may be fetched from")]
    Forbidden {
        /// The host that was named.
        host: String,
        /// What may be fetched from.
        reach: Reach,
        /// What it is.
        address: IpAddr,
    },
    /// The host is not known, or does not answer.
    #[error("reach {host}")]
    Unreachable {
        /// Which.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// It answered something that is no file.
    #[error("fetch {url:?}: {what}")]
    Answer {
        /// As far as it may be shown.
        url: String,
        /// What it answered.
        what: String,
    },
    /// There is more than is taken.
    #[error("fetch {url:?}: it has more than {bytes_max} bytes")]
    TooLarge {
        /// As far as it may be shown.
        url: String,
        /// What is taken.
        bytes_max: u64,
    },
    /// It takes too long.
    #[error("fetch {url:?}: {what}")]
    Slow {
        /// As far as it may be shown.
        url: String,
        /// In which way.
        what: &'static str,
    },
    /// A file cannot be read.
    #[error("read {path:?}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What came cannot be kept.
    #[error("keep what was fetched")]
    Keep(#[source] io::Error),
    /// The caller asked for the end.
    #[error("fetch the archive: stopped")]
    Stopped,
}

impl FetchError {
    /// Whether the same again may succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Slow { .. } | Self::Keep(_) | Self::Stopped => true,
            Self::Answer { what, .. } => what.starts_with("it answered 5") || what.starts_with("the connection"),
            Self::Address { .. } | Self::Forbidden { .. } | Self::TooLarge { .. } | Self::Read { .. } => false,
        }
    }
}

/// What was fetched.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) file: File,
    pub(crate) size: u64,
    /// Lower-case hex.
    pub(crate) sha256: String,
}

/// Takes what comes, within its bounds.
pub(crate) struct Taken {
    file: File,
    digest: Sha256,
    size: u64,
    bytes_max: u64,
    url: String,
}

impl Taken {
    fn new(file: File, bytes_max: u64, url: String) -> Self {
        Self { file, digest: Sha256::new(), size: 0, bytes_max, url }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        self.size += bytes.len() as u64;
        if self.size > self.bytes_max {
            return Err(self.too_large());
        }
        self.digest.update(bytes);
        self.file.write_all(bytes).map_err(FetchError::Keep)
    }

    fn too_large(&self) -> FetchError {
        FetchError::TooLarge { url: self.url.clone(), bytes_max: self.bytes_max }
    }

    fn done(self) -> Fetched {
        Fetched { file: self.file, size: self.size, sha256: HEXLOWER.encode(&self.digest.finalize()) }
    }
}

/// Fetches an address into `file`, which should be empty.
pub(crate) async fn fetch(url: &Url, file: File, bytes_max: u64, config: &FetchConfig) -> Result<Fetched, FetchError> {
    let taken = Taken::new(file, bytes_max, shown(url));
    match url.scheme() {
        "file" => {
            let path = url
                .to_file_path()
                .map_err(|()| FetchError::Address { url: shown(url), reason: "a file is named by an absolute path of this host" })?;
            blocking(move || copy(path, taken).map(Taken::done)).await
        }
        "http" | "https" => {
            let all = tokio::time::timeout(config.timeout, http::get(url.clone(), taken, config)).await;
            all.unwrap_or(Err(FetchError::Slow { url: shown(url), what: "its time was up" })).map(Taken::done)
        }
        _other => Err(FetchError::Address { url: shown(url), reason: "only http, https and file are fetched" }),
    }
}

/// Disks can be slow, and who fetches has other things to do meanwhile.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, FetchError> + Send + 'static) -> Result<T, FetchError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(FetchError::Keep(io::Error::other(error))))
}

/// Copies a regular file of this host.
fn copy(path: PathBuf, mut taken: Taken) -> Result<Taken, FetchError> {
    let fault = |source| FetchError::Read { path: path.clone(), source };
    // A pipe in its place would block for ever.
    let mut from = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(&path).map_err(fault)?;
    if !from.metadata().map_err(fault)?.is_file() {
        return Err(fault(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")));
    }
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match from.read(&mut buffer).map_err(fault)? {
            0 => return Ok(taken),
            n => taken.take(&buffer[..n])?,
        }
    }
}

/// An address without what may be secret in it: no user, no password, no query.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    let _of_another_kind = (url.set_username(""), url.set_password(None));
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}
