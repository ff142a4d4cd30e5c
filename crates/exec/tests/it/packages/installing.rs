//! What an install changes, and what it never does.

use std::fs;

use longshore_exec::package::{ArchiveLimits, Change, InstallError, InstallRequest, Packages, build};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Site, manifest, request};

#[tokio::test]
async fn a_package_is_installed_once_and_versions_stand_side_by_side() {
    let site = Site::new();
    let one = site.archive("example.pkg", "1.0.0", "one");
    let report = site.install(&one).await.unwrap();
    assert_eq!(report.change, Change::New);
    assert_eq!(report.installed.directory, site.find("example.pkg", "1.0.0").unwrap().directory);
    assert_eq!(report.installed, site.find("example.pkg", "1.0.0").unwrap());
    let details = report.details();
    assert_eq!((&details["action"], &details["change"], &details["format"]), (&json!("install"), &json!("new"), &json!("zip")));

    let again = site.install(&one).await.unwrap();
    assert_eq!((again.change, again.sha256), (Change::Replaced, report.sha256.clone()), "without a name nobody knows that it is there");
    let named = InstallRequest {
        name: Some("example.pkg".parse().unwrap()),
        version: Some("1.0.0".parse().unwrap()),
        sha256: Some(report.sha256.clone().try_into().unwrap()),
        url: Some("http://192.0.2.1/never-asked".to_owned()),
        ..request(&one)
    };
    let there = site.installer.install(named, &CancellationToken::new()).await.unwrap();
    assert_eq!(there.change, Change::Unchanged, "known by its digest, and nothing is fetched");

    site.install(&site.archive("example.pkg", "1.1.0", "two")).await.unwrap();
    site.install(&site.archive("other", "1.0.0", "three")).await.unwrap();
    assert_eq!(site.names(), ["example.pkg 1.0.0", "example.pkg 1.1.0", "other 1.0.0"]);
    assert_eq!(site.content("example.pkg", "1.0.0").as_deref(), Some("one"));
    let receipt = site.find("other", "1.0.0").unwrap().receipt().unwrap();
    assert!(receipt.source.starts_with("file:///") && receipt.signed_by.is_none());
    let usual = site.packages().root().join("example.pkg/1.1.0/manifest.json");
    assert!(fs::read_to_string(usual).unwrap().contains("1.1.0"), "the layout that other workers read");
}

