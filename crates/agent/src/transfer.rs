//! Bundles down, archives up.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use longshore_exec::Archive;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::Failure;
use longshore_store::{Error, Objects, archive_name, bundle_name};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::dispatcher::Key;

/// Between tries while the broker is away.
const PAUSE: Duration = Duration::from_millis(500);
/// How long an archive waits for the broker; its job's answer waits with it.
const STORE_PATIENCE: Duration = Duration::from_secs(15 * 60);

/// A bundle on local disk, its digest checked. Removed when dropped.
pub(crate) struct LocalBundle(PathBuf);

impl LocalBundle {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for LocalBundle {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Why a bundle is not here.
pub(crate) struct FetchFault {
    pub(crate) failure: Failure,
    pub(crate) is_transient: bool,
}

/// Fetches a bundle into `dir` under a name made of `key`, checking its digest on the way.
pub(crate) async fn fetch_bundle(objects: &Arc<dyn Objects>, sha256: &str, dir: &Path, key: Key) -> Result<LocalBundle, FetchFault> {
    let fault = |message: String, is_transient| FetchFault { failure: Failure { code: ErrorCode::Staging, message }, is_transient };
    let mut content = match objects.get(&bundle_name(sha256)).await {
        Ok(Some(content)) => content,
        Ok(None) => return Err(fault(format!("the bundle {sha256} is not in the object store any more"), false)),
        Err(error) => return Err(fault(format!("the bundle {sha256} could not be read: {error}"), error.is_retryable())),
    };
    let bundle = LocalBundle(dir.join(format!("{}.{}.bundle", key.0, key.1)));
    let mut hasher = Sha256::new();
    let copied: io::Result<()> = async {
        tokio::fs::create_dir_all(dir).await?;
        // Anew: what an earlier process left of that name may be linked to by what it started.
        let _none_there = tokio::fs::remove_file(bundle.path()).await;
        let mut file = tokio::fs::File::create_new(bundle.path()).await?;
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let n_bytes = content.read(&mut buffer).await?;
            if n_bytes == 0 {
                return file.flush().await;
            }
            hasher.update(&buffer[..n_bytes]);
            file.write_all(&buffer[..n_bytes]).await?;
        }
    }
    .await;
    if let Err(error) = copied {
        return Err(fault(format!("the bundle {sha256} could not be fetched: {error}"), true));
    }
    let found = HEXLOWER.encode(&hasher.finalize());
    if found != sha256 {
        return Err(fault(format!("the bundle {sha256} has the digest {found}: it was damaged or replaced"), false));
    }
    Ok(bundle)
}

/// Stores what a job brought back. Tried again while the broker is away, for so long.
pub(crate) async fn store_archive(objects: &Arc<dyn Objects>, key: Key, archive: &Archive) -> Result<(), Failure> {
    let fault = |message: String| Failure { code: ErrorCode::Collecting, message };
    let deadline = Instant::now() + STORE_PATIENCE;
    loop {
        let file = tokio::fs::File::open(archive.path()).await.map_err(|error| fault(format!("the archive cannot be read: {error}")))?;
        match objects.put(&archive_name(key.0, key.1), Box::pin(file)).await {
            Ok(_) => return Ok(()),
            Err(Error::Unavailable { .. }) if Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(fault(format!("the archive could not be stored: {error}"))),
        }
    }
}
