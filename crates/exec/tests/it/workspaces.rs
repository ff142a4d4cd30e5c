//! Workspace jobs from bundle to archive.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use longshore_exec::bundle::{Limits, unpack};
use longshore_exec::{Finished, Output, Task};
use longshore_model::limits::ANSWER_FILES_MAX;
use longshore_model::wire::log::LogStream;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::Outcome;
use longshore_model::wire::result::{WorkspaceReason, WorkspaceResult, WorkspaceStatus};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::{Bench, PATIENCE, Recorder, eventually, pid_in, processes_of, steps, task, within, write};

/// A bench with a packed project on it.
fn project() -> (Bench, PathBuf) {
    let (bench, source) = (Bench::new(), tempfile::tempdir().unwrap());
    let root = source.path();
    write(
        root,
        &[
            ("same", "same"),
            ("edited", "old"),
            ("touched", "touched"),
            ("chmodded", "x"),
            ("gone", "x"),
            ("dir/deep", "x"),
            ("rewritten", "one"),
        ],
    );
    write(root, &[("gonedir/a", "x"), ("replaced", "x")]);
    symlink("same", root.join("link")).unwrap();
    symlink("same", root.join("relinked")).unwrap();
    let bundle = bench.bundle(root);
    (bench, bundle)
}

fn result(finished: &Finished) -> WorkspaceResult {
    serde_json::from_value(finished.result.clone().expect("a result")).unwrap()
}

fn artifacts(finished: &Finished) -> TempDir {
    let (dir, archive) = (tempfile::tempdir().unwrap(), finished.archive.as_ref().expect("an archive"));
    assert_eq!(fs::metadata(archive.path()).unwrap().len(), archive.info().size);
    unpack(fs::File::open(archive.path()).unwrap(), dir.path(), Limits::default()).unwrap();
    dir
}