#[tokio::test]
async fn whatever_fails_leaves_the_old_version_and_nothing_else() {
    let site = Site::new();
    site.install(&site.archive("p", "1.0.0", "good")).await.unwrap();
    let (inventory, trees) = (site.packages().inventory().unwrap(), site.trees());

    let newer = site.archive("p", "1.0.0", "newer");
    let bytes = fs::read(&newer).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = site.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        request(&path)
    };
    let hostile = {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..7].copy_from_slice(b"../evil");
        header.set_size(1);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, &b"x"[..]).unwrap();
        tar.into_inner().unwrap()
    };
    let unknown_field = {
        let mut changed = manifest("p", "1.0.0");
        changed["nodes"][0]["surprise"] = json!(1);
        tar_of(&site, &changed.to_string())
    };
    let wrong_resource = {
        let mut changed = manifest("p", "1.0.0");
        changed["resources"] = json!([{ "path": "manifest.json", "type": "x", "sha256": "0".repeat(64) }]);
        tar_of(&site, &changed.to_string())
    };
    let outside = {
        let mut changed = manifest("p", "1.0.0");
        changed["resources"] = json!([{ "path": "../../../etc/passwd", "type": "x" }]);
        tar_of(&site, &changed.to_string())
    };
    let digest = |text: &str| Some(text.to_owned().try_into().unwrap());
    let cases: Vec<(&str, InstallRequest, &str, &str)> = vec![
        ("no address", InstallRequest::default(), "request", "names no `url`"),
        (
            "no file",
            write("gone", b"").url.map(|url| InstallRequest { url: Some(url + "-not"), ..Default::default() }).unwrap(),
            "fetch",
            "read",
        ),
        ("another digest", InstallRequest { sha256: digest(&"0".repeat(64)), ..request(&newer) }, "verify", "SHA-256"),
        ("another name", InstallRequest { name: Some("q".parse().unwrap()), ..request(&newer) }, "manifest", "holds p 1.0.0"),
        ("another version", InstallRequest { version: Some("2.0.0".parse().unwrap()), ..request(&newer) }, "manifest", "holds p 1.0.0"),
        ("cut off", write("cut", &bytes[..bytes.len() / 2]), "unpack", "unpack the archive"),
        ("no archive", write("script", b"#!/bin/sh\n"), "unpack", "neither a zip nor a tar"),
        ("hostile", write("hostile", &hostile), "unpack", "\"../evil\""),
        ("no manifest", write("empty", b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), "manifest", "there is none"),
        ("an unknown field", request(&unknown_field), "manifest", "nodes[0].surprise"),
        ("another resource", request(&wrong_resource), "manifest", "SHA-256"),
        ("a resource outside", request(&outside), "manifest", "not plainly below"),
    ];
    for (what, request, step, reason) in cases {
        let error = site.installer.install(request, &CancellationToken::new()).await.expect_err(what);
        let details = error.details();
        assert_eq!(details["step"], step, "{what}: {details}");
        assert!(details["error"].as_str().unwrap().contains(reason), "{what}: {details}");
        assert_eq!(site.packages().inventory().unwrap(), inventory, "{what}");
        assert_eq!(site.trees(), trees, "{what} leaves nothing");
    }
    assert_eq!(site.content("p", "1.0.0").as_deref(), Some("good"));
    assert!(!site.dir.path().join("evil").exists());
}

#[tokio::test]
async fn a_replaced_version_stays_whole_for_whoever_runs_from_it() {
    let site = Site::new();
    let first = site.install(&site.archive("p", "1.0.0", "old")).await.unwrap().installed;
    let lease = first.hold().unwrap();
    let report = site.install(&site.archive("p", "1.0.0", "new")).await.unwrap();
    assert_eq!(report.change, Change::Replaced);
    assert_eq!(site.content("p", "1.0.0").as_deref(), Some("new"), "whoever starts now");
    assert_eq!(fs::read_to_string(first.directory.join("adapters/echo.py")).unwrap(), "old", "whoever runs");
    Packages::open(site.packages().root()).unwrap();
    assert!(first.directory.exists(), "a sweep leaves what is in use");
    drop(lease);
    Packages::open(site.packages().root()).unwrap();
    assert!(!first.directory.exists() && site.trees() == 1);
}

#[tokio::test]
async fn a_directory_laid_there_by_hand_is_replaced_in_one_step_if_nobody_uses_it() {
    let site = Site::new();
    let by_hand = site.packages().root().join("p/1.0.0");
    fs::create_dir_all(by_hand.join("adapters")).unwrap();
    fs::write(by_hand.join("manifest.json"), manifest("p", "1.0.0").to_string()).unwrap();
    fs::write(by_hand.join("adapters/echo.py"), "by hand").unwrap();
    let lease = site.find("p", "1.0.0").unwrap().hold().unwrap();
    let archive = site.archive("p", "1.0.0", "installed");
    let error = site.install(&archive).await.unwrap_err();
    assert!(matches!(error, InstallError::Store(_)) && error.is_retryable(), "{error}");
    assert_eq!(site.content("p", "1.0.0").as_deref(), Some("by hand"));
    drop(lease);
    assert_eq!(site.install(&archive).await.unwrap().change, Change::Replaced);
    assert_eq!(site.content("p", "1.0.0").as_deref(), Some("installed"));
    assert_eq!(site.trees(), 1);
}

