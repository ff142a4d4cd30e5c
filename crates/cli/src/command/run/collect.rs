//! What a job brought back, put into a directory of the user's.
//!
//! The archive is unpacked aside and moved into place when all of it has arrived, so a broken download changes nothing. What lies in
//! the directory from an earlier run is replaced name by name; links in it are never followed. Of several hosts each has a directory.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use indicatif::HumanBytes;
use longshore_client::{ArtifactArchive, ArtifactFile, ArtifactList, Client, JobId};
use longshore_exec::bundle::{Limits, unpack};
use tokio_util::sync::CancellationToken;

use super::hosts;
use super::progress::Progress;
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::render::printable;

/// Names that are listed; the directory has the others.
const LISTED: usize = 20;

/// Whether results of several hosts go into a directory for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// One host's, right into the directory.
    Flat,
    /// A directory for each host, also if only one brought something back.
    ByHost,
}

/// Whether results could be put there, as far as that can be known before there are any.
pub(crate) fn is_usable(into: &Path) -> Result<(), Failure> {
    let refused = |why: String| Failure::new(Exit::Usage, format!("results cannot be put into {}", into.display())).because(why);
    let absolute = std::path::absolute(into).map_err(|error| refused(error.to_string()))?;
    // What is missing is made; where, has to be there and writable.
    let Some(there) = absolute.ancestors().find(|path| fs::symlink_metadata(path).is_ok()) else { return Ok(()) };
    if !there.is_dir() {
        return Err(refused(format!("{} is not a directory", there.display())).hint("another place:     --out DIR"));
    }
    rustix::fs::access(there, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
        .map_err(|error| refused(format!("{}: {error}", there.display())).hint("another place:     --out DIR"))
}

/// Fetches what `id` brought back into `into`. What arrived of some hosts is put there also if that of others does not arrive. Ends soon after
/// `stop`, and leaves nothing half done then.
pub(crate) async fn collect(
    app: &App,
    client: &Client,
    id: JobId,
    (into, layout): (&Path, Layout),
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let list = stop.run_until_cancelled(client.artifacts(id)).await.ok_or_else(interrupted)??;
    if list.archives.is_empty() {
        app.out.say("nothing was changed, so nothing came back");
        return Ok(());
    }
    let failed = |error: io::Error| Failure::new(Exit::Failed, format!("results cannot be put into {}", into.display())).caused_by(&error);
    fs::create_dir_all(into).map_err(failed)?;
    let aside = tempfile::Builder::new().prefix(".longshore-").tempdir_in(into).map_err(failed)?;
    let tree = aside.path().join("tree");
    fs::create_dir(&tree).map_err(failed)?;
    let places = hosts::places(&list.archives);
    let (mut fetched, mut first_failure) = (Vec::new(), None);
    for (archive, place) in list.archives.iter().zip(&places) {
        let packed = aside.path().join("archive");
        let to = match layout {
            Layout::Flat => tree.clone(),
            Layout::ByHost => tree.join(place),
        };
        let got = match stop.run_until_cancelled(download(app, client, id, archive, &packed)).await {
            Some(Ok(())) => open_archive(packed, to, stop.clone()).await,
            Some(Err(failure)) => Err(failure),
            None => return Err(interrupted()),
        };
        if stop.is_cancelled() {
            return Err(interrupted());
        }
        match got {
            Ok(()) => fetched.push((archive, place)),
            // What there is of it is aside, and goes with it.
            Err(failure) => first_failure = first_failure.or(Some(failure)),
        }
        if layout == Layout::Flat {
            break;
        }
    }
    if !fetched.is_empty() {
        let (tree, target) = (tree, into.to_owned());
        let placed = tokio::task::spawn_blocking(move || place(&tree, &target)).await.expect("moving files does not panic");
        if placed.map_err(failed)? {
            app.out.say(format!("note: {} has files that are not from this job", into.display()));
        }
        match layout {
            Layout::Flat => tell(app, &list, into),
            Layout::ByHost => {
                app.out.say(format!("results in {}:", into.display()));
                for (archive, place) in fetched.iter().take(LISTED) {
                    let files = if archive.files == 1 { "file" } else { "files" };
                    app.out.say(format!("  {place}/  {} {files}, packed {}", archive.files, HumanBytes(archive.bytes)));
                }
                if fetched.len() > LISTED {
                    app.out.say(format!("  and {} more hosts", fetched.len() - LISTED));
                }
            }
        }
    }
    first_failure.map_or(Ok(()), Err)
}

fn tell(app: &App, list: &ArtifactList, into: &Path) {
    if list.items.is_empty() {
        app.out.say(format!("no file was changed; logs and result.json in {}", into.display()));
        return;
    }
    app.out.say(format!("results in {}:", into.display()));
    for ArtifactFile { file, .. } in list.items.iter().take(LISTED) {
        app.out.say(format!("  {} ({})", printable(&file.path), HumanBytes(file.size)));
    }
    let unlisted = list.items.len().saturating_sub(LISTED) + list.unlisted;
    if unlisted > 0 {
        app.out.say(format!("  and {unlisted} more"));
    }
}

fn interrupted() -> Failure {
    Failure::new(Exit::Interrupted, "the results were not fetched").because("interrupted")
}

/// Reads until it is told to stop.
struct Stoppable {
    file: fs::File,
    stop: CancellationToken,
}

impl io::Read for Stoppable {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() { Err(io::Error::other("interrupted")) } else { self.file.read(buffer) }
    }
}