fn read(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn paths(files: &[longshore_model::wire::result::FileInfo]) -> Vec<&str> {
    files.iter().map(|file| file.path.as_str()).collect()
}

#[tokio::test]
async fn what_changed_comes_back_and_nothing_else() {
    let (bench, bundle) = project();
    let recorder = Arc::new(Recorder::default());
    let script = "echo hello > hello; mkdir -p out/empty; echo made > out/made; printf new > edited; touch touched; chmod 600 chmodded; rm gone; \
        rm -r gonedir; printf two > rewritten; printf one > .t; mv .t rewritten; rm replaced; mkdir replaced; mkfifo fifo; ln -sfn edited relinked; \
        ln -s /etc/passwd foreign; ln -s $LONGSHORE_WORKSPACE/dir/deep out/own; echo direct > $LONGSHORE_RESULTS/direct; printf result > result.json; \
        chmod 4755 out/made; printf '\\377\\0binary'";
    let finished =
        bench.run_into(steps(Some(bundle), json!([script, {"name": "second", "run": "echo err >&2; test -f hello"}])), &recorder).await;

    assert_eq!((finished.outcome, finished.failure.as_ref(), finished.changed), (Outcome::Completed, None, Some(true)));
    let (result, back) = (result(&finished), artifacts(&finished));
    let back = back.path();
    assert_eq!(paths(&result.files.created), ["direct", "foreign", "hello", "out/made", "out/own"]);
    assert_eq!(paths(&result.files.modified), ["chmodded", "edited", "relinked"]);
    assert_eq!(result.files.deleted, ["gone", "gonedir/a", "replaced"]);
    let skipped: Vec<_> = result.files.skipped.iter().map(|file| (file.path.as_str(), file.reason.as_str())).collect();
    assert_eq!(skipped, [("fifo", "it is a fifo"), ("result.json", "the name belongs to Longshore")]);

    assert_eq!((read(back, "hello"), read(back, "edited"), read(back, "direct")), ("hello\n".into(), "new".into(), "direct\n".into()));
    assert_eq!(back.join("chmodded").metadata().unwrap().mode() & 0o7777, 0o600);
    assert_eq!(back.join("out/made").metadata().unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::read_link(back.join("foreign")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::read_link(back.join("out/own")).unwrap(), Path::new("../dir/deep"));
    assert_eq!(fs::read(back.join("step_0.log")).unwrap(), b"\xff\0binary");
    assert_eq!((read(back, "step_1.log"), recorder.text(LogStream::Stderr)), ("err\n".into(), "err\n".into()));
    let mut names: Vec<_> = fs::read_dir(back).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names.join(" "), "chmodded direct edited foreign hello out relinked result.json step_0.log step_1.log");

    let manifest: WorkspaceResult = serde_json::from_str(&read(back, "result.json")).unwrap();
    assert_eq!(WorkspaceResult { archive: result.archive.clone(), ..manifest }, result);
    assert_eq!((result.status, result.steps.len(), result.steps[1].name.as_deref()), (WorkspaceStatus::Success, 2, Some("second")));
    assert_eq!(result.files.created[2].sha256, "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");

    drop(finished);
    bench.assert_nothing_left();
}

#[tokio::test]
async fn a_change_in_the_first_tick_with_the_same_size_and_time_is_seen() {
    for _ in 0..20 {
        let (bench, bundle) = project();
        let finished =
            bench.run(steps(Some(bundle), json!(["touch -r edited .ref; printf NEW > edited; touch -r .ref edited; rm .ref"]))).await;
        assert_eq!(paths(&result(&finished).files.modified), ["edited"]);
    }
}

#[tokio::test]
async fn a_failed_step_ends_the_job_and_what_there_is_comes_back() {
    let (bench, bundle) = project();
    let finished = bench.run(steps(Some(bundle), json!(["echo a > a; exit 7", "echo b > b"]))).await;

    let failure = finished.failure.clone().unwrap();
    assert_eq!((finished.outcome, failure.code, finished.transient), (Outcome::Failed, ErrorCode::ExitStatus, false));
    assert_eq!(failure.message, "step 0 (\"echo a > a; exit 7\") exited with status 7");
    let result = result(&finished);
    assert_eq!((result.status, result.steps.len(), result.steps[0].exit_code), (WorkspaceStatus::Failed, 1, Some(7)));
    assert_eq!((paths(&result.files.created), result.reason), (vec!["a"], None));
    assert_eq!(read(artifacts(&finished).path(), "a"), "a\n");
}

#[tokio::test]
async fn a_step_may_be_allowed_to_fail() {
    let bench = Bench::new();
    let allowed = json!([{"run": "exit 1", "continue_on_error": true}, {"run": "sleep 1000", "timeout": "50ms", "continue_on_error": true}, "echo on"]);
    let finished = bench.run(steps(None, allowed)).await;
    assert_eq!(finished.outcome, Outcome::Completed);
    assert_eq!(
        result(&finished).steps.iter().map(|step| step.status == WorkspaceStatus::Success).collect::<Vec<_>>(),
        [false, false, true]
    );

    let finished = bench.run(steps(None, json!([{"run": "sleep 1000", "timeout": "50ms"}]))).await;
    assert_eq!(finished.failure.unwrap().message, "step 0 (\"sleep 1000\") ran longer than 50ms");

    let finished = bench.run(task("workspace.run", json!({"steps": ["x"], "shell": ["no-such-shell"]}))).await;
    assert_eq!(finished.failure.as_ref().unwrap().code, ErrorCode::CommandNotFound);
    assert!(read(artifacts(&finished).path(), "step_0.log").contains("no-such-shell"));
}

#[tokio::test]
async fn steps_see_what_they_are_promised() {
    let bench = Bench::new();
    let script = "pwd; echo $HOME $LONGSHORE_WORKSPACE; echo $CI $LONGSHORE_STEP $LONGSHORE_JOB_ID $LONGSHORE_ATTEMPT $A $B; cat; ls -A; test -d $LONGSHORE_RESULTS";
    let args = json!({"steps": ["true", {"run": script, "env": {"B": "step"}}], "env": {"A": "job", "B": "job"}});
    let task = Task { attempt: 3, ..task("workspace.run", args) };
    let id = task.job.id;
    let finished = bench.run(task).await;
    let log = read(artifacts(&finished).path(), "step_1.log");
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines.len(), 3, "{log}");
    assert_eq!(lines[1], format!("{0} {0}", lines[0]));
    assert_eq!(lines[2], format!("true 1 {id} 3 job step"));
}