#[tokio::test]
async fn installs_at_once_end_as_one_of_them_and_never_mixed() {
    let site = Site::new();
    let archives: Vec<_> = (0..4).map(|n| site.archive("p", "1.0.0", &format!("content {n}"))).collect();
    let same = site.archive("same", "1.0.0", "same");
    // Another process has the directory too.
    let other = super::installer(site.packages().root(), |_| {});
    let cancel = CancellationToken::new();
    let mut all = tokio::task::JoinSet::new();
    for archive in archives.iter().chain([&same, &same]) {
        for installer in [site.installer.clone(), other.clone()] {
            let (request, cancel) = (request(archive), cancel.clone());
            all.spawn(async move { installer.install(request, &cancel).await });
        }
    }
    while let Some(done) = all.join_next().await {
        done.unwrap().unwrap();
        let content = site.content("p", "1.0.0");
        assert!(content.is_none_or(|content| content.starts_with("content ")), "one of them, whole");
    }
    assert_eq!(site.names(), ["p 1.0.0", "same 1.0.0"]);
    Packages::open(site.packages().root()).unwrap();
    assert_eq!(site.trees(), 2, "what was replaced is gone");
}

#[tokio::test]
async fn a_cancelled_and_a_dropped_install_change_nothing() {
    let site = Site::new();
    let archive = site.archive("p", "1.0.0", &"x".repeat(1024 * 1024));
    let cancel = CancellationToken::new();
    cancel.cancel();
    site.installer.install(request(&archive), &cancel).await.unwrap_err();
    for n_polls in 0..40 {
        let install = site.installer.clone();
        let request = request(&archive);
        let cancel = CancellationToken::new();
        let mut install = Box::pin(async move { install.install(request, &cancel).await });
        let mut polls = 0;
        let done = std::future::poll_fn(|cx| {
            polls += 1;
            match install.as_mut().poll(cx) {
                std::task::Poll::Pending if polls <= n_polls => std::task::Poll::Pending,
                std::task::Poll::Pending => std::task::Poll::Ready(None),
                std::task::Poll::Ready(done) => std::task::Poll::Ready(Some(done)),
            }
        })
        .await;
        drop(install);
        let Some(done) = done else {
            let content = site.content("p", "1.0.0");
            assert!(content.is_none_or(|content| content.len() == 1024 * 1024), "all of it or nothing");
            continue;
        };
        done.unwrap();
        break;
    }
    Packages::open(site.packages().root()).unwrap();
    assert!(site.trees() <= 2, "at most the one that is found, and one that is just ending");
}

#[tokio::test]
async fn the_same_directory_gives_the_same_archive_wherever_and_whenever_it_is_packed() {
    let site = Site::new();
    let mut digests = Vec::new();
    for n in 0..2 {
        let source = tempfile::tempdir_in(site.dir.path()).unwrap();
        let names = if n == 0 { ["z.py", "a.py", "run.sh"] } else { ["run.sh", "a.py", "z.py"] };
        names.iter().for_each(|name| fs::write(source.path().join(name), name).unwrap());
        fs::set_permissions(source.path().join("run.sh"), std::os::unix::fs::PermissionsExt::from_mode(if n == 0 { 0o700 } else { 0o755 }))
            .unwrap();
        fs::create_dir(source.path().join("__pycache__")).unwrap();
        fs::write(source.path().join("__pycache__/a.pyc"), n.to_string()).unwrap();
        std::os::unix::fs::symlink("a.py", source.path().join("link")).unwrap();
        fs::write(source.path().join("manifest.json"), manifest("p", "1.0.0").to_string()).unwrap();
        let file = tempfile::tempfile().unwrap();
        let built = build(source.path(), &file, ArchiveLimits::default()).unwrap();
        assert_eq!(built.examined.entries, 5);
        digests.push(built.sha256);
    }
    assert_eq!(digests[0], digests[1]);
}

