//! Large things in an object store, in the client's own form.
//!
//! Only the form is the client's. Its `get` has the broker push at its own speed, so that memory follows the object's size; its `put` leaves the
//! pieces of an upload that failed until they expire and cannot tell a full store from an absent one; its `delete` leaves a marker that
//! names the object.

use std::collections::BTreeSet;

use async_nats::HeaderMap;
use async_nats::jetstream::object_store::{ObjectInfo as Stored, ObjectOptions};
use async_nats::jetstream::stream::Stream;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use bytes::{Bytes, BytesMut};
use data_encoding::HEXLOWER;
use futures::StreamExt as _;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt as _;

use super::link::{Guard, Shared, Written, from_json, timestamp, to_json};
use super::pieces::Pieces;
use crate::{Clock, Error, ObjectInfo, ObjectPage, ObjectReader, Objects, Revision};

/// Bytes of a piece, as the client has it; fewer where the broker's messages are smaller.
const CHUNK_BYTES_MAX: usize = 128 * 1024;
const STORING: &str = "storing an object";
const DELETING: &str = "deleting an object";

pub(super) struct JetStreamObjects {
    link: Shared,
    stream: Stream<()>,
    clock: Clock,
}

/// What is said of an object's pieces.
struct Found {
    info: Stored,
    place: Revision,
    stored_at: Timestamp,
}

impl JetStreamObjects {
    /// Its stream has been made and checked with the others.
    pub(super) async fn open(link: &Shared, clock: Clock) -> Result<Self, Error> {
        let stream = link.stream(&link.layout.object_stream(), "opening the object store").await?;
        Ok(Self { link: link.clone(), stream, clock })
    }

    /// What is stored under a name, deleted or not, as the stream's leader has it.
    async fn stored(&self, name: &str, doing: &'static str) -> Result<Option<Found>, Error> {
        let subject = self.info_subject(name);
        let Some(message) = self.link.read_last(&self.stream, &subject, doing).await? else { return Ok(None) };
        let info = from_json(&subject, &message.payload)?;
        Ok(Some(Found { info, place: message.sequence, stored_at: timestamp(message.time) }))
    }

    fn info_subject(&self, name: &str) -> String {
        self.link.layout.object_info(&URL_SAFE.encode(name))
    }

    /// Writes the pieces, then what is said of them, which makes them an object. Gives the upload that it replaces, too.
    async fn upload(&self, upload: &str, name: &str, mut content: ObjectReader) -> Result<(Stored, Option<String>), Error> {
        let subject = self.link.layout.object_chunks(upload);
        let chunk_bytes = CHUNK_BYTES_MAX.min(self.link.record_bytes_max()).max(1);
        let (mut sha256, mut size, mut chunks) = (Sha256::new(), 0, 0);
        loop {
            let chunk = next_chunk(&mut content, chunk_bytes)
                .await
                .map_err(|error| Error::unavailable("reading the content of an object", error))?;
            if chunk.is_empty() {
                break;
            }
            sha256.update(&chunk);
            size += chunk.len();
            // Pieces of the same content are different writes.
            let id = format!("{upload} {chunks}");
            self.link.write_as(id, subject.clone(), chunk, HeaderMap::new(), STORING).await?;
            chunks += 1;
        }
        let info = Stored {
            name: name.to_owned(),
            description: None,
            metadata: Default::default(),
            headers: None,
            options: Some(ObjectOptions { link: None, max_chunk_size: Some(chunk_bytes) }),
            bucket: self.link.layout.object_bucket.clone(),
            nuid: upload.to_owned(),
            size,
            chunks,
            modified: None,
            digest: Some(format!("SHA-256={}", URL_SAFE.encode(sha256.finalize()))),
            deleted: false,
        };
        let replaced = self.replace_info(name, &info).await?;
        Ok((info, replaced))
    }

    /// Two uploads of one name may end at the same time: each replaces exactly the one that it has seen, so that the pieces of none stay.
    async fn replace_info(&self, name: &str, info: &Stored) -> Result<Option<String>, Error> {
        let subject = self.info_subject(name);
        let value = to_json(info, "object")?;
        let mut replaced = None;
        loop {
            let last = self.stored(name, STORING).await?;
            let sequence = last.as_ref().map_or(0, |last| last.place);
            if let Some(Found { info: last, .. }) = last {
                if last.nuid == info.nuid {
                    return Ok(replaced);
                }
                replaced = Some(last.nuid);
            }
            let mut headers = HeaderMap::new();
            headers.insert(async_nats::header::NATS_ROLLUP, "sub");
            match self.link.write(subject.clone(), value.clone(), headers, Guard::Last(&subject, sequence), STORING).await? {
                Written::Stored(_) => return Ok(replaced),
                Written::Guarded => {}
            }
        }
    }

    async fn remove_chunks(&self, upload: &str, doing: &'static str) -> Result<(), Error> {
        self.link.purge(&self.stream, &self.link.layout.object_chunks(upload), doing).await
    }
}

