//! Nodes of packages as they are installed now, whoever installed them.

use std::fs;

use longshore_exec::package::host::{Door, ErrorKind, Hosts};
use longshore_exec::package::{Runner, words_of};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Site, installer, request};
use crate::hosts::{call, settings};

fn handlers(which: &str) -> String {
    format!("def echo(context):\n    return {{'which': '{which}'}}\n")
}

fn runner(site: &Site) -> Runner {
    Runner::new(site.packages().clone(), Hosts::new(settings(site.dir.path())).unwrap())
}

async fn which(runner: &Runner, version: &str) -> Result<Value, String> {
    let done = runner.run("p", version, call("t", json!({})), Door::default(), CancellationToken::new()).await;
    done.map(|outcome| outcome.result["which"].clone()).map_err(|error| {
        assert_eq!(error.kind, ErrorKind::NotLoaded, "{error:?}");
        words_of(&error)
    })
}

#[tokio::test]
async fn what_another_process_installs_replaces_or_removes_is_seen_by_the_next_task() {
    let site = Site::new();
    let runner = runner(&site);
    let others = installer(site.packages().root(), |_| {});
    let install = async |archive: std::path::PathBuf| others.install(request(&archive), &CancellationToken::new()).await.unwrap().installed;
    assert!(runner.offered().await.is_empty());
    assert!(which(&runner, "1.0.0").await.unwrap_err().contains("p 1.0.0 is not installed"));

    let first = install(site.archive("p", "1.0.0", &handlers("first"))).await;
    assert_eq!(runner.offered().await[0].nodes, ["t"]);
    assert_eq!(which(&runner, "1.0.0").await.unwrap(), "first");
    // Its host is warm and keeps the tree; the next task is the new one's all the same.
    let second = install(site.archive("p", "1.0.0", &handlers("second"))).await;
    assert_eq!(which(&runner, "1.0.0").await.unwrap(), "second");
    install(site.archive("p", "1.1.0", &handlers("newer"))).await;
    assert_eq!(which(&runner, "1.1.0").await.unwrap(), "newer");
    assert_eq!(runner.offered().await.iter().map(|one| one.version.as_str()).collect::<Vec<_>>(), ["1.0.0", "1.1.0"]);

    others.uninstall(&"p".parse().unwrap(), Some(&"1.0.0".parse().unwrap()), &CancellationToken::new()).await.unwrap();
    assert!(which(&runner, "1.0.0").await.unwrap_err().contains("not installed"));
    assert_eq!((runner.offered().await.len(), which(&runner, "1.1.0").await.unwrap()), (1, json!("newer")));
    runner.close().await;
    // What was in use goes with the next install, without anybody opening the directory again.
    install(site.archive("q", "1.0.0", &handlers("q"))).await;
    assert!(!first.directory.exists() && !second.directory.exists());
    assert_eq!(site.trees(), 2);
}

#[tokio::test]
async fn a_package_that_is_laid_there_by_hand_is_seen_when_it_comes_changes_and_goes() {
    let site = Site::new();
    let runner = runner(&site);
    let dir = site.packages().root().join("by_hand");
    fs::create_dir_all(dir.join("adapters")).unwrap();
    fs::write(dir.join("adapters/echo.py"), handlers("by hand")).unwrap();
    fs::write(dir.join("manifest.json"), super::manifest("p", "1.0.0").to_string()).unwrap();
    assert_eq!((runner.offered().await.len(), which(&runner, "1.0.0").await.unwrap()), (1, json!("by hand")));
    fs::write(dir.join("manifest.json"), super::manifest("p", "1.0.1").to_string()).unwrap();
    assert!(which(&runner, "1.0.0").await.is_err());
    assert_eq!((runner.offered().await[0].version.as_str(), which(&runner, "1.0.1").await.unwrap()), ("1.0.1", json!("by hand")));
    fs::rename(&dir, site.dir.path().join("away")).unwrap();
    assert!(runner.offered().await.is_empty() && which(&runner, "1.0.1").await.is_err());
}

#[tokio::test]
async fn packages_that_come_and_go_while_they_run_break_no_task() {
    let site = Site::new();
    let runner = runner(&site);
    let archives = ["one", "two"].map(|which| site.archive("p", "1.0.0", &handlers(which)));
    site.install(&archives[0]).await.unwrap();
    let replace = async {
        for round in 1..12 {
            site.install(&archives[round % 2]).await.unwrap();
        }
    };
    let run = async {
        for _ in 0..12 {
            assert!(["one", "two"].contains(&which(&runner, "1.0.0").await.unwrap().as_str().unwrap()));
        }
    };
    tokio::join!(replace, run);
}