/// Unpacks `packed` into `to`, which may be there, and removes it.
async fn open_archive(packed: PathBuf, to: PathBuf, stop: CancellationToken) -> Result<(), Failure> {
    let work = move || {
        let failed = |error: io::Error| Failure::new(Exit::Failed, "the results cannot be unpacked").caused_by(&error);
        fs::create_dir_all(&to).map_err(failed)?;
        let file = fs::File::open(&packed).map_err(failed)?;
        let unpacked = unpack(Stoppable { file, stop }, &to, Limits::default());
        let _ = fs::remove_file(&packed);
        unpacked.map(drop).map_err(|error| {
            // Half of a host's results must not look like all of them; what is closed to us is removed with the directory around it.
            let _ = open(&to, Path::new(""), &mut Vec::new());
            let _ = fs::remove_dir_all(&to);
            Failure::new(Exit::Failed, "the results are not a sound archive").caused_by(&error)
        })
    };
    tokio::task::spawn_blocking(work).await.expect("unpacking does not panic")
}

async fn download(app: &App, client: &Client, id: JobId, archive: &ArtifactArchive, to: &PathBuf) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::new(Exit::Failed, format!("{} cannot be written", to.display())).caused_by(&error);
    let mut file = fs::File::create(to).map_err(failed)?;
    let mut progress = Progress::new(app.out, "downloading", Some(archive.bytes));
    let mut stream = std::pin::pin!(client.artifact_archive(id, Some(&archive.execution.to_string())).await?);
    let mut got = 0;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        file.write_all(&chunk).map_err(failed)?;
        got += chunk.len() as u64;
        progress.at(got);
    }
    Ok(())
}

/// Moves everything in `tree` to the same place below `to`. Gives whether there is anything else in `to`.
fn place(tree: &Path, to: &Path) -> io::Result<bool> {
    let mut closed = Vec::new();
    open(tree, Path::new(""), &mut closed)?;
    let has_others = has_others(tree, to, tree.parent().and_then(Path::file_name))?;
    merge(tree, to)?;
    // The deepest first: one that may not be entered afterwards comes after what is in it.
    for (path, mode) in closed.iter().rev() {
        set_mode(&to.join(path), *mode)?;
    }
    Ok(has_others)
}

/// Gives the owner every right on the directories of a tree, so that they can be moved, emptied and removed, and notes what they had.
fn open(root: &Path, below: &Path, closed: &mut Vec<(PathBuf, u32)>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let path = below.join(entry.file_name());
        let mode = entry.metadata()?.permissions().mode();
        if mode & OWNER != OWNER {
            set_mode(&entry.path(), mode | OWNER)?;
            closed.push((path.clone(), mode));
        }
        open(root, &path, closed)?;
    }
    Ok(())
}

/// Read, write and enter.
const OWNER: u32 = 0o700;

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777))
}

/// Whether `to` has something that `tree` does not have. `aside` is where `tree` waits and does not count.
fn has_others(tree: &Path, to: &Path, aside: Option<&OsStr>) -> io::Result<bool> {
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        if Some(&*entry.file_name()) == aside {
            continue;
        }
        let ours = tree.join(entry.file_name());
        match fs::symlink_metadata(&ours) {
            Err(_) => return Ok(true),
            // One that we may not look into is not ours.
            Ok(there) if there.is_dir() && entry.file_type()?.is_dir() && has_others(&ours, &entry.path(), None).unwrap_or(true) => {
                return Ok(true);
            }
            Ok(_) => {}
        }
    }
    Ok(false)
}

