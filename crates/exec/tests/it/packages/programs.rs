//! Environments and hooks: what an install runs, and what it does not.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use longshore_exec::package::{HookRule, HooksDone};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Site, manifest};

/// A wheel of one module, made by hand: what `pip` needs of it and no more.
fn wheel(dir: &Path, name: &str, version: &str) {
    let script = format!(
        "import zipfile, sys\n\
         z = zipfile.ZipFile(sys.argv[1] + '/{name}-{version}-py3-none-any.whl', 'w')\n\
         z.writestr('{name}.py', 'version = \"{version}\"\\n')\n\
         z.writestr('{name}-{version}.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n')\n\
         z.writestr('{name}-{version}.dist-info/WHEEL', 'Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n\
         z.writestr('{name}-{version}.dist-info/RECORD', '')\n\
         z.close()"
    );
    let status = Command::new("python3").args(["-c", &script]).arg(dir).status().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn dependencies_come_from_a_directory_of_wheels_into_an_environment_of_the_version() {
    let wheels = tempfile::tempdir().unwrap();
    wheel(wheels.path(), "tinydep", "1.0");
    wheel(wheels.path(), "tinydep", "2.0");
    let site = Site::with(|config| config.python.wheels = Some(wheels.path().to_owned()));
    let with = |version: &str, requires: &str, dependency: &str| {
        let mut manifest = manifest("p", version);
        manifest["python"] = json!({ "requires": requires, "dependencies": [dependency] });
        site.archive_of(manifest, "x")
    };
    let versions = [("1.0.0", "tinydep<2", "1.0"), ("2.0.0", "tinydep>=2", "2.0")];
    for (version, dependency, expected) in versions {
        let report = site.install(&with(version, ">=3.8", dependency)).await.unwrap();
        let python = report.installed.python.clone().unwrap();
        assert_eq!(site.find("p", version).unwrap().python.as_deref(), Some(python.as_path()));
        let output = Command::new(&python).args(["-I", "-c", "import tinydep; print(tinydep.version)"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected, "{}", String::from_utf8_lossy(&output.stderr));
    }
    let trees = site.trees();
    let error = site.install(&with("3.0.0", ">=3.8", "not-there==1.0")).await.unwrap_err();
    assert_eq!(error.step(), "environment");
    assert!(error.details()["error"].as_str().unwrap().contains("not-there"), "{}", error.details());
    let error = site.install(&with("3.0.0", ">=99", "tinydep")).await.unwrap_err();
    assert!(error.details()["error"].as_str().unwrap().contains("is not >=99"), "{}", error.details());
    let error = site.install(&with("3.0.0", ">=3.8", "x @ file:///etc")).await.unwrap_err();
    assert!(error.to_string().contains("name with versions"), "{error}");
    assert_eq!((site.trees(), site.names().len()), (trees, 2), "what failed left nothing");
}

#[tokio::test]
async fn dependencies_without_a_place_to_take_them_from_are_refused() {
    let site = Site::new();
    let mut manifest = manifest("p", "1.0.0");
    manifest["python"] = json!({ "requires": ">=3", "dependencies": ["requests"] });
    let error = site.install(&site.archive_of(manifest, "x")).await.unwrap_err();
    assert!(error.to_string().contains("neither a directory of wheels nor an index"), "{error}");
}

#[tokio::test]
async fn hooks_run_only_where_they_are_allowed_and_a_failing_one_ends_the_install() {
    let cancel = CancellationToken::new();
    let hooked = |site: &Site, version: &str, install: &str| {
        let mut manifest = manifest("p", version);
        let noted = site.dir.path().join("noted");
        manifest["hooks"] = json!({ "install": [install], "uninstall": [format!("cp adapters/echo.py {}", noted.display())] });
        site.archive_of(manifest, "code")
    };
    let site = Site::new();
    let report = site.install(&hooked(&site, "1.0.0", "touch ran")).await.unwrap();
    assert_eq!(report.hooks, HooksDone::Skipped { hooks: 1 });
    assert!(!report.installed.directory.join("ran").exists());
    let removed = site.installer.uninstall(&"p".parse().unwrap(), None, &cancel).await.unwrap();
    assert_eq!(removed.removed[0].hooks, HooksDone::Skipped { hooks: 1 });

    let site = Site::with(|config| config.hooks = HookRule::Run { limit: Duration::from_secs(20) });
    let report = site.install(&hooked(&site, "1.0.0", "touch ran")).await.unwrap();
    assert_eq!(report.hooks, HooksDone::Ran { hooks: 1 });
    assert!(report.installed.directory.join("ran").exists());
    // No shell: a word is a word.
    let report = site.install(&hooked(&site, "1.1.0", "touch a;b $(x)")).await.unwrap();
    assert!(report.installed.directory.join("a;b").exists() && report.installed.directory.join("$(x)").exists());
    let trees = site.trees();
    let error = site.install(&hooked(&site, "1.0.0", "false")).await.unwrap_err();
    assert_eq!((error.step(), site.trees()), ("hook", trees));
    assert!(site.find("p", "1.0.0").unwrap().directory.join("ran").exists(), "the old one is there still");

    let noted = site.dir.path().join("noted");
    let removed = site.installer.uninstall(&"p".parse().unwrap(), Some(&"1.0.0".parse().unwrap()), &cancel).await.unwrap();
    assert_eq!((removed.removed[0].hooks, removed.removed[0].in_use), (HooksDone::Ran { hooks: 1 }, false));
    assert_eq!(fs::read_to_string(noted).unwrap(), "code", "its files are there while its hook runs");
    assert_eq!(site.trees(), trees - 1);
}

#[tokio::test]
async fn a_hook_that_hangs_is_ended_with_all_that_it_started() {
    let site = Site::with(|config| config.hooks = HookRule::Run { limit: Duration::from_millis(500) });
    let mut manifest = manifest("p", "1.0.0");
    manifest["hooks"] = json!({ "install": ["sleep 1000"] });
    let began = Instant::now();
    let error = site.install(&site.archive_of(manifest, "x")).await.unwrap_err();
    assert!(error.details()["error"].as_str().unwrap().contains("longer than"), "{}", error.details());
    assert!(began.elapsed() < Duration::from_secs(30));
    assert_eq!((site.trees(), site.names().len()), (0, 0));
}
