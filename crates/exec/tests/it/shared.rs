//! Jobs of a fleet in a directory of a drive that the host has.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;

use longshore_exec::workspace::Source;
use longshore_exec::{Config, Executor, Finished, Output, Task};
use longshore_model::operation::Call;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::Outcome;
use longshore_model::wire::result::{WorkspaceResult, WorkspaceStatus};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{Bench, PATIENCE, Recorder, config, task, write};

/// An executor with a drive.
struct Yard {
    bench: Bench,
    executor: Executor,
}

impl Yard {
    fn new() -> Self {
        let bench = Bench::new();
        let (jobs, state) = (bench.file("jobs"), bench.file("state-2"));
        fs::create_dir(&jobs).unwrap();
        write(&jobs, &[("site/page", "old"), ("site/same", "same"), ("site/gone", "x"), ("file", "x")]);
        symlink("site", jobs.join("link")).unwrap();
        let config = Config {
            jobs_dir: Some(jobs),
            workspaces_dir: Some(bench.file("work")),
            ..config(&state, std::time::Duration::from_millis(200))
        };
        let executor = Executor::open(config).unwrap();
        Self { bench, executor }
    }

    fn place(&self, path: &str) -> PathBuf {
        self.bench.file("jobs").join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.place(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    async fn run(&self, task: Task, cancel: CancellationToken) -> Finished {
        let output: Arc<dyn Output> = Arc::new(Recorder::default());
        tokio::time::timeout(PATIENCE, self.executor.run(task, output, cancel)).await.expect("ends")
    }

    async fn runs(&self, source: &str, steps: &[&str]) -> Finished {
        self.run(task("workspace.run", json!({ "source": source, "steps": steps })), CancellationToken::new()).await
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        let left = fs::read_dir(self.bench.file("work/longshore")).unwrap().count()
            + fs::read_dir(self.bench.file("state-2/tmp")).unwrap().count();
        assert_eq!(left, 0);
    }
}

fn result(finished: &Finished) -> WorkspaceResult {
    serde_json::from_value(finished.result.clone().expect("a result")).unwrap()
}

fn names(files: &[longshore_model::wire::result::FileInfo]) -> Vec<&str> {
    files.iter().map(|file| file.path.as_str()).collect()
}

#[tokio::test]
async fn what_changed_is_in_the_directorys_own_results_and_an_earlier_runs_is_not() {
    let yard = Yard::new();
    let finished = yard.runs("site", &["printf new > page; rm gone; mkdir made; echo x > made/file; echo printed", "pwd"]).await;
    assert_eq!((finished.outcome, finished.failure.as_ref(), finished.changed), (Outcome::Completed, None, Some(true)));
    assert!(finished.archive.is_none(), "it is on the drive");
    let told = result(&finished);
    assert_eq!((names(&told.files.created), names(&told.files.modified)), (vec!["made/file"], vec!["page"]));
    assert_eq!(told.files.deleted, ["gone"]);
    assert_eq!((yard.read("site/results/page"), yard.read("site/results/made/file")), ("new".into(), "x\n".into()));
    assert_eq!(yard.read("site/results/step_0.log"), "printed\n");
    assert!(yard.read("site/results/step_1.log").starts_with(&format!("{}/", yard.bench.file("work/longshore").display())));
    let manifest: WorkspaceResult = serde_json::from_str(&yard.read("site/results/result.json")).unwrap();
    assert_eq!(manifest, told);
    assert_eq!((yard.read("site/page"), yard.read("site/gone")), ("old".into(), "x".into()), "the source stays as it is");

    // The next run's results are its own alone, but for what somebody else put there.
    fs::write(yard.place("site/results/mine"), "mine").unwrap();
    let finished = yard.runs("site", &["test -e page; test ! -e results; exit 3"]).await;
    let told = result(&finished);
    assert_eq!((told.status, told.steps[0].exit_code), (WorkspaceStatus::Failed, Some(3)));
    let mut left: Vec<_> =
        fs::read_dir(yard.place("site/results")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["mine", "result.json", "step_0.log"]);
    yard.assert_nothing_left();
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_refused_by_name_before_any_step() {
    let yard = Yard::new();
    for (source, reason) in [("none", "there is none"), ("link", "symbolic link"), ("file", "no directory")] {
        let finished = yard.runs(source, &["true"]).await;
        let failure = finished.failure.unwrap();
        assert_eq!((failure.code, finished.transient), (ErrorCode::Staging, false), "{source}: {}", failure.message);
        assert!(failure.message.contains(reason) && failure.message.contains(source), "{}", failure.message);
    }
    let source = Source::resolve(&yard.bench.file("jobs"), &"site".parse().unwrap()).unwrap();
    let held = source.results().unwrap();
    let finished = yard.runs("site", &["true"]).await;
    assert!(finished.transient && finished.failure.unwrap().message.contains("somebody else is writing there"));
    drop(held);
    assert_eq!(yard.runs("site", &["true"]).await.outcome, Outcome::Completed);

    // One without a drive.
    let finished = yard.bench.run(task("workspace.run", json!({ "source": "site", "steps": ["true"] }))).await;
    let failure = finished.failure.unwrap();
    assert!(failure.message.contains("agent.workspace.jobs_dir"), "{}", failure.message);
    for source in ["..", ".", "a/b", "", "a\0b"] {
        let refused = Call::parse("workspace.run", json!({ "source": source, "steps": ["true"] })).unwrap_err();
        assert!(refused.to_string().contains("/args/source"), "{refused}");
    }
    let both = json!({ "source": "site", "bundle": "ab".repeat(32), "steps": ["true"] });
    assert!(Call::parse("workspace.run", both).unwrap_err().to_string().contains("not in both"));
    yard.assert_nothing_left();
}

#[tokio::test]
async fn what_there_was_at_a_cancel_is_on_the_drive() {
    let yard = Yard::new();
    let cancel = CancellationToken::new();
    let running =
        yard.run(task("workspace.run", json!({ "source": "site", "steps": ["echo x > made; echo go; sleep 1000"] })), cancel.clone());
    let cancelling = async {
        while fs::read_to_string(yard.place("site/results/step_0.log")).ok().as_deref() != Some("go\n") {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        cancel.cancel();
    };
    let (finished, ()) = tokio::join!(running, cancelling);
    assert_eq!((finished.outcome, finished.cancel_verified), (Outcome::Cancelled, Some(true)));
    assert_eq!((yard.read("site/results/made"), result(&finished).status), ("x\n".into(), WorkspaceStatus::Failed));
    yard.assert_nothing_left();
}