/// Moves everything in `from` to the same place below `to`. The directories of `from` are open; those of `to` keep their modes.
fn merge(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let there = fs::symlink_metadata(&target).ok();
        if !entry.file_type()?.is_dir() {
            if there.is_some_and(|there| there.is_dir()) {
                return Err(io::Error::other(format!("{} is a directory, but a file came back", target.display())));
            }
            fs::rename(entry.path(), &target)?;
            continue;
        }
        match there {
            Some(there) if there.is_dir() => {
                let mode = there.permissions().mode();
                if mode & OWNER != OWNER {
                    set_mode(&target, mode | OWNER)?;
                }
                let merged = merge(&entry.path(), &target);
                set_mode(&target, mode)?;
                merged?;
            }
            Some(_) => {
                fs::remove_file(&target)?;
                fs::rename(entry.path(), &target)?;
            }
            None => fs::rename(entry.path(), &target)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_way_of_results_is_named_before_anything_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("dangling")).unwrap();
        std::os::unix::fs::symlink(".", dir.path().join("link")).unwrap();
        for (out, why) in [
            ("", None),
            ("new/below", None),
            ("link", None),
            ("file", Some("file is not a directory")),
            ("file/below", Some("file is not a directory")),
            ("dangling", Some("dangling is not a directory")),
        ] {
            let refused = is_usable(&dir.path().join(out)).err().map(|failure| failure.text());
            match (why, refused) {
                (None, None) => {}
                (Some(why), Some(refused)) if refused.contains(why) => {}
                other => panic!("{out}: {other:?}"),
            }
        }
    }

    fn put(root: &Path, path: &str, content: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Nobody vouches for an archive: its host may have made any.
    #[tokio::test]
    async fn an_archive_that_means_harm_is_refused_by_name_and_leaves_nothing() {
        for (name, target) in [("../escaped", ""), ("/tmp/longshore-escaped", ""), ("a/../../escaped", ""), ("link", "../escaped")] {
            let mut tar = tar::Builder::new(Vec::new());
            let mut append = |kind, name: &str, target: &str, content: &[u8]| {
                let mut header = tar::Header::new_gnu();
                header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
                header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
                header.set_entry_type(kind);
                header.set_size(content.len() as u64);
                header.set_mode(0o4777);
                header.set_mtime(0);
                header.set_cksum();
                tar.append(&header, content).unwrap();
            };
            append(tar::EntryType::Regular, "good", "", b"good");
            if !target.is_empty() {
                append(tar::EntryType::Symlink, name, target, b"");
            }
            append(tar::EntryType::Regular, name, "", b"x");
            let dir = tempfile::tempdir().unwrap();
            let (packed, to) = (dir.path().join("archive"), dir.path().join("tree"));
            fs::write(&packed, zstd::encode_all(tar.into_inner().unwrap().as_slice(), 1).unwrap()).unwrap();
            let refused = open_archive(packed, to, CancellationToken::new()).await.unwrap_err().text();
            assert!(refused.contains(&format!("{name:?}")), "{refused}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{name}");
        }
    }

    #[test]
    fn results_replace_what_has_their_names_and_leave_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        put(&from, "a/new", "new");
        put(&from, "b", "new");
        put(&to, "a/old", "old");
        put(&to, "b", "old");
        assert!(place(&from, &to).unwrap(), "there is something older");
        let read = |path: &str| fs::read_to_string(to.join(path)).unwrap();
        assert_eq!([read("a/new"), read("b"), read("a/old")], ["new", "new", "old"]);
    }

    #[test]
    fn directories_that_may_only_be_read_come_back_as_they_were_also_twice() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("to");
        fs::create_dir(&to).unwrap();
        for content in ["first", "second"] {
            let aside = tempfile::tempdir_in(&to).unwrap();
            let from = aside.path().join("tree");
            put(&from, "a/b/file", content);
            put(&from, "c/file", content);
            for path in ["a/b", "a", "c"] {
                set_mode(&from.join(path), 0o555).unwrap();
            }
            assert!(!place(&from, &to).unwrap(), "there is nothing else");
            assert_eq!(fs::read_to_string(to.join("a/b/file")).unwrap(), content);
            for path in ["a/b", "a", "c"] {
                assert_eq!(fs::metadata(to.join(path)).unwrap().permissions().mode() & 0o777, 0o555, "{path}");
            }
            aside.close().expect("nothing is left aside");
        }
        open(&to, Path::new(""), &mut Vec::new()).unwrap();
    }

    #[test]
    fn what_could_not_be_placed_can_be_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (to, aside) = (dir.path().join("to"), tempfile::tempdir_in(dir.path()).unwrap());
        let from = aside.path().join("tree");
        put(&from, "a/b/file", "x");
        put(&to, "a/b/file/in-the-way", "x");
        set_mode(&from.join("a/b"), 0o555).unwrap();
        assert!(place(&from, &to).is_err());
        aside.close().expect("nothing is left aside");
    }

    #[test]
    fn a_link_in_the_way_is_replaced_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to, outside) = (dir.path().join("from"), dir.path().join("to"), dir.path().join("outside"));
        put(&from, "a/file", "new");
        put(&outside, "file", "theirs");
        fs::create_dir(&to).unwrap();
        std::os::unix::fs::symlink(&outside, to.join("a")).unwrap();
        merge(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "theirs");
        assert_eq!(fs::read_to_string(to.join("a/file")).unwrap(), "new");
    }
}
