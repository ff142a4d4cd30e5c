//! Drives that hang under a job: at its beginning, while it runs, and when its changes are brought back (A034).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use longshore_exec::{Config, Executor, Finished, Output, Task};
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::Outcome;
use longshore_testkit::{FreezableDrive, SilentDrive};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{Bench, PATIENCE, Recorder, config, eventually, failure, processes_of, task, within};

const DRIVE_PATIENCE: Duration = Duration::from_millis(300);

/// An executor with a drive of jobs, which may hang.
struct Yard {
    bench: Bench,
    executor: Executor,
    jobs: PathBuf,
}

impl Yard {
    fn on(jobs: &Path) -> Self {
        let bench = Bench::new();
        let config = Config {
            jobs_dir: Some(jobs.to_owned()),
            drive_patience: DRIVE_PATIENCE,
            ..config(&bench.file("state-2"), Duration::from_millis(200))
        };
        Self { executor: Executor::open(config).unwrap(), bench, jobs: jobs.to_owned() }
    }

    fn job(source: &Path, steps: &[&str]) -> Task {
        task("workspace.run", json!({ "source": source.file_name().unwrap().to_str(), "steps": steps }))
    }

    async fn run(&self, task: Task, cancel: CancellationToken) -> Finished {
        let output: Arc<dyn Output> = Arc::new(Recorder::default());
        tokio::time::timeout(PATIENCE, self.executor.run(task, output, cancel)).await.expect("ends")
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        for dir in ["workspaces", "tmp"] {
            assert_eq!(fs::read_dir(self.bench.file("state-2").join(dir)).unwrap().count(), 0, "{dir}");
        }
    }

    /// Whether a process of a job waits for the drive, and none of a step is left.
    fn is_bringing_back(&self) -> bool {
        let state = self.bench.file("state-2");
        processes_of(&state).is_empty() && carriers_of(&state).into_iter().any(waits_for_a_drive)
    }
}

/// The processes that carry jobs of an executor with this directory.
fn carriers_of(state: &Path) -> Vec<i32> {
    let of = format!("@{}", state.canonicalize().unwrap().display()).into_bytes();
    let is_one = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|entry| entry.starts_with(b"LONGSHORE_CARRIER=") && entry.windows(of.len()).any(|part| part == of))
    };
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(is_one).collect()
}

fn waits_for_a_drive(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(Result::ok);
    let is_waiting = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D'));
    threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok()).any(is_waiting)
}

#[tokio::test]
async fn a_drive_that_hangs_at_the_beginning_costs_its_job_no_more_than_its_time_and_other_jobs_nothing() {
    let silent = match SilentDrive::mount() {
        Ok(silent) => silent,
        Err(reason) => return println!("skipped: {reason}"),
    };
    // The job's directory is the drive itself, beside one that is not on it.
    let yard = Yard::on(silent.path().parent().unwrap());
    let other = tempfile::tempdir_in(&yard.jobs).unwrap();
    fs::write(other.path().join("file"), "x").unwrap();
    let hung = yard.run(within(DRIVE_PATIENCE, Yard::job(silent.path(), &["true"])), CancellationToken::new());
    let goes_on = yard.run(Yard::job(other.path(), &["echo y > file"]), CancellationToken::new());
    let (hung, goes_on) = tokio::join!(hung, goes_on);
    let (code, message) = failure(&hung);
    assert_eq!((code, hung.transient), (ErrorCode::HostFault, true), "{message}");
    assert!(message.contains("the drive does not answer") && message.contains(silent.path().to_str().unwrap()), "{message}");
    assert_eq!((goes_on.outcome, fs::read_to_string(other.path().join("results/file")).unwrap().as_str()), (Outcome::Completed, "y\n"));

    let cancel = CancellationToken::new();
    cancel.cancel();
    let cancelled = yard.run(Yard::job(silent.path(), &["true"]), cancel).await;
    assert_eq!((cancelled.outcome, cancelled.cancel_verified), (Outcome::Cancelled, Some(false)), "{cancelled:?}");
    yard.assert_nothing_left();
}

/// A drive that is not frozen yet, with the directory of one job, and an executor; none where it may not be mounted.
#[expect(clippy::print_stdout, reason = "whoever runs the tests sees that one did not happen")]
fn freezable() -> Option<(FreezableDrive, Yard, PathBuf)> {
    let drive = FreezableDrive::mount().map_err(|reason| println!("skipped: {reason}")).ok()?;
    let (yard, site) = (Yard::on(drive.path()), drive.path().join("site"));
    fs::create_dir(&site).unwrap();
    Some((drive, yard, site))
}

/// What a step does to wait until its drive is frozen, and how that comes about.
struct Frost {
    ready: PathBuf,
    go: PathBuf,
}

impl Frost {
    fn of(yard: &Yard) -> Self {
        Self { ready: yard.bench.file("ready"), go: yard.bench.file("go") }
    }

    fn step(&self) -> String {
        format!("touch {}; until test -e {}; do sleep 0.01; done", self.ready.display(), self.go.display())
    }

    async fn come(&self, drive: &FreezableDrive) {
        eventually("the step runs", || self.ready.exists()).await;
        drive.freeze();
        fs::write(&self.go, "").unwrap();
    }
}

#[tokio::test]
async fn a_log_that_its_drive_does_not_take_keeps_nobody_from_stopping_the_step() {
    let Some((drive, yard, site)) = freezable() else { return };
    let (frost, state, cancel) = (Frost::of(&yard), yard.bench.file("state-2"), CancellationToken::new());
    let cancelling = async {
        frost.come(&drive).await;
        eventually("its log waits", || carriers_of(&state).into_iter().any(waits_for_a_drive)).await;
        cancel.cancel();
    };
    let step = format!("{}; echo printed; sleep 1000", frost.step());
    let (finished, ()) = tokio::join!(yard.run(Yard::job(&site, &[&step]), cancel.clone()), cancelling);
    assert_eq!((finished.outcome, finished.cancel_verified), (Outcome::Cancelled, Some(false)), "{finished:?}");
    assert!(processes_of(&state).is_empty(), "the step has ended");
    yard.assert_nothing_left();
}

#[tokio::test]
async fn changes_that_their_drive_does_not_take_are_told_and_another_run_waits_for_what_is_under_way() {
    let Some((drive, yard, site)) = freezable() else { return };
    let (frost, cancel) = (Frost::of(&yard), CancellationToken::new());
    let cancelling = async {
        frost.come(&drive).await;
        eventually("its changes wait", || yard.is_bringing_back()).await;
        cancel.cancel();
    };
    let step = format!("echo x > made; {}", frost.step());
    let (finished, ()) = tokio::join!(yard.run(Yard::job(&site, &[&step]), cancel.clone()), cancelling);
    let (code, message) = failure(&finished);
    assert!(code == ErrorCode::HostFault && message.contains("bring back what changed: the drive does not answer"), "{message}");
    yard.assert_nothing_left();

    drive.thaw();
    loop {
        let finished = yard.run(Yard::job(&site, &["echo y > made"]), CancellationToken::new()).await;
        if finished.outcome == Outcome::Completed {
            break;
        }
        // What the drive has let go of takes a moment to end.
        assert!(failure(&finished).1.contains("somebody else is writing there"), "{finished:?}");
    }
    assert_eq!(fs::read_to_string(site.join("results/made")).unwrap(), "y\n");
}
