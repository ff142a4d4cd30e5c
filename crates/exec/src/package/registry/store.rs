//! Changes the packages directory, one step at a time that is either done or not.
//!
//! Whoever changes links or looks for leftovers has the lock of the store. Whoever fills a tree has that tree's lock until a link
//! leads to it, so a sweep knows what is being made from what was left. A kill at any moment leaves the old link or the new one, and
//! trees that the next sweep removes.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags};

use super::receipt::{RECEIPT, Receipt};
use super::{Installed, Lease, Packages, STORE};
use crate::files::{self, open_dir};
use crate::package::PackageVersion;
use crate::process::{pause, random_text};

const LOCK_PATIENCE: Duration = Duration::from_secs(60);
const PACKAGE: &str = "package";

/// A tree that is being filled. Removed when dropped, unless it was placed.
#[derive(Debug)]
pub(crate) struct Staged {
    directory: PathBuf,
    id: String,
    placed: bool,
    _lock: OwnedFd,
}

/// What became of a tree that was to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Placed {
    /// It is not: a newer version was signed, and this one is not taken any more.
    Older {
        /// Which.
        newest: PackageVersion,
    },
    /// It took the place of nothing.
    New,
    /// It took the place of the same version of before, which goes when nobody uses it any more.
    Replaced,
}

/// How a package that cannot be found any more left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Withdrawn {
    /// It is removed.
    Removed,
    /// It is used, and removed by the next sweep after that.
    InUse,
}

impl Staged {
    /// Where the package goes.
    pub(crate) fn package(&self) -> PathBuf {
        self.directory.join(PACKAGE)
    }

    /// Where its Python environment goes.
    pub(crate) fn environment(&self) -> PathBuf {
        self.directory.join("venv")
    }

    /// Where what is only needed meanwhile goes.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes the note of where it came from, and everything to the disk.
    pub(crate) fn seal(&self, receipt: &Receipt) -> io::Result<()> {
        fs::write(self.directory.join(RECEIPT), serde_json::to_vec_pretty(receipt).map_err(io::Error::other)?)?;
        Ok(rustix::fs::syncfs(open_dir(&self.directory)?)?)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.placed
            && let Err(error) = remove_tree(&self.directory)
        {
            // The next sweep tries again.
            tracing::warn!(%error, path = %self.directory.display(), "what an install left could not be removed");
        }
    }
}

impl Packages {
    fn store(&self) -> PathBuf {
        self.root.join(STORE)
    }

