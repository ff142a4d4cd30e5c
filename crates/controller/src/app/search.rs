//! Finds one file in an archive that nobody vouches for, while it streams by.
//!
//! An agent made the archive, and an agent may be anybody's: announced sizes count against limits before they are read, and `tar`'s
//! reader is used raw, since it would read a long name of any announced length into memory. `exec` unpacks by the same rules.

use std::io::{self, Read};
use std::time::Duration;

use bytes::Bytes;
use longshore_model::limits::{BUNDLE_ENTRIES_MAX, BUNDLE_UNPACKED_BYTES_MAX};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

/// 32 MiB of window: more than the levels in use ever need, and a bound on what a hostile frame makes us allocate.
const WINDOW_LOG_MAX: u32 = 25;
/// Bytes of a record that only names the entry after it.
const EXTENSION_BYTES_MAX: u64 = 64 * 1024;
/// Bytes handed on at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// How long a reader may take nothing before it is given up.
pub(super) const READER_STALLED_AFTER: Duration = Duration::from_secs(60);

/// Who wants the file.
pub(super) struct Reader {
    /// Is told the file's size, or that there is none.
    pub(super) found: oneshot::Sender<io::Result<Option<u64>>>,
    pub(super) content: mpsc::Sender<io::Result<Bytes>>,
    pub(super) stalled_after: Duration,
}

/// Tells the size of the file named `wanted`, then its content. Blocks, inside a runtime; ends early when nobody listens, or nobody takes what
/// is found.
pub(super) fn search(packed: impl Read, wanted: &[u8], reader: Reader) {
    let Reader { found, content, stalled_after } = reader;
    let mut archive = match unpacked(packed) {
        Ok(unpacked) => tar::Archive::new(unpacked),
        Err(error) => return drop(found.send(Err(error))),
    };
    match entry(&mut archive, wanted, || found.is_closed()) {
        Ok(Some(mut file)) => {
            if found.send(Ok(Some(file.size()))).is_ok() {
                copy(&mut file, &content, stalled_after);
            }
        }
        Ok(None) => drop(found.send(Ok(None))),
        Err(error) => drop(found.send(Err(error))),
    }
}

fn unpacked(packed: impl Read) -> io::Result<impl Read> {
    let mut decoder = zstd::Decoder::new(packed)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    Ok(decoder)
}

/// The first file of that name; `None` also when `is_given_up`.
fn entry<'a, R: Read>(
    archive: &'a mut tar::Archive<R>,
    wanted: &[u8],
    is_given_up: impl Fn() -> bool,
) -> io::Result<Option<tar::Entry<'a, R>>> {
    let odd = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let (mut bytes_left, mut long_name, mut pax) = (BUNDLE_UNPACKED_BYTES_MAX, Vec::new(), Vec::new());
    // Up to four records may speak of one entry.
    for entry in archive.entries()?.raw(true).take(5 * BUNDLE_ENTRIES_MAX) {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        bytes_left = bytes_left.checked_sub(entry.size()).ok_or_else(|| odd("there is too much in the archive"))?;
        if kind.is_gnu_longname() || kind.is_gnu_longlink() || kind.is_pax_local_extensions() || kind.is_pax_global_extensions() {
            if entry.size() > EXTENSION_BYTES_MAX {
                return Err(odd("a name in the archive is too long"));
            }
            let mut record = Vec::new();
            entry.read_to_end(&mut record)?;
            if kind.is_gnu_longname() {
                long_name = record;
            } else if kind.is_pax_local_extensions() {
                pax = record;
            }
            continue;
        }
        let name = name(&entry, std::mem::take(&mut long_name), &std::mem::take(&mut pax))?;
        if kind.is_file() && name.strip_prefix(b"./").unwrap_or(&name) == wanted {
            return Ok(Some(entry));
        }
        if is_given_up() {
            break;
        }
    }
    Ok(None)
}

fn name(entry: &tar::Entry<'_, impl Read>, mut long_name: Vec<u8>, pax: &[u8]) -> io::Result<Vec<u8>> {
    if long_name.last() == Some(&0) {
        long_name.pop();
    }
    let mut name = if long_name.is_empty() { entry.path_bytes().into_owned() } else { long_name };
    for pax in tar::PaxExtensions::new(pax) {
        let pax = pax?;
        match pax.key_bytes() {
            b"path" => name = pax.value_bytes().to_vec(),
            // Readers that disagree about a size disagree about what follows.
            b"size" if pax.value_bytes() != entry.size().to_string().as_bytes() => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a size in the archive is stated twice and differently"));
            }
            _other => {}
        }
    }
    Ok(name)
}

