//! A directory on its way to the controller.

use std::fs::File;
use std::io::{self, Seek};
use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use longshore_client::{Backoff, Client};
use longshore_exec::bundle::{PackError, PackOptions, Packed, pack};
use tokio_util::io::ReaderStream;

use super::progress::Progress;
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::render::printable;

const TRIES: u32 = 3;
const CHUNK_BYTES: usize = 256 * 1024;

/// Packs `dir`, stores it unless it is stored already, and gives its digest.
pub(crate) async fn upload(app: &App, client: &Client, dir: &Path, exclude: &[String], gitignore: bool) -> Result<String, Failure> {
    is_usable(dir)?;
    let (file, packed) = pack_aside(app.out, dir, PackOptions { exclude: exclude.to_vec(), gitignore }).await?;
    for path in &packed.skipped {
        app.out.say(format!("left out: {} is neither a file, a directory nor a link", printable(&path.to_string_lossy())));
    }
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
    let mut tries = 0;
    loop {
        tries += 1;
        match send(app.out, client, &file, &packed).await {
            Ok(()) => return Ok(packed.sha256),
            Err(error) if error.is_retryable() && tries < TRIES => tokio::time::sleep(backoff.next_wait()).await,
            Err(error) => return Err(Failure::from(error).doing(&format!("{} was not uploaded", dir.display()))),
        }
    }
}

fn is_usable(dir: &Path) -> Result<(), Failure> {
    let refused = |why: String| {
        let hint = "a command without a directory:     longshore run -- CMD";
        Failure::new(Exit::Usage, format!("{} cannot be uploaded", dir.display())).because(why).hint(hint)
    };
    match std::fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(refused("it is not a directory".to_owned())),
        Err(error) => Err(refused(error.to_string())),
    }
}

/// Packs into a file without a name, of which nothing is left however this process ends.
async fn pack_aside(out: Output, dir: &Path, options: PackOptions) -> Result<(File, Packed), Failure> {
    let owned = dir.to_owned();
    let work = move || {
        let failed = |error: io::Error| Failure::new(Exit::Failed, "there is no place for the bundle").caused_by(&error);
        let mut file = tempfile::tempfile().map_err(failed)?;
        let mut progress = Progress::new(out, "packing", None);
        let mut tries = 0;
        loop {
            tries += 1;
            match pack(&owned, &options, &file, &mut |bytes, _files| progress.at(bytes)) {
                Ok(packed) => return Ok((file, packed)),
                Err(PackError::Changed { .. }) if tries < TRIES => {
                    file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
                }
                Err(error) => {
                    let failure = Failure::new(Exit::Failed, format!("{} cannot be packed", owned.display())).caused_by(&error);
                    let is_changing = matches!(error, PackError::Changed { .. });
                    let hint = "something writes there at the moment; what need not be uploaded is left out with     --exclude GLOB";
                    return Err(if is_changing { failure.hint(hint) } else { failure });
                }
            }
        }
    };
    tokio::task::spawn_blocking(work).await.expect("packing does not panic")
}

async fn send(out: Output, client: &Client, file: &File, packed: &Packed) -> Result<(), longshore_client::Error> {
    if client.bundle_exists(&packed.sha256).await? {
        return Ok(());
    }
    let unreadable = |error: io::Error| longshore_client::Error::Config { what: format!("the packed bundle cannot be read: {error}") };
    let mut opened = file.try_clone().map_err(unreadable)?;
    opened.rewind().map_err(unreadable)?;
    let opened = tokio::fs::File::from_std(opened);
    let mut progress = Progress::new(out, "uploading", Some(packed.size));
    let mut sent = 0;
    let body = ReaderStream::with_capacity(opened, CHUNK_BYTES).inspect(move |chunk| {
        sent += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        progress.at(sent);
    });
    client.put_bundle(&packed.sha256, packed.size, body).await?;
    Ok(())
}
