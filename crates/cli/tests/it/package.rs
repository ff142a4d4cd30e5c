//! `longshore package`, from a directory to an installed package and out again, also under kills and on a full disk.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use longshore_testkit::{Disk, Random};
use serde_json::{Value, json};

use crate::cli::{Ran, longshore, run};

struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn package(&self, words: &[&str]) -> Ran {
        let words: Vec<_> = ["package"].iter().chain(words).copied().collect();
        run(longshore(self.dir.path(), &words).current_dir(self.dir.path()).env_remove("ASTRA_WORKER_PACKAGES_DIR"))
    }

    fn json(&self, words: &[&str]) -> Value {
        let ran = self.package(&[words, &["-o", "json"]].concat());
        assert_eq!(ran.code, Some(0), "{words:?}: {}", ran.stderr);
        serde_json::from_str(&ran.stdout).unwrap()
    }

    /// A directory of a package, and the archive that is built of it.
    fn archive(&self, version: &str, n_files: usize, content: &str) -> PathBuf {
        let source = self.path(&format!("source-{version}-{}", content.len().min(9)));
        let source = PathBuf::from(format!("{}-{}", source.display(), fs::read_dir(self.dir.path()).unwrap().count()));
        fs::create_dir_all(source.join("data")).unwrap();
        fs::write(source.join("manifest.json"), manifest(version).to_string()).unwrap();
        (0..n_files).for_each(|n| fs::write(source.join(format!("data/{n}.txt")), content).unwrap());
        let archive = PathBuf::from(format!("{}.zip", source.display()));
        let ran = self.package(&["build", source.to_str().unwrap(), "--out", archive.to_str().unwrap()]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        archive
    }
}

fn manifest(version: &str) -> Value {
    json!({
        "schemaVersion": "1.0.0", "name": "example.pkg", "version": version, "description": "",
        "adapters": [{ "name": "a", "entrypoint": "m", "capabilities": ["x"] }], "python": { "requires": ">=3" },
        "nodes": [{ "type": "example.echo", "status": "draft", "category": "c", "label": "l", "adapter": "a", "handler": "h", "schema": true }],
    })
}

#[test]
fn a_package_is_built_verified_installed_listed_and_uninstalled() {
    let home = Home::new();
    let source = home.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("manifest.json"), manifest("1.0.0").to_string()).unwrap();
    fs::write(source.join("m.py"), "def h(context): return {}\n").unwrap();
    let built = home.json(&["build", "source"]);
    assert_eq!(built["path"], "example.pkg-1.0.0.zip");
    let digest = built["sha256"].as_str().unwrap();
    let again = home.package(&["build", "source"]);
    assert!(again.code == Some(1) && again.stderr.contains("--force"), "{}", again.stderr);
    assert_eq!(home.json(&["build", "source", "--force"])["sha256"], digest, "the same files, the same archive");

    let verified = home.json(&["verify", "example.pkg-1.0.0.zip", "--sha256", digest]);
    assert_eq!((&verified["name"], &verified["format"]), (&json!("example.pkg"), &json!("zip")));
    let other = home.package(&["verify", "example.pkg-1.0.0.zip", "--sha256", &"0".repeat(64)]);
    assert!(other.code == Some(10) && other.stderr.contains("SHA-256"), "{:?} {}", other.code, other.stderr);

    let empty = home.package(&["list"]);
    assert_eq!((empty.code, empty.stdout.as_str()), (Some(0), ""));
    assert!(!home.path("state/longshore/packages").exists(), "looking makes nothing");
    let installed = home.json(&["install", "example.pkg-1.0.0.zip", "--expect", "example.pkg@1.0.0", "--sha256", digest]);
    assert_eq!((&installed["change"], &installed["name"]), (&json!("new"), &json!("example.pkg")));
    let unchanged = home.json(&["install", "example.pkg-1.0.0.zip", "--expect", "example.pkg@1.0.0", "--sha256", digest]);
    assert_eq!(unchanged["change"], "unchanged");

    let broken = home.path("state/longshore/packages/broken/1.0.0");
    fs::create_dir_all(&broken).unwrap();
    fs::write(broken.join("manifest.json"), "{}").unwrap();
    let list = home.json(&["list"]);
    assert_eq!(list["items"][0]["sha256"], digest);
    assert_eq!((&list["items"][0]["status"], &list["items"][0]["nodes"]), (&json!("installed"), &json!(["example.echo"])));
    assert_eq!(list["items"][1]["status"], "failed");
    assert!(list["items"][1]["why"].as_str().unwrap().contains("missing field"), "{list}");
    let table = home.package(&["list"]).stdout;
    assert!(table.contains("example.pkg  1.0.0") && table.contains("failed"), "{table}");

    let removed = home.package(&["uninstall", "example.pkg"]);
    assert_eq!((removed.code, removed.stdout.as_str()), (Some(0), "example.pkg 1.0.0 uninstalled\n"));
    let gone = home.package(&["uninstall", "example.pkg@1.0.0"]);
    assert!(gone.code == Some(3) && gone.stderr.contains("not installed"), "{}", gone.stderr);
}

#[test]
fn a_package_is_built_in_its_own_directory_without_what_builds_leave_there() {
    let home = Home::new();
    let source = home.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("manifest.json"), manifest("1.0.0").to_string()).unwrap();
    fs::write(source.join("example.pkg-model.zip"), "the package's own").unwrap();
    let build = || {
        let ran = run(longshore(home.dir.path(), &["package", "build", ".", "--force", "-o", "json"]).current_dir(&source));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        serde_json::from_str::<Value>(&ran.stdout).unwrap()
    };
    let first = build();
    fs::write(source.join("example.pkg-0.9.0.zip.minisig"), "of an earlier one").unwrap();
    let second = build();
    assert_eq!((&first["entries"], &second["sha256"]), (&json!(2), &first["sha256"]), "{first} {second}");
}

