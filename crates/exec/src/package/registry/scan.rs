//! Reads the packages directory in both layouts.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use longshore_model::limits::{PACKAGE_MANIFEST_BYTES_MAX, PACKAGES_MAX};
use rustix::fs::OFlags;
use serde_json::Value;

use super::{Broken, Installed, Inventory, STORE};
use crate::files::{open_dir, read_beneath};
use crate::package::Manifest;

pub(super) fn inventory(root: &Path) -> io::Result<Inventory> {
    let mut inventory = Inventory::default();
    let mut known = BTreeSet::new();
    for child in directories(root)? {
        let flat = look(&child, &mut inventory, &mut known);
        let Ok(grandchildren) = directories(&child) else { continue };
        for grandchild in grandchildren {
            // What else lies in a package laid flat is that package's own; only what an install put there is another one.
            if !flat || is_ours(root, &grandchild) {
                look(&grandchild, &mut inventory, &mut known);
            }
        }
        if inventory.installed.len() + inventory.broken.len() > PACKAGES_MAX {
            return Err(io::Error::other(format!("there are more than {PACKAGES_MAX} packages")));
        }
    }
    inventory.installed.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    inventory.broken.sort_by(|a, b| (&a.name, &a.version, &a.directory).cmp(&(&b.name, &b.version, &b.directory)));
    Ok(inventory)
}

/// Where manifests are, and which files they are: another one whenever something is installed, replaced, removed or edited. Reads none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp(Vec<(PathBuf, Option<Mark>)>);

/// Which file a manifest is: device, inode, time of its last change, size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark(u64, u64, (i64, i64), u64);

/// How a package looked from outside: where an install would put it, and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    pub(super) usual: Option<Mark>,
    pub(super) own: Option<Mark>,
}

pub(super) fn mark(directory: &Path) -> Option<Mark> {
    let found = std::fs::metadata(directory.join("manifest.json")).ok()?;
    Some(Mark(found.dev(), found.ino(), (found.ctime(), found.ctime_nsec()), found.size()))
}

pub(super) fn stamp(root: &Path) -> io::Result<Stamp> {
    let mut seen = Vec::new();
    let mut see = |directory: PathBuf| {
        let found = mark(&directory);
        seen.push((directory, found));
    };
    for child in directories(root)? {
        if let Ok(grandchildren) = directories(&child) {
            grandchildren.into_iter().for_each(&mut see);
        }
        see(child);
    }
    Ok(Stamp(seen))
}

/// Takes note of what is in a directory; tells whether a package is.
fn look(directory: &Path, inventory: &mut Inventory, known: &mut BTreeSet<(String, String)>) -> bool {
    match read(directory) {
        Ok(None) => false,
        Ok(Some(installed)) => {
            let usual = directory.ends_with(Path::new(installed.name.as_str()).join(installed.version.as_str()));
            let same = |one: &Installed| one.name == installed.name && one.version == installed.version;
            if known.insert((installed.name.to_string(), installed.version.to_string())) {
                inventory.installed.push(installed);
            } else {
                // The one that an install would replace is the one that is found.
                let installed = match inventory.installed.iter_mut().find(|one| same(one)) {
                    Some(other) if usual => std::mem::replace(other, installed),
                    _kept => installed,
                };
                let directory = if usual { installed.directory } else { directory.to_owned() };
                let why = "the same name and version are in another directory, which is used".to_owned();
                let (name, version) = (Some(installed.name.to_string()), Some(installed.version.to_string()));
                inventory.broken.push(Broken { directory, name, version, why });
            }
            true
        }
        Err(broken) => {
            inventory.broken.push(*broken);
            true
        }
    }
}

/// The package in a directory; nothing if there is no manifest.
pub(super) fn read(directory: &Path) -> Result<Option<Installed>, Box<Broken>> {
    let broken = |why: String, said: Option<&Value>| {
        let text = |field: &str| said.and_then(|value| value.get(field)).and_then(Value::as_str).map(str::to_owned);
        Box::new(Broken { directory: directory.to_owned(), name: text("name"), version: text("version"), why })
    };
    // Links on the way are those of who owns the packages directory; within the package none is followed.
    let Ok(real) = directory.canonicalize() else { return Ok(None) };
    let Ok(opened) = open_dir(&real) else { return Ok(None) };
    let text = match read_beneath(&opened, "manifest.json", PACKAGE_MANIFEST_BYTES_MAX) {
        Ok(Some(text)) => text,
        Ok(None) => return Ok(None),
        Err(error) => return Err(broken(format!("manifest.json cannot be read: {error}"), None)),
    };
    let (manifest, raw) = match Manifest::parse(&text) {
        Ok(read) => read,
        Err(error) => return Err(broken(error.to_string(), serde_json::from_slice(&text).ok().as_ref())),
    };
    let python = python_of(&real);
    Ok(Some(Installed { name: manifest.name.clone(), version: manifest.version.clone(), directory: real, manifest, raw, python }))
}