#[tokio::test]
async fn artifacts_may_be_chosen() {
    let (bench, bundle) = project();
    let script = "mkdir -p dist/a; echo 1 > dist/a/x; echo 2 > y.o; echo 3 > dist/z.o; echo 4 > other; echo 5 > edited";
    let args = json!({"bundle": "0".repeat(64), "steps": [script], "artifacts": ["dist/a/", "*.o", "./edited"]});
    let finished = bench.run(Task { bundle: Some(bundle), ..task("workspace.run", args) }).await;
    let files = result(&finished).files;
    assert_eq!((paths(&files.created), paths(&files.modified)), (vec!["dist/a/x", "y.o"], vec!["edited"]));

    let wrong = task("workspace.run", json!({"steps": ["true"], "artifacts": ["a{"]}));
    assert_eq!(bench.run(wrong).await.failure.unwrap().code, ErrorCode::Validation);
}

#[tokio::test]
async fn a_step_that_waits_until_each_line_was_read_in_its_log_goes_on() {
    const LINES: usize = 20;
    let bench = Bench::new();
    let output = Arc::new(Recorder::default());
    let read = bench.file("read").display().to_string();
    let script = format!("for n in $(seq {LINES}); do echo line $n; until test -e {read}.$n; do sleep 0.005; done; done");
    let running = bench.run_into(steps(None, json!([script])), &output);
    let workspaces = bench.state().join("workspaces");
    let (finished, ()) = tokio::join!(running, async {
        for n in 1..=LINES {
            let lines: String = (1..=n).map(|n| format!("line {n}\n")).collect();
            let is_logged = || {
                let workspace = fs::read_dir(&workspaces).ok()?.next()?.ok()?.path();
                fs::read_to_string(workspace.join("job/results/step_0.log")).ok().filter(|log| *log == lines)
            };
            eventually("the line is there", || is_logged().is_some() && output.text(LogStream::Stdout) == lines).await;
            fs::write(format!("{read}.{n}"), "").unwrap();
        }
    });
    assert_eq!((finished.outcome, finished.failure), (Outcome::Completed, None));
}

#[tokio::test]
async fn a_step_makes_its_log_no_longer_than_its_output() {
    let bench = Bench::new();
    let script = "echo one; truncate -s 2G $LONGSHORE_RESULTS/step_0.log";
    let finished = bench.run(steps(None, json!([script]))).await;
    assert_eq!(finished.outcome, Outcome::Completed, "{:?}", finished.failure);
    assert_eq!(read(artifacts(&finished).path(), "step_0.log"), "one\n");
}

#[tokio::test]
async fn time_outs_and_cancels_bring_back_what_there_is_and_leave_nothing() {
    let bench = Bench::new();
    let finished = bench.run(within(Duration::from_millis(400), steps(None, json!(["echo a > a; setsid sleep 1000 & sleep 1000"])))).await;
    assert_eq!((finished.outcome, finished.failure.as_ref().unwrap().code), (Outcome::Failed, ErrorCode::TimedOut));
    assert_eq!((result(&finished).reason, paths(&result(&finished).files.created)), (Some(WorkspaceReason::TimedOut), vec!["a"]));
    drop(finished);
    bench.assert_nothing_left();

    let (cancel, pid) = (CancellationToken::new(), bench.file("pid"));
    let output: Arc<dyn Output> = Arc::new(Recorder::default());
    let script = format!("echo a > a; echo $$ > {}; sleep 1000", pid.display());
    let (finished, _) = tokio::join!(bench.executor.run(steps(None, json!([script, "true"])), output, cancel.clone()), async {
        pid_in(&pid).await;
        cancel.cancel();
    });
    assert_eq!((finished.outcome, finished.cancel_verified), (Outcome::Cancelled, Some(true)));
    assert_eq!((result(&finished).reason, paths(&result(&finished).files.created)), (Some(WorkspaceReason::Cancelled), vec!["a"]));
    drop(finished);
    bench.assert_nothing_left();
}

