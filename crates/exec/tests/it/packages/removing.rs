//! Uninstalling, also while somebody runs from it; and what kills leave behind.

use std::fs;
use std::time::Duration;

use longshore_exec::package::{HookRule, HooksDone, Packages, UninstallError};
use tokio_util::sync::CancellationToken;

use super::{Site, manifest};

#[tokio::test]
async fn an_uninstalled_package_is_gone_at_once_and_its_files_when_nobody_uses_them() {
    let site = Site::new();
    for version in ["1.0.0", "1.1.0", "2.0.0"] {
        site.install(&site.archive("p", version, version)).await.unwrap();
    }
    site.install(&site.archive("q", "1.0.0", "q")).await.unwrap();
    let (name, cancel) = ("p".parse().unwrap(), CancellationToken::new());
    let used = site.find("p", "1.0.0").unwrap();
    let lease = used.hold().unwrap();

    let report = site.installer.uninstall(&name, Some(&"1.0.0".parse().unwrap()), &cancel).await.unwrap();
    assert!(report.removed[0].in_use && report.kept.is_empty());
    assert!(site.find("p", "1.0.0").is_none(), "nobody starts it any more");
    assert_eq!(fs::read_to_string(used.directory.join("adapters/echo.py")).unwrap(), "1.0.0", "what runs goes on");
    // It may be installed again meanwhile, and is another tree.
    let again = site.install(&site.archive("p", "1.0.0", "again")).await.unwrap().installed;
    assert_ne!(again.directory, used.directory);
    drop(lease);
    Packages::open(site.packages().root()).unwrap();
    assert!(!used.directory.exists());

    let report = site.installer.uninstall(&name, None, &cancel).await.unwrap();
    assert_eq!(report.removed.len(), 3, "without a version: all of them");
    assert!(report.removed.iter().all(|one| !one.in_use));
    assert_eq!(report.details()["action"], "uninstall");
    assert_eq!((site.names(), site.trees()), (vec!["q 1.0.0".to_owned()], 1));
    assert!(!site.packages().root().join("p").exists());
    let error = site.installer.uninstall(&name, None, &cancel).await.unwrap_err();
    assert!(matches!(error, UninstallError::NotInstalled { .. }));
    assert!(error.details()["error"].as_str().unwrap().contains("uninstall p: it is not installed"));
}

#[tokio::test]
async fn what_was_laid_there_by_hand_is_removed_only_if_nobody_uses_it() {
    let site = Site::new();
    for path in ["flat_pkg", "nested/1.0.0"] {
        let dir = site.packages().root().join(path);
        fs::create_dir_all(&dir).unwrap();
        let name = if path == "flat_pkg" { "flat.pkg" } else { "nested" };
        fs::write(dir.join("manifest.json"), manifest(name, "1.0.0").to_string()).unwrap();
    }
    let cancel = CancellationToken::new();
    for (name, dir) in [("flat.pkg", "flat_pkg"), ("nested", "nested")] {
        let lease = site.find(name, "1.0.0").unwrap().hold().unwrap();
        let error = site.installer.uninstall(&name.parse().unwrap(), None, &cancel).await.unwrap_err();
        assert!(error.to_string().contains("in use"), "{error}");
        assert!(site.find(name, "1.0.0").is_some());
        drop(lease);
        site.installer.uninstall(&name.parse().unwrap(), None, &cancel).await.unwrap();
        assert!(!site.packages().root().join(dir).exists());
    }
    assert_eq!((site.names().len(), site.trees()), (0, 0));
}

#[tokio::test]
async fn hooks_of_what_was_laid_there_by_hand_are_not_run_after_it_is_gone() {
    let site = Site::with(|config| config.hooks = HookRule::Run { limit: Duration::from_secs(20) });
    let dir = site.packages().root().join("nested/1.0.0");
    fs::create_dir_all(&dir).unwrap();
    let mut manifest = manifest("nested", "1.0.0");
    manifest["hooks"] = serde_json::json!({ "uninstall": ["./not-there", format!("touch {}", site.dir.path().join("ran").display())] });
    fs::write(dir.join("manifest.json"), manifest.to_string()).unwrap();
    let report = site.installer.uninstall(&"nested".parse().unwrap(), None, &CancellationToken::new()).await.unwrap();
    assert_eq!((report.removed[0].hooks, &report.removed[0].hook_failure), (HooksDone::Skipped { hooks: 2 }, &None));
    assert!(!site.packages().root().join("nested").exists() && !site.dir.path().join("ran").exists());
}

#[tokio::test]
async fn leftovers_of_a_kill_are_swept_and_what_is_found_or_being_made_is_not() {
    let site = Site::new();
    site.install(&site.archive("p", "1.0.0", "p")).await.unwrap();
    let store = site.packages().root().join(".store");
    // Killed while it unpacked; killed after the link was made but not yet moved; killed before anything.
    fs::create_dir_all(store.join("half/package/adapters")).unwrap();
    fs::write(store.join("half/archive"), "x").unwrap();
    fs::create_dir_all(store.join("linked/package")).unwrap();
    std::os::unix::fs::symlink("../.store/linked/package", store.join("linked/link")).unwrap();
    fs::create_dir(store.join("empty")).unwrap();
    let kept = site.find("p", "1.0.0").unwrap().directory.parent().unwrap().to_owned();
    fs::create_dir(kept.join("link")).unwrap();
    // Being made by another process: it has the lock.
    fs::create_dir_all(store.join("making/package")).unwrap();
    let making = fs::File::open(store.join("making")).unwrap();
    making.lock().unwrap();
    Packages::open(site.packages().root()).unwrap();
    assert_eq!(site.trees(), 2);
    assert!(store.join("making/package").exists() && !kept.join("link").exists());
    assert_eq!(site.names(), ["p 1.0.0"]);
    drop(making);
    Packages::open(site.packages().root()).unwrap();
    assert_eq!(site.trees(), 1);
}