fn copy(from: &mut impl Read, content: &mpsc::Sender<io::Result<Bytes>>, stalled_after: Duration) {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let read = from.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk);
        let is_end = read.is_err();
        let piece = match read {
            Ok(0) => return,
            Ok(_) => Ok(Bytes::from(chunk)),
            Err(error) => Err(error),
        };
        let sent = Handle::current().block_on(content.send_timeout(piece, stalled_after));
        if is_end || sent.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its kind, name, announced size and content.
    type Record<'a> = (tar::EntryType, &'a str, u64, &'a [u8]);

    fn packed(records: &[Record<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, name, size, content) in records {
            let mut header = tar::Header::new_gnu();
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(*size);
            header.set_mode(0o644);
            header.set_cksum();
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.resize(bytes.len() + 1024, 0);
        zstd::encode_all(&bytes[..], 0).unwrap()
    }

    /// The file's content, and whether it came whole.
    async fn find(packed: Vec<u8>, wanted: &'static str) -> io::Result<Option<Vec<u8>>> {
        let (found_tx, found) = oneshot::channel();
        let (tx, mut content) = mpsc::channel(8);
        let reader = Reader { found: found_tx, content: tx, stalled_after: READER_STALLED_AFTER };
        let search = tokio::task::spawn_blocking(move || search(&packed[..], wanted.as_bytes(), reader));
        let size = found.await.unwrap()?;
        let mut bytes = Vec::new();
        while let Some(chunk) = content.recv().await {
            bytes.extend_from_slice(&chunk?);
        }
        search.await.unwrap();
        Ok(size.map(|size| {
            assert_eq!(size, bytes.len() as u64);
            bytes
        }))
    }

    #[tokio::test]
    async fn files_are_found_by_all_the_ways_to_write_a_long_name() {
        use tar::EntryType;
        let long = "d/".repeat(80) + "x";
        let pax = format!(" path={long}y\n");
        let pax = format!("{}{pax}", pax.len() + 3);
        let records: &[Record<'_>] = &[
            (EntryType::GNULongName, "././@LongLink", long.len() as u64, long.as_bytes()),
            (EntryType::Regular, "short", 3, b"one"),
            (EntryType::XHeader, "pax", pax.len() as u64, pax.as_bytes()),
            (EntryType::Regular, "short", 3, b"two"),
            (EntryType::Regular, "short", 5, b"three"),
        ];
        let archive = packed(records);
        for (name, content) in [(long.clone(), "one"), (format!("{long}y"), "two"), ("short".to_owned(), "three")] {
            let found = find(archive.clone(), name.leak()).await.unwrap();
            assert_eq!(found.as_deref(), Some(content.as_bytes()));
        }
        assert_eq!(find(archive, "long").await.unwrap(), None);
    }

    #[tokio::test]
    async fn archives_that_mean_harm_are_refused_before_they_are_read_into_memory() {
        use tar::EntryType;
        let rows: &[(&str, Record<'_>)] = &[
            ("a name in the archive is too long", (EntryType::GNULongName, "././@LongLink", 8 << 30, b"x")),
            ("a name in the archive is too long", (EntryType::XHeader, "pax", EXTENSION_BYTES_MAX + 1, b"x")),
            ("there is too much in the archive", (EntryType::Regular, "bomb", BUNDLE_UNPACKED_BYTES_MAX + 1, b"x")),
        ];
        for (reason, record) in rows {
            assert_eq!(find(packed(&[*record]), "wanted").await.unwrap_err().to_string(), *reason);
        }
        // A window of 128 MiB.
        let mut wide = zstd::Encoder::new(Vec::new(), 0).unwrap();
        wide.window_log(27).unwrap();
        io::copy(&mut io::repeat(0).take(1 << 20), &mut wide).unwrap();
        assert!(find(wide.finish().unwrap(), "wanted").await.is_err());
    }

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_given_up() {
        let large = vec![7; 4 * CHUNK_BYTES];
        let archive = packed(&[(tar::EntryType::Regular, "large", large.len() as u64, &large)]);
        let (found_tx, found) = oneshot::channel();
        let (tx, content) = mpsc::channel(1);
        let reader = Reader { found: found_tx, content: tx, stalled_after: Duration::from_millis(50) };
        let search = tokio::task::spawn_blocking(move || search(&archive[..], b"large", reader));
        assert_eq!(found.await.unwrap().unwrap(), Some(large.len() as u64));
        search.await.unwrap();
        drop(content);
    }
}