#[tokio::test]
async fn a_dropped_future_leaves_nothing() {
    let bench = Bench::with_grace(PATIENCE);
    let (executor, pid) = (bench.executor.clone(), bench.file("pid"));
    let task = steps(None, json!([format!("echo $$ > {}; sleep 1000", pid.display())]));
    let mut running = JoinSet::new();
    running.spawn(async move { executor.run(task, Arc::new(Recorder::default()), CancellationToken::new()).await });
    pid_in(&pid).await;
    assert!(!processes_of(bench.dir.path()).is_empty());
    drop(running);
    tokio::time::timeout(PATIENCE, bench.executor.close()).await.unwrap();
    assert_eq!(processes_of(bench.dir.path()), Vec::<i32>::new());
    bench.assert_nothing_left();
}

#[tokio::test]
async fn what_cannot_be_staged_is_named_and_leaves_nothing() {
    let bench = Bench::new();
    let (missing, rubbish, hostile) = (bench.file("missing"), bench.file("rubbish"), bench.file("hostile"));
    fs::write(&rubbish, "rubbish").unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..7].copy_from_slice(b"../evil");
    header.set_size(0);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_cksum();
    tar.append(&header, std::io::empty()).unwrap();
    fs::write(&hostile, zstd::encode_all(tar.into_inner().unwrap().as_slice(), 1).unwrap()).unwrap();
    for (bundle, part) in [(missing, "missing"), (rubbish, "read the bundle"), (hostile, "\"../evil\"")] {
        let finished = bench.run(steps(Some(bundle), json!(["true"]))).await;
        let failure = finished.failure.unwrap();
        assert_eq!((failure.code, finished.transient, finished.result), (ErrorCode::Staging, false, None));
        assert!(failure.message.contains(part), "{}", failure.message);
        bench.assert_nothing_left();
    }
    let forgotten = Task { bundle: None, ..steps(Some("x".into()), json!(["true"])) };
    assert_eq!(bench.run(forgotten).await.failure.unwrap().code, ErrorCode::Staging);
}

#[tokio::test]
async fn trees_that_resist_are_removed() {
    let bench = Bench::new();
    let script = "mkdir -p a/b; echo x > a/b/c; chmod 000 a/b a; \
        d=; for i in $(seq 300); do mkdir deep; cd deep; done; echo bottom > file; cd $LONGSHORE_WORKSPACE; \
        printf x > secret; chmod 000 secret; ln -s / root; rm $LONGSHORE_RESULTS/step_0.log; chmod 500 . $LONGSHORE_RESULTS";
    let finished =
        bench.run(steps(None, json!([script, "chmod 700 . $LONGSHORE_RESULTS; echo replaced > $LONGSHORE_RESULTS/step_2.log; ln -s loop loop; chmod 000 $LONGSHORE_RESULTS", "echo fine"]))).await;
    assert_eq!(finished.outcome, Outcome::Completed, "{:?}", finished.failure);
    let files = result(&finished).files;
    assert_eq!(paths(&files.created), ["a/b/c", "loop", "root", "secret"]);
    assert!(files.skipped[0].reason.contains("levels deep"), "{:?}", files.skipped);
    assert_eq!(fs::read_link(artifacts(&finished).path().join("root")).unwrap(), Path::new("/"));
    assert_eq!(read(artifacts(&finished).path(), "step_2.log"), "fine\n");
    drop(finished);
    bench.assert_nothing_left();
}

