//! Reading an object's content, a few pieces at a time.
//!
//! The broker is asked for the next pieces when the last ones are read, so that memory depends neither on the object's size nor on how slow its
//! reader is. Pieces never change: any copy of the stream may give them, and what a copy does not have yet the leader has.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use async_nats::jetstream::object_store::ObjectInfo as Stored;
use async_nats::jetstream::stream::Stream;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tokio_util::io::StreamReader;

use super::link::Shared;
use crate::{Error, ObjectReader, Revision};

/// Pieces that are in memory at a time, about a mebibyte.
const AHEAD: usize = 8;
/// Bytes of them, where somebody made larger ones.
const AHEAD_BYTES: usize = 1024 * 1024;
/// How long a read waits for a broker that went away.
const BACK_WITHIN: Duration = Duration::from_secs(30);
/// Between tries.
const PAUSE: Duration = Duration::from_millis(250);
const READING: &str = "reading an object";

/// An object's content.
pub(super) struct Pieces {
    link: Shared,
    stream: Stream<()>,
    /// What they are stored under.
    subject: String,
    here: VecDeque<Bytes>,
    /// The place of the last one that is, or was, here.
    last: Revision,
    /// How many are not here yet.
    missing: usize,
    /// Bytes that were read.
    bytes: u64,
    hash: Sha256,
    wanted: Wanted,
    /// Whether the broker gives several at a time. It need not let this user ask.
    gives_several: bool,
}

/// What its content has to be.
struct Wanted {
    bytes: u64,
    /// Lower-case hex; empty if nothing is said of it.
    sha256: String,
}

impl Pieces {
    /// `sha256` is the digest that is said of the object `info`.
    pub(super) fn of(link: &Shared, stream: &Stream<()>, info: &Stored, sha256: String) -> Self {
        Self {
            link: link.clone(),
            stream: stream.clone(),
            subject: link.layout.object_chunks(&info.nuid),
            here: VecDeque::new(),
            last: 0,
            missing: info.chunks,
            bytes: 0,
            hash: Sha256::new(),
            wanted: Wanted { bytes: info.size as u64, sha256 },
            gives_several: true,
        }
    }

    /// Fails at its end if it is not what was said of it, and earlier if something of it is gone.
    pub(super) fn into_reader(self) -> ObjectReader {
        let stream = futures::stream::unfold(Some(self), |pieces| async {
            let mut pieces = pieces?;
            match pieces.next().await {
                Ok(None) => None,
                Ok(Some(piece)) => Some((Ok(piece), Some(pieces))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Box::pin(StreamReader::new(Box::pin(stream)))
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.here.is_empty() && self.missing > 0 {
            self.fetch().await?;
        }
        match self.here.pop_front() {
            Some(piece) => {
                self.hash.update(&piece);
                self.bytes += piece.len() as u64;
                Ok(Some(piece))
            }
            None => self.check().map(|()| None),
        }
    }

    fn check(&mut self) -> io::Result<()> {
        let sha256 = HEXLOWER.encode(&self.hash.finalize_reset());
        if self.bytes == self.wanted.bytes && (self.wanted.sha256.is_empty() || self.wanted.sha256 == sha256) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "its content is damaged: it is not what was stored"))
    }

    /// Gets the next ones, at least one.
    async fn fetch(&mut self) -> io::Result<()> {
        if self.gives_several {
            let several = self
                .link
                .read_batch(&self.link.layout.object_stream(), &self.subject, self.last, (AHEAD.min(self.missing), AHEAD_BYTES))
                .await;
            match several {
                Some((pieces, _)) if !pieces.is_empty() => {
                    for piece in pieces.into_iter().take(self.missing) {
                        self.arrived(piece.sequence, piece.payload);
                    }
                    return Ok(());
                }
                // A copy that lags, or one that has lost them: the leader knows.
                Some(_) => {}
                None => self.gives_several = !self.link.is_up(),
            }
        }
        match self.next_of_the_leader().await {
            Ok(Some((place, payload))) => {
                self.arrived(place, payload);
                Ok(())
            }
            Ok(None) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "some of its pieces are gone: it was deleted or replaced")),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Waits for a broker that is away; what was read until then is not read again.
    async fn next_of_the_leader(&self) -> Result<Option<(Revision, Bytes)>, Error> {
        let until = Instant::now() + BACK_WITHIN;
        loop {
            match self.link.read_next(&self.stream, &self.subject, self.last + 1, READING).await {
                Err(error) if error.is_retryable() && Instant::now() < until => tokio::time::sleep(PAUSE).await,
                read => return Ok(read?.map(|message| (message.sequence, message.payload))),
            }
        }
    }

    fn arrived(&mut self, place: Revision, payload: Bytes) {
        self.last = place;
        self.missing -= 1;
        self.here.push_back(payload);
    }
}
