//! A stand-alone worker whose drive hangs (A034).

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_agent::workspace_worker::{Config, DryRun, dry_run};
use longshore_exec::SupervisorCommand;
use longshore_exec::workspace::Runner;
use longshore_testkit::SilentDrive;
use serde_json::json;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_job_on_a_drive_that_hangs_is_given_up_in_its_time_and_when_the_worker_is_told_to_stop() {
    let silent = match SilentDrive::mount() {
        Ok(silent) => silent,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let place = tempfile::tempdir().unwrap();
    let supervisor = SupervisorCommand { program: "/nonexistent".into(), args: Vec::new() };
    let mut runner = Runner::new(supervisor, Duration::from_secs(1), BTreeMap::new());
    runner.drive_patience = Duration::from_millis(200);
    let config = |timeout| Config {
        worker: "worker-01".to_owned(),
        jobs_dir: silent.path().parent().unwrap().to_owned(),
        workspaces_dir: place.path().to_owned(),
        output_subject: "jobs.results".to_owned(),
        timeout,
        max_jobs: 1,
        stay: false,
        idle_max: Duration::ZERO,
        runner: runner.clone(),
    };
    let payload = json!({ "id": silent.path().file_name().unwrap().to_str(), "steps": ["true"] }).to_string();
    for (timeout, is_stopped) in [(Duration::from_millis(200), false), (Duration::from_secs(3600), true)] {
        let stop = CancellationToken::new();
        if is_stopped {
            stop.cancel();
        }
        let ended = tokio::time::timeout(crate::PATIENCE, dry_run(&config(timeout), payload.as_bytes(), stop)).await.expect("ends");
        assert!(matches!(&ended, DryRun::Failed(reason) if reason.contains("the drive does not answer")), "{ended:?}");
    }
}
