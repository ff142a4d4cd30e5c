//! Large things by name. Read to their end before the lock is taken, so an object appears whole or not at all.

use std::collections::BTreeMap;
use std::io::Cursor;

use async_trait::async_trait;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use super::Memory;
use crate::work::PAGE;
use crate::{Error, ObjectInfo, ObjectPage, ObjectReader, Objects, Revision};

#[derive(Default)]
pub(super) struct Shelf {
    newest: Revision,
    objects: BTreeMap<String, Object>,
}

struct Object {
    place: Revision,
    info: ObjectInfo,
    content: Bytes,
}

#[async_trait]
impl Objects for Memory {
    async fn put(&self, name: &str, mut content: ObjectReader) -> Result<ObjectInfo, Error> {
        let mut bytes = Vec::new();
        content
            .read_to_end(&mut bytes)
            .await
            .map_err(|error| Error::Refused { doing: "reading the content of an object", reason: error.to_string() })?;
        let info = ObjectInfo {
            size: bytes.len() as u64,
            sha256: HEXLOWER.encode(&Sha256::digest(&bytes)),
            stored_at: self.0.options.clock.now(),
        };
        let shelf = &mut self.0.state().objects;
        shelf.newest += 1;
        let object = Object { place: shelf.newest, info: info.clone(), content: Bytes::from(bytes) };
        shelf.objects.insert(name.to_owned(), object);
        Ok(info)
    }

    async fn get(&self, name: &str) -> Result<Option<ObjectReader>, Error> {
        let content = self.0.state().objects.objects.get(name).map(|object| object.content.clone());
        Ok(content.map(|bytes| Box::pin(Cursor::new(bytes)) as ObjectReader))
    }

    async fn info(&self, name: &str) -> Result<Option<ObjectInfo>, Error> {
        Ok(self.0.state().objects.objects.get(name).map(|object| object.info.clone()))
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        self.0.state().objects.objects.remove(name);
        Ok(())
    }

    async fn sweep(&self, _before: jiff::Timestamp) -> Result<u64, Error> {
        // What was not read to its end was never kept.
        Ok(0)
    }

    async fn page(&self, after: Revision) -> Result<ObjectPage, Error> {
        let state = self.0.state();
        let mut later: Vec<_> = state.objects.objects.iter().filter(|(_, object)| object.place > after).collect();
        later.sort_by_key(|(_, object)| object.place);
        let next = later.get(PAGE - 1).map(|(_, object)| object.place);
        let items = later.into_iter().take(PAGE).map(|(name, object)| (name.clone(), object.info.clone())).collect();
        Ok(ObjectPage { items, next })
    }
}