/// The interpreter beside what an install unpacked.
fn python_of(real: &Path) -> Option<PathBuf> {
    let kept = real.parent()?;
    let in_store = kept.parent().and_then(Path::file_name).is_some_and(|name| name == STORE);
    let python = kept.join("venv").join("bin").join("python");
    (in_store && rustix::fs::open(&python, OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty()).is_ok()).then_some(python)
}

/// Whether an install put a link there.
fn is_ours(root: &Path, path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink())
        && path.canonicalize().is_ok_and(|real| real.starts_with(root.join(STORE)))
}

/// The directories in a directory, those that links lead to included, sorted. What begins with a dot is nobody's package.
fn directories(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") && entry.path().is_dir() {
            found.push(entry.path());
        }
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::package::Packages;

    fn manifest(name: &str, version: &str) -> String {
        serde_json::json!({
            "schemaVersion": "1.0.0", "name": name, "version": version, "description": "",
            "adapters": [{ "name": "a", "entrypoint": "m", "capabilities": ["x"] }], "python": { "requires": ">=3" },
            "nodes": [{ "type": "t", "status": "draft", "category": "c", "label": "l", "adapter": "a", "handler": "h", "schema": true }],
        })
        .to_string()
    }

    fn put(root: &Path, path: &str, text: &str) {
        fs::create_dir_all(root.join(path)).unwrap();
        fs::write(root.join(path).join("manifest.json"), text).unwrap();
    }

    #[test]
    fn both_layouts_are_read_and_what_is_broken_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let packages = Packages::open(dir.path().join("packages")).unwrap();
        let root = packages.root();
        put(root, "example_pkg", &manifest("example.pkg", "1.0.0"));
        put(root, "example_pkg/data", &manifest("not.mine", "1.0.0"));
        put(root, "other/1.10.0", &manifest("other", "1.10.0"));
        put(root, "other/1.9.0", &manifest("other", "1.9.0"));
        put(root, "other/copy", &manifest("other", "1.9.0"));
        put(root, "bad/1.0.0", r#"{"name": "bad", "version": "1.0.0"}"#);
        put(root, "none", "no JSON at all");
        put(root, ".hidden/1.0.0", &manifest("hidden", "1.0.0"));
        put(root, ".store/id-1/package", &manifest("example.pkg", "2.0.0"));
        symlink("../.store/id-1/package", root.join("example_pkg/2.0.0")).unwrap();
        put(root, ".store/id-2/package", &manifest("nobody", "2.0.0"));
        fs::create_dir(root.join("empty")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        fs::create_dir(root.join("linked")).unwrap();
        symlink("/etc/passwd", root.join("linked/manifest.json")).unwrap();

        let inventory = packages.inventory().unwrap();
        let ids: Vec<_> = inventory.installed.iter().map(|one| format!("{} {}", one.name, one.version)).collect();
        assert_eq!(ids, ["example.pkg 1.0.0", "example.pkg 2.0.0", "other 1.9.0", "other 1.10.0"]);
        let why: Vec<_> = inventory.broken.iter().map(|one| (one.name.as_deref(), one.why.as_str())).collect();
        assert_eq!(why.len(), 4, "{why:?}");
        assert!(why.iter().any(|(name, why)| *name == Some("bad") && why.contains("missing field")), "{why:?}");
        assert!(why.iter().any(|(name, why)| *name == Some("other") && why.contains("another directory")), "{why:?}");

        let find = |name: &str, version: &str| packages.find(&name.parse().unwrap(), &version.parse().unwrap());
        assert_eq!(find("example.pkg", "1.0.0").unwrap().directory, root.join("example_pkg"));
        assert_eq!(find("example.pkg", "2.0.0").unwrap().directory, root.join(".store/id-1/package"));
        assert_eq!(find("other", "1.9.0").unwrap().directory, root.join("other/1.9.0"));
        assert!(find("bad", "1.0.0").is_none() && find("hidden", "1.0.0").is_none() && find("nobody", "2.0.0").is_none());
    }

    #[test]
    fn a_package_in_use_is_shared_by_its_users_and_nobody_removes_it() {
        use super::super::{HoldError, Lease};
        let dir = tempfile::tempdir().unwrap();
        let packages = Packages::open(dir.path()).unwrap();
        put(packages.root(), "p/1.0.0", &manifest("p", "1.0.0"));
        let installed = packages.find(&"p".parse().unwrap(), &"1.0.0".parse().unwrap()).unwrap();
        let (one, two) = (installed.hold().unwrap(), installed.hold().unwrap());
        assert!(matches!(Lease::exclusive(&installed.directory), Err(HoldError::Leaving { .. })));
        drop((one, two));
        let remover = Lease::exclusive(&installed.directory).unwrap();
        assert!(matches!(installed.hold(), Err(HoldError::Leaving { .. })));
        fs::remove_dir_all(&installed.directory).unwrap();
        drop(remover);
        assert!(matches!(installed.hold(), Err(HoldError::Gone { .. })));
    }
}