#[tokio::test]
async fn a_workspace_that_is_moved_away_leads_nowhere() {
    let bench = Bench::new();
    let outside = bench.file("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("foreign"), "foreign").unwrap();
    let script =
        format!("echo mine > mine; mv $LONGSHORE_WORKSPACE $LONGSHORE_WORKSPACE.away; ln -s {} $LONGSHORE_WORKSPACE", outside.display());
    let finished = bench.run(steps(None, json!([script]))).await;
    assert_eq!(paths(&result(&finished).files.created), ["mine"]);
    drop(finished);
    bench.assert_nothing_left();
    assert_eq!(read(&outside, "foreign"), "foreign");
}

#[tokio::test]
async fn jobs_at_once_have_directories_of_their_own() {
    let bench = Bench::new();
    let job = |own: &str, other: &str| {
        let [own, other] = [own, other].map(|name| bench.file(name));
        let meet = format!("touch {}; while ! test -e {}; do sleep 0.01; done", own.display(), other.display());
        steps(None, json!([format!("pwd > where; {meet}"), "ls"]))
    };
    let (one, two) = tokio::join!(bench.run(job("1", "2")), bench.run(job("2", "1")));
    let [one, two] = [&one, &two].map(artifacts);
    assert_ne!(read(one.path(), "where"), read(two.path(), "where"));
    assert_eq!((read(one.path(), "step_1.log"), read(two.path(), "step_1.log")), ("where\n".into(), "where\n".into()));
}

#[tokio::test]
async fn answers_stay_small() {
    let bench = Bench::new();
    let script = format!("for i in $(seq 3000); do : > f$i; done # {}", "\u{1}".repeat(100_000));
    let finished = bench.run(steps(None, json!([script]))).await;
    let files = result(&finished).files;
    assert_eq!((files.created.len(), files.unlisted), (ANSWER_FILES_MAX, 3000 - ANSWER_FILES_MAX));
    assert!(serde_json::to_vec(finished.result.as_ref().unwrap()).unwrap().len() < longshore_model::limits::RECORD_BYTES_MAX);
    let manifest: WorkspaceResult = serde_json::from_str(&read(artifacts(&finished).path(), "result.json")).unwrap();
    assert_eq!((manifest.files.created.len(), manifest.files.unlisted), (3000, 0));
}

#[tokio::test]
async fn output_beyond_its_bound_is_cut_and_the_step_goes_on() {
    let bench = Bench::new();
    let args = json!({"steps": ["head -c 1000000 /dev/zero | tr '\\0' x; echo done > done"], "limits": {"output": "1000"}});
    let finished = bench.run(task("workspace.run", args)).await;
    let (result, back) = (result(&finished), artifacts(&finished));
    assert!(result.steps[0].truncated && result.status == WorkspaceStatus::Success);
    let log = read(back.path(), "step_0.log");
    assert!(log.starts_with(&"x".repeat(1000)) && log.len() < 1200 && log.contains("more than 1000B of output"), "{}", &log[1000..]);
    assert_eq!(read(back.path(), "done"), "done\n");
}

#[tokio::test]
async fn workspaces_are_the_owners_alone() {
    let bench = Bench::new();
    for dir in ["", "workspaces", "tmp"] {
        assert_eq!(bench.state().join(dir).metadata().unwrap().permissions().mode() & 0o7777, 0o700);
    }
}

#[tokio::test]
async fn a_workspace_has_a_name_that_none_had_before_also_for_the_same_attempt() {
    let bench = Bench::new();
    let task = steps(None, json!(["pwd"]));
    let mut places = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let output = Arc::new(Recorder::default());
        assert_eq!(bench.run_into(task.clone(), &output).await.outcome, Outcome::Completed);
        places.insert(output.text(LogStream::Stdout));
    }
    assert_eq!(places.len(), 4, "{places:?}");
}

#[tokio::test]
async fn artifacts_beyond_the_bound_stay_out_and_are_listed() {
    let bench = Bench::new();
    // Nothing but holes, so that only its size is too large.
    let finished = bench.run(steps(None, json!(["truncate -s 17G large; echo x > small"]))).await;
    let files = result(&finished).files;
    assert_eq!(paths(&files.created), ["small"]);
    assert_eq!((files.skipped[0].path.as_str(), files.skipped[0].reason.as_str()), ("large", "the artifacts would be too large with it"));
}

#[tokio::test]
async fn a_file_of_the_hosts_that_a_step_links_to_comes_back_as_a_copy_and_stays_as_it_is() {
    let bench = Bench::new();
    let outside = bench.file("outside");
    fs::write(&outside, "outside").unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o640)).unwrap();
    let finished = bench.run(steps(None, json!([format!("ln {} linked", outside.display())]))).await;
    let back = artifacts(&finished);
    assert_eq!((read(back.path(), "linked").as_str(), back.path().join("linked").metadata().unwrap().nlink()), ("outside", 1));
    drop(finished);
    bench.assert_nothing_left();
    let metadata = outside.metadata().unwrap();
    assert_eq!((metadata.nlink(), metadata.mode() & 0o7777, read(bench.dir.path(), "outside").as_str()), (1, 0o640, "outside"));
}
