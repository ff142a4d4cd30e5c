//! Large things in an object store.

use async_nats::jetstream::object_store::{Config, GetErrorKind, InfoErrorKind, ObjectStore};
use async_nats::jetstream::stream::StorageType;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};

use super::link::Link;
use crate::{Error, ObjectInfo, ObjectReader, Objects};

pub(super) struct JetStreamObjects {
    store: ObjectStore,
}

impl JetStreamObjects {
    pub(super) async fn open(link: &Link) -> Result<Self, Error> {
        let settings = &link.config.objects;
        let config = Config {
            bucket: link.layout.object_bucket.clone(),
            max_age: settings.max_age,
            max_bytes: i64::try_from(settings.max_bytes).unwrap_or(i64::MAX),
            storage: StorageType::File,
            num_replicas: link.config.replicas,
            ..Config::default()
        };
        let store = match link.context.get_object_store(&config.bucket).await {
            Ok(store) => store,
            Err(_) => {
                link.context.create_object_store(config).await.map_err(|fault| Error::unavailable("opening the object store", fault))?
            }
        };
        Ok(Self { store })
    }
}

#[async_trait]
impl Objects for JetStreamObjects {
    async fn put(&self, name: &str, mut content: ObjectReader) -> Result<ObjectInfo, Error> {
        let stored = self.store.put(name, &mut content).await.map_err(|fault| Error::unavailable("storing an object", fault))?;
        Ok(info_of(&stored))
    }

    async fn get(&self, name: &str) -> Result<Option<ObjectReader>, Error> {
        match self.store.get(name).await {
            Ok(object) => Ok(Some(Box::pin(object))),
            Err(fault) if fault.kind() == GetErrorKind::NotFound => Ok(None),
            Err(fault) => Err(Error::unavailable("reading an object", fault)),
        }
    }

    async fn info(&self, name: &str) -> Result<Option<ObjectInfo>, Error> {
        match self.store.info(name).await {
            Ok(info) if info.deleted => Ok(None),
            Ok(info) => Ok(Some(info_of(&info))),
            Err(fault) if fault.kind() == InfoErrorKind::NotFound => Ok(None),
            Err(fault) => Err(Error::unavailable("reading about an object", fault)),
        }
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        match self.store.delete(name).await {
            Ok(()) => Ok(()),
            Err(_) if self.info(name).await?.is_none() => Ok(()),
            Err(fault) => Err(Error::unavailable("deleting an object", fault)),
        }
    }
}

fn info_of(info: &async_nats::jetstream::object_store::ObjectInfo) -> ObjectInfo {
    let digest = info.digest.as_deref().and_then(|digest| digest.strip_prefix("SHA-256=")).unwrap_or_default();
    let bytes = URL_SAFE.decode(digest).or_else(|_| URL_SAFE_NO_PAD.decode(digest)).unwrap_or_default();
    ObjectInfo { size: info.size as u64, sha256: bytes.iter().map(|byte| format!("{byte:02x}")).collect() }
}