#[async_trait]
impl Objects for JetStreamObjects {
    async fn put(&self, name: &str, content: ObjectReader) -> Result<ObjectInfo, Error> {
        // The client's own source of names that nobody else makes.
        let upload = self.link.client.new_inbox().rsplit('.').next().unwrap_or_default().to_owned();
        match self.upload(&upload, name, content).await {
            Ok((info, replaced)) => {
                if let Some(replaced) = replaced {
                    self.remove_chunks(&replaced, STORING).await?;
                }
                Ok(info_of(&info, self.clock.now()))
            }
            Err(error) => {
                // Whether what is said of them was stored may be unknown; then a reader must find them.
                let is_object = self.stored(name, STORING).await.map_or(true, |now| now.is_some_and(|now| now.info.nuid == upload));
                if !is_object && let Err(left) = self.remove_chunks(&upload, STORING).await {
                    tracing::warn!(error = %left, "pieces of an upload that failed are left until they expire");
                }
                Err(error)
            }
        }
    }

    async fn get(&self, name: &str) -> Result<Option<ObjectReader>, Error> {
        let found = self.stored(name, "reading an object").await?.filter(|found| !found.info.deleted);
        Ok(found.map(|Found { info, stored_at, .. }| {
            let sha256 = info_of(&info, stored_at).sha256;
            Pieces::of(&self.link, &self.stream, &info, sha256).into_reader()
        }))
    }

    async fn info(&self, name: &str) -> Result<Option<ObjectInfo>, Error> {
        let found = self.stored(name, "reading about an object").await?;
        Ok(found.filter(|found| !found.info.deleted).map(|found| info_of(&found.info, found.stored_at)))
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        let Some(found) = self.stored(name, DELETING).await? else { return Ok(()) };
        // What is said of the pieces goes last, so that a delete that broke off can be repeated; and no more of it than was looked at.
        self.remove_chunks(&found.info.nuid, DELETING).await?;
        self.link.purge_until(&self.stream, &self.info_subject(name), Some(found.place), DELETING).await
    }

    async fn sweep(&self, before: Timestamp) -> Result<u64, Error> {
        const DOING: &str = "looking for uploads that broke off";
        let all = self.link.layout.object_chunks("*");
        let prefix = all.trim_end_matches('*');
        let mut listed = self.stream.info_with_subjects(&all).await.map_err(|fault| Error::unavailable(DOING, fault))?;
        let mut uploads = BTreeSet::new();
        while let Some(subject) = listed.next().await {
            let (subject, _) = subject.map_err(|fault| Error::unavailable(DOING, fault))?;
            uploads.extend(subject.strip_prefix(prefix).map(str::to_owned));
        }
        // After the pieces: an upload that became an object in between is among these, and one that ends later has pieces that are young.
        for message in self.link.read_all(&self.link.layout.object_stream(), &self.link.layout.object_infos(), DOING).await? {
            match from_json::<Stored>(&message.subject, &message.payload) {
                Ok(info) => uploads.remove(&info.nuid),
                // What it speaks of is not known, so nothing may go.
                Err(error) => return Err(error),
            };
        }
        let mut n_removed = 0;
        for upload in uploads {
            let newest = self.link.read_last(&self.stream, &self.link.layout.object_chunks(&upload), DOING).await?;
            if newest.is_some_and(|newest| timestamp(newest.time) < before) {
                self.remove_chunks(&upload, DOING).await?;
                n_removed += 1;
            }
        }
        Ok(n_removed)
    }

    async fn page(&self, after: Revision) -> Result<ObjectPage, Error> {
        let (stream, filter) = (self.link.layout.object_stream(), self.link.layout.object_infos());
        let stored = self.link.read_page(&stream, &filter, after, "listing objects").await?;
        let next = stored.next();
        let mut items = Vec::with_capacity(stored.messages.len());
        for message in &stored.messages {
            match from_json::<Stored>(&message.subject, &message.payload) {
                Ok(info) if info.deleted => {}
                Ok(info) => items.push((info.name.clone(), info_of(&info, message.time))),
                Err(error) => tracing::error!(%error, "an object cannot be read about, and is passed over"),
            }
        }
        Ok(ObjectPage { items, next })
    }
}

/// A full piece, or what there is before the end.
async fn next_chunk(content: &mut ObjectReader, bytes: usize) -> std::io::Result<Bytes> {
    let mut chunk = BytesMut::with_capacity(bytes);
    while chunk.len() < bytes {
        let room = (bytes - chunk.len()) as u64;
        if (&mut *content).take(room).read_buf(&mut chunk).await? == 0 {
            break;
        }
    }
    Ok(chunk.freeze())
}

/// `stored_at` is the broker's word: of what we write ourselves nothing else says it.
fn info_of(info: &Stored, stored_at: Timestamp) -> ObjectInfo {
    let digest = info.digest.as_deref().and_then(|digest| digest.strip_prefix("SHA-256=")).unwrap_or_default();
    let bytes = URL_SAFE.decode(digest).or_else(|_| URL_SAFE_NO_PAD.decode(digest)).unwrap_or_default();
    ObjectInfo { size: info.size as u64, sha256: HEXLOWER.encode(&bytes), stored_at }
}