#[test]
fn what_is_refused_says_why_and_what_is_there_still() {
    let home = Home::new();
    let archive = home.archive("1.0.0", 1, "x");
    let archive = archive.to_str().unwrap();
    fs::write(home.path("script"), "#!/bin/sh\n").unwrap();
    fs::create_dir(home.path("none")).unwrap();
    fs::write(home.path("no.key"), "nonsense").unwrap();
    let key = "untrusted comment: minisign public key\nRWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\n";
    fs::write(home.path("good.key"), key).unwrap();
    for (words, code, reason) in [
        (&["build", "none"][..], 10, "manifest.json"),
        (&["build", "not-there"], 10, "manifest.json"),
        (&["verify", "script"], 10, "neither a zip nor a tar"),
        (&["verify", "none"], 2, "is no file"),
        (&["verify", "not-there"], 2, "cannot be read"),
        (&["verify", archive, "--key", "good.key"], 4, "no signature beside it"),
        (&["verify", archive, "--key", "no.key"], 2, "no public key"),
        (&["verify", archive, "--sha256", "12"], 2, "64 hexadecimal digits"),
        (&["install", "script"], 10, "neither a zip nor a tar"),
        (&["install", archive, "--expect", "other"], 10, "the archive holds example.pkg 1.0.0"),
        (&["install", archive, "--expect", "../x"], 2, "no package name"),
        (&["install", archive, "--key", "good.key"], 4, "no signature beside it"),
        (&["install", "http://127.0.0.1:1/x.zip"], 1, "not among the public addresses"),
        (&["install", "http://user:hunter2@example.org/x.zip?token=canary"], 1, "user or a password"),
        (&["install", "gopher://example.org/x"], 1, "only http, https and file"),
        (&["install", "not-there"], 2, "cannot be read"),
        (&["uninstall", "../../etc"], 2, "no package name"),
        (&["uninstall", "-rf"], 2, "unexpected argument"),
    ] {
        let ran = home.package(words);
        assert_eq!(ran.code, Some(code), "{words:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(reason), "{words:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains("canary") && !ran.stderr.contains("hunter2"), "{}", ran.stderr);
    }
}

#[test]
fn a_kill_at_any_moment_leaves_the_old_package_or_the_new_one() {
    const FILES: usize = 120;
    let home = Home::new();
    let contents = ["old ".repeat(4000), "new ".repeat(4000)];
    let archives: Vec<_> = contents.iter().map(|content| home.archive("1.0.0", FILES, content)).collect();
    home.json(&["install", archives[0].to_str().unwrap()]);
    let packages = home.path("state/longshore/packages");
    let mut random = Random::new(7);
    let (mut seen, mut n_killed) = (BTreeSet::new(), 0);
    for round in 0..40 {
        let archive = archives[(round + 1) % 2].to_str().unwrap();
        let mut command = longshore(home.dir.path(), &["package", "install", archive]);
        command.env_remove("ASTRA_WORKER_PACKAGES_DIR").stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let patience = Duration::from_micros(1000 * random.below(250) as u64);
        let began = std::time::Instant::now();
        // The moment of the kill is what is tried.
        while began.elapsed() < patience && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        n_killed += usize::from(child.try_wait().unwrap().is_none());
        let _ended_already = child.kill();
        child.wait().unwrap();
        let list = home.json(&["list"]);
        assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");
        seen.insert(whole(&packages.join("example.pkg/1.0.0"), FILES));
    }
    println!("{n_killed} of 40 were killed");
    assert!(n_killed > 5, "{n_killed} kills are none");
    // Whatever was left is swept by the next one, which also ends as usual.
    home.json(&["install", archives[1].to_str().unwrap()]);
    assert_eq!(whole(&packages.join("example.pkg/1.0.0"), FILES), "new");
    let trees = fs::read_dir(packages.join(".store")).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count();
    assert_eq!(trees, 1);
}

/// The word that all files of a package agree on.
fn whole(package: &Path, n_files: usize) -> String {
    let read = |n: usize| fs::read_to_string(package.join(format!("data/{n}.txt"))).unwrap();
    let first = read(0);
    assert!((0..n_files).all(|n| read(n) == first) && first.len() == 16_000, "it is whole");
    first.split(' ').next().unwrap().to_owned()
}

#[test]
fn a_full_disk_leaves_the_old_package() {
    let Ok(disk) = Disk::mount("2m") else {
        println!("no file system can be mounted here: not tried");
        return;
    };
    let home = Home::new();
    let packages = disk.path().join("packages");
    let place = ["--packages-dir", packages.to_str().unwrap()];
    let (small, large) = (home.archive("1.0.0", 2, &"old ".repeat(4000)), home.archive("1.0.0", 4, &"new ".repeat(200_000)));
    home.json(&[&["install", small.to_str().unwrap()][..], &place].concat());
    let ran = home.package(&[&["install", large.to_str().unwrap()][..], &place].concat());
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("No space left"), "{}", ran.stderr);
    assert_eq!(whole(&packages.join("example.pkg/1.0.0"), 2), "old");
    let trees = fs::read_dir(packages.join(".store")).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count();
    assert_eq!(trees, 1, "and nothing of the new one");
}