#[tokio::test]
async fn what_no_install_would_take_is_not_built() {
    let site = Site::new();
    let source = |change: &dyn Fn(&std::path::Path)| {
        let source = tempfile::tempdir_in(site.dir.path()).unwrap();
        fs::write(source.path().join("manifest.json"), manifest("p", "1.0.0").to_string()).unwrap();
        change(source.path());
        build(source.path(), &tempfile::tempfile().unwrap(), ArchiveLimits::default()).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(source(&|_| {}), Ok(()));
    type Change<'a> = &'a dyn Fn(&std::path::Path);
    let cases: [(Change<'_>, &str); 5] = [
        (&|dir| fs::remove_file(dir.join("manifest.json")).unwrap(), "manifest.json"),
        (&|dir| std::os::unix::fs::symlink("/etc/passwd", dir.join("l")).unwrap(), "leads outside"),
        (&|dir| ["A", "a"].iter().for_each(|name| fs::write(dir.join(name), "").unwrap()), "in case"),
        (
            &|dir| {
                fs::write(
                    dir.join("manifest.json"),
                    manifest("p", "1.0.0").to_string().replace("\"a\"", "\"b\"").replacen("\"b\"", "\"a\"", 1),
                )
                .unwrap()
            },
            "adapter",
        ),
        (&|dir| drop(std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap()), "have a place in a package"),
    ];
    for (change, reason) in cases {
        let error = source(change).unwrap_err();
        assert!(error.contains(reason), "{reason}: {error}");
    }
}

#[tokio::test]
async fn archives_that_python_makes_are_taken() {
    const MAKE: &str = "import shutil, sys, tarfile, zipfile, os\n\
        os.chdir(sys.argv[1])\n\
        for form in ('zip', 'tar', 'gztar', 'bztar', 'xztar'): shutil.make_archive('out/made-' + form, form, 'src')\n\
        for name, form in (('pax', tarfile.PAX_FORMAT), ('gnu', tarfile.GNU_FORMAT), ('ustar', tarfile.USTAR_FORMAT)):\n\
        \x20   with tarfile.open(f'out/{name}.tar', 'w', format=form) as t: t.add('src', arcname='.')\n\
        with zipfile.ZipFile('out/of-no-unix.zip', 'w', zipfile.ZIP_DEFLATED) as z:\n\
        \x20   for name, text in (('adapters/', ''), ('adapters/echo.py', 'x'), ('manifest.json', open('src/manifest.json').read())):\n\
        \x20       i = zipfile.ZipInfo(name); i.create_system = 0; i.external_attr = 0; z.writestr(i, text)\n\
        class Pipe:\n\
        \x20   def __init__(self, file): self.file = file\n\
        \x20   def write(self, data): return self.file.write(data)\n\
        \x20   def flush(self): pass\n\
        with zipfile.ZipFile(Pipe(open('out/streamed.zip', 'wb')), 'w', zipfile.ZIP_BZIP2) as z:\n\
        \x20   z.comment = b'a comment'\n\
        \x20   z.write('src/manifest.json', 'manifest.json')\n\
        with zipfile.ZipFile('out/package.cwx', 'w', zipfile.ZIP_DEFLATED) as z:\n\
        \x20   with z.open('manifest.json', 'w', force_zip64=True) as f: f.write(open('src/manifest.json', 'rb').read())\n";
    let site = Site::new();
    let dir = site.dir.path();
    fs::create_dir_all(dir.join("src/adapters")).unwrap();
    fs::create_dir(dir.join("out")).unwrap();
    fs::write(dir.join("src/manifest.json"), manifest("p", "1.0.0").to_string()).unwrap();
    fs::write(dir.join("src/adapters/gr\u{fc}\u{df}e.py"), "x").unwrap();
    assert!(std::process::Command::new("python3").args(["-c", MAKE]).arg(dir).status().unwrap().success());
    let mut made = 0;
    for archive in fs::read_dir(dir.join("out")).unwrap() {
        let path = archive.unwrap().path();
        site.install(&path).await.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        made += 1;
    }
    assert_eq!(made, 11);
}

/// An archive with that manifest, which `build` would refuse.
fn tar_of(site: &Site, text: &str) -> std::path::PathBuf {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_path("manifest.json").unwrap();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    tar.append(&header, text.as_bytes()).unwrap();
    let path = site.dir.path().join(format!("{}.tar", super::uuid(site.dir.path())));
    fs::write(&path, tar.into_inner().unwrap()).unwrap();
    path
}