    /// Waits until nobody else changes links.
    fn lock(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = rustix::fs::open(self.store().join("lock"), flags, Mode::RUSR | Mode::WUSR)?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        while rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "another process keeps the packages directory locked"));
            }
            pause(&mut [], Duration::from_millis(5));
        }
        Ok(lock)
    }

    /// A fresh tree to fill.
    pub(crate) fn stage(&self) -> io::Result<Staged> {
        let _alone = self.lock()?;
        let id = random_text();
        let directory = self.store().join(&id);
        fs::create_dir(&directory)?;
        let lock = open_dir(&directory)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let staged = Staged { directory, id, placed: false, _lock: lock };
        fs::create_dir(staged.package())?;
        Ok(staged)
    }

    /// Lets the filled tree be found, in one step; a signed one that is older than the newest signed one only if `downgrade` says so.
    ///
    /// # Errors
    /// The directory cannot be changed, or a directory somebody put there by hand is in use (`ResourceBusy`).
    pub(crate) fn place(&self, mut staged: Staged, receipt: &Receipt, downgrade: bool) -> io::Result<(PathBuf, Placed)> {
        let (name, version) = (&receipt.name, &receipt.version);
        let alone = self.lock()?;
        if receipt.signed_by.is_some() {
            if !downgrade && let Some(newest) = self.newest_signed(name)?.filter(|newest| newest > version) {
                return Ok((staged.package(), Placed::Older { newest }));
            }
            // Before it is found: a kill in between leaves a note of what can be installed again.
            self.raise(name, version)?;
        }
        let above = self.root.join(name.as_str());
        match fs::create_dir(&above) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        // The link is relative, so the directory it is in must be where it seems to be.
        let opened = open_dir(&above)?;
        let link = staged.scratch("link");
        std::os::unix::fs::symlink(Path::new("..").join(STORE).join(&staged.id).join(PACKAGE), &link)?;
        let target = above.join(version.as_str());
        let there = fs::symlink_metadata(&target).ok().map(|meta| meta.file_type());
        let earlier = if there.is_some_and(|kind| kind.is_dir()) {
            let _unused = Lease::exclusive(&target).map_err(|error| io::Error::new(io::ErrorKind::ResourceBusy, error))?;
            rustix::fs::renameat_with(CWD, &link, CWD, &target, RenameFlags::EXCHANGE)?;
            Some(link.clone())
        } else {
            let earlier = target.canonicalize().ok().and_then(|package| Some(self.kept(&package)?.to_owned()));
            fs::rename(&link, &target)?;
            earlier
        };
        staged.placed = true;
        rustix::fs::fsync(&opened)?;
        rustix::fs::fsync(open_dir(&self.root)?)?;
        let package = staged.package();
        drop(staged);
        let placed = match earlier {
            None => Placed::New,
            Some(earlier) if earlier == link => {
                let _by_the_next_sweep = remove_tree(&earlier);
                Placed::Replaced
            }
            Some(earlier) => {
                dispose(&earlier);
                Placed::Replaced
            }
        };
        drop(alone);
        Ok((package, placed))
    }

    /// Takes a package away: it cannot be found from now on.
    ///
    /// # Errors
    /// The directory cannot be changed; `ResourceBusy` for a package that was put there by hand and is in use, or that has installed
    /// versions in its directory. Then it is as it was.
    pub(crate) fn withdraw(&self, installed: &Installed) -> io::Result<Withdrawn> {
        let _alone = self.lock()?;
        if let Some(kept) = self.kept(&installed.directory) {
            let links = self.links()?;
            let ours = links.into_iter().filter(|(_, package)| *package == installed.directory);
            for (link, _) in ours {
                fs::remove_file(&link)?;
                self.tidy(&link);
            }
            return Ok(dispose(kept));
        }
        // Laid there by hand: its path is its own, so it can only move when nobody runs from it.
        let unused = Lease::exclusive(&installed.directory).map_err(|error| io::Error::new(io::ErrorKind::ResourceBusy, error))?;
        if self.links()?.iter().any(|(link, _)| link.starts_with(&installed.directory)) {
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "other versions were installed into its directory: remove those first",
            ));
        }
        if !installed.directory.starts_with(&self.root) {
            return Err(io::Error::other("it lies outside of the packages directory, to which a link leads: remove that link"));
        }
        let away = self.store().join(random_text());
        fs::create_dir(&away)?;
        fs::rename(&installed.directory, away.join(PACKAGE))?;
        self.tidy(&installed.directory);
        drop(unused);
        Ok(dispose(&away))
    }

    /// Removes every tree that nobody makes, finds or uses. What cannot be removed stays for the next time.
    pub(crate) fn sweep(&self) {
        let swept = self.lock().and_then(|_alone| {
            let found: BTreeSet<PathBuf> = self.links()?.into_iter().map(|(_, package)| package).collect();
            for entry in fs::read_dir(self.store())? {
                let directory = entry?.path();
                let Ok(tree) = open_dir(&directory) else { continue };
                if rustix::fs::flock(&tree, FlockOperation::NonBlockingLockExclusive).is_err() {
                    continue;
                }
                if found.contains(&directory.join(PACKAGE)) {
                    // Of a place that was taken, or an install that was killed right after.
                    for left in ["link", "archive"] {
                        let _nothing_as_a_rule = remove_tree(&directory.join(left));
                    }
                } else {
                    dispose(&directory);
                }
            }
            Ok(())
        });
        if let Err(error) = swept {
            tracing::warn!(%error, path = %self.root.display(), "leftovers of packages could not be swept");
        }
    }

    /// The tree of the store that a package's directory is in, if it is in one.
    fn kept<'a>(&self, package: &'a Path) -> Option<&'a Path> {
        package.parent().filter(|kept| kept.parent() == Some(&self.store()))
    }

    /// Every link that an install put there, with where it leads. What cannot be looked at is an error: it may hold a link.
    fn links(&self) -> io::Result<Vec<(PathBuf, PathBuf)>> {
        let mut links = Vec::new();
        for child in fs::read_dir(&self.root)? {
            let child = child?;
            if !child.file_type()?.is_dir() || child.file_name() == STORE {
                continue;
            }
            for grandchild in fs::read_dir(child.path())? {
                let grandchild = grandchild?;
                if !grandchild.file_type()?.is_symlink() {
                    continue;
                }
                let target = fs::read_link(grandchild.path())?;
                // As `place` writes them.
                if let Some(below) = target.strip_prefix("..").ok().and_then(|target| target.strip_prefix(STORE).ok())
                    && below.components().count() == 2
                {
                    links.push((grandchild.path(), self.store().join(below)));
                }
            }
        }
        Ok(links)
    }

    /// Removes the directory of a name when its last version is gone.
    fn tidy(&self, removed: &Path) {
        if let Some(above) = removed.parent().filter(|above| *above != self.root) {
            let _others_are_there = fs::remove_dir(above);
        }
    }
}

/// Removes a tree of the store if nobody uses what is in it.
fn dispose(kept: &Path) -> Withdrawn {
    let package = kept.join(PACKAGE);
    let unused = if package.exists() { Lease::exclusive(&package).map(Some) } else { Ok(None) };
    match unused {
        Err(_in_use) => Withdrawn::InUse,
        Ok(_unused) => match remove_tree(kept) {
            Ok(()) => Withdrawn::Removed,
            Err(error) => {
                tracing::warn!(%error, path = %kept.display(), "a package's files could not be removed");
                Withdrawn::InUse
            }
        },
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return Err(io::ErrorKind::InvalidInput.into()) };
    let name = CString::new(name.as_encoded_bytes())?;
    let above = open_dir(above)?;
    if rustix::fs::statat(&above, &name, AtFlags::SYMLINK_NOFOLLOW).is_err() {
        return Ok(());
    }
    files::remove(above.as_fd(), &name)
}
