//! Workspace jobs in a directory of a drive that the agent's host has.

use std::fs;

use longshore_testkit::eventually;
use serde_json::json;

use crate::fleet::{Fleet, PATIENCE};
use crate::run::{User, text};

#[tokio::test]
async fn a_job_runs_in_a_copy_of_a_directory_of_the_agents_drive_and_its_results_stay_there() {
    let mut fleet = Fleet::start(0).await;
    let (jobs, work) = (fleet.dir.path().join("jobs"), fleet.dir.path().join("work"));
    fs::create_dir_all(jobs.join("site")).unwrap();
    fs::write(jobs.join("site/page"), "old").unwrap();
    let settings = fleet.dir.path().join("agent.yaml");
    fs::write(&settings, json!({ "agent": { "workspace": { "jobs_dir": jobs, "workspaces_dir": work } } }).to_string()).unwrap();
    fleet.add_agent(&["-f", settings.to_str().unwrap()]).await;
    let user = User::of(&fleet);

    let ran = user.types(&["run", "--target", "host-0", "--source", "site", "--", "pwd; printf new > page", "exit 3"]).await;
    let said = text(&ran.stderr);
    assert_eq!(ran.status.code(), Some(3), "{said}");
    assert!(text(&ran.stdout).starts_with(work.to_str().unwrap()), "{}", text(&ran.stdout));
    assert!(said.contains("site/results of the agent's jobs directory"), "{said}");
    let results = jobs.join("site/results");
    assert_eq!(fs::read_to_string(results.join("page")).unwrap(), "new");
    assert_eq!(fs::read_to_string(jobs.join("site/page")).unwrap(), "old");
    assert_eq!(fs::read(results.join("step_0.log")).unwrap(), ran.stdout);
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(results.join("result.json")).unwrap()).unwrap();
    assert_eq!((&manifest["status"], &manifest["steps"][1]["exitCode"]), (&"failed".into(), &3.into()));

    let refused = user.types(&["run", "--source", "other", "--", "true"]).await;
    assert!(refused.status.code() == Some(125) && text(&refused.stderr).contains("there is none"), "{}", text(&refused.stderr));
    let refused = user.types(&["run", "--source", "../site", "--", "true"]).await;
    assert!(refused.status.code() == Some(125) && text(&refused.stderr).contains("without `/`"), "{}", text(&refused.stderr));

    // It outlives its agent as every workspace job does.
    let step = format!("echo begun; until test -e {}; do sleep 0.01; done; echo done > page", fleet.dir.path().join("go").display());
    let started = user.types(&["run", "--detach", "--source", "site", "--", &step]).await;
    let id = text(&started.stdout).trim().to_owned();
    eventually("its line", PATIENCE, async || (fs::read(results.join("step_0.log")).ok()? == b"begun\n").then_some(())).await;
    fleet.agents[0].process().kill9();
    fs::write(fleet.dir.path().join("go"), "").unwrap();
    fleet.agents[0].restart().await;
    let user = User::of(&fleet);
    let waited = user.types(&["job", "wait", &id]).await;
    assert_eq!(waited.status.code(), Some(0), "{}", text(&waited.stderr));
    assert_eq!(fs::read_to_string(results.join("page")).unwrap(), "done\n");
    let left = fs::read_dir(work.join("longshore")).unwrap().count();
    assert_eq!(left, 0);
}
