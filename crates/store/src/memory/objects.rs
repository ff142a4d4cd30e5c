//! Large things by name. Read to their end before the lock is taken, so an object appears whole or not at all.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Cursor;

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use super::Memory;
use crate::{Error, ObjectInfo, ObjectReader, Objects};

#[derive(Default)]
pub(super) struct Shelf(BTreeMap<String, (ObjectInfo, Bytes)>);

#[async_trait]
impl Objects for Memory {
    async fn put(&self, name: &str, mut content: ObjectReader) -> Result<ObjectInfo, Error> {
        let mut bytes = Vec::new();
        content
            .read_to_end(&mut bytes)
            .await
            .map_err(|error| Error::Refused { doing: "reading the content of an object", reason: error.to_string() })?;
        let info = ObjectInfo { size: bytes.len() as u64, sha256: hex(&Sha256::digest(&bytes)), stored_at: self.0.options.clock.now() };
        self.0.state().objects.0.insert(name.to_owned(), (info.clone(), Bytes::from(bytes)));
        Ok(info)
    }

    async fn get(&self, name: &str) -> Result<Option<ObjectReader>, Error> {
        let content = self.0.state().objects.0.get(name).map(|(_, bytes)| bytes.clone());
        Ok(content.map(|bytes| Box::pin(Cursor::new(bytes)) as ObjectReader))
    }

    async fn info(&self, name: &str) -> Result<Option<ObjectInfo>, Error> {
        Ok(self.0.state().objects.0.get(name).map(|(info, _)| info.clone()))
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        self.0.state().objects.0.remove(name);
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
