//! Every way in which a job of a worker without a fleet can end, with every trick by which something of it could stay: nothing does. And
//! the helper processes of a worker: what becomes of jobs when one of them is killed or stopped.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use longshore_testkit::{Disk, Process, Signal, eventually};
use rustix::process::{Pid, kill_process};
use serde_json::{Value, json};

use self::tricks::ESCAPES;
use super::{PATIENCE, Place, is_alive};

#[path = "../../../../exec/tests/it/tricks.rs"]
mod tricks;

/// A job that plays all tricks at once, waits for all of them to be up, and then does `last`; the second time it ends at once.
struct Tricky {
    id: &'static str,
    /// The argument of whatever it leaves.
    mark: String,
    script: String,
}

impl Tricky {
    fn new(place: &Place, id: &'static str, last: &str) -> Self {
        let mark = format!("{}.{}", 200_000 + std::process::id() % 100_000, id.bytes().map(usize::from).sum::<usize>());
        let up = |n: usize| place.file(&format!("up-{id}-{n}")).display().to_string();
        let again = place.file(&format!("again-{id}")).display().to_string();
        let mut script = format!("test ! -e {again} || exit 0; touch {again}\n");
        for (n, (_, trick)) in ESCAPES.iter().enumerate() {
            let trick = trick.replace("$MARK", &mark).replace("$UP", &up(n));
            script.push_str(&format!("mkdir t{n}; (cd t{n}; {trick})\n"));
        }
        script.push_str(&format!("mktemp > {}\n{last}\n", place.file(&format!("temporary-{id}")).display()));
        place.job(id, &[]);
        Self { id, mark, script }
    }

    async fn send(&self, place: &Place, more: &Value) {
        let mut request = json!({ "id": self.id, "steps": [self.script] });
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        place.send(&request).await;
    }

    async fn is_up(&self, place: &Place) {
        eventually("all tricks are played", PATIENCE, async || {
            fs::read_to_string(place.file(&format!("temporary-{}", self.id))).is_ok_and(|path| path.ends_with('\n')).then_some(())
        })
        .await;
        assert!((0..ESCAPES.len()).all(|n| place.file(&format!("up-{}-{n}", self.id)).exists()), "every trick was played");
        assert!(is_alive(&self.mark), "{}", self.id);
    }

    /// Waits until nothing is there any more that was not before it.
    async fn leaves_nothing(&self, place: &Place, workspaces: &Path) {
        let mut left = Vec::new();
        for _ in 0..1000 {
            left = self.left(place, workspaces);
            if left.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{}: {left:?}", self.id);
    }

    fn left(&self, place: &Place, workspaces: &Path) -> Vec<String> {
        let workspace = workspaces.join(self.id);
        let mut left: Vec<String> = names(workspaces);
        left.extend(helpers_of(&workspace).into_iter().map(|pid| format!("helper {pid}")));
        left.extend(is_alive(&self.mark).then(|| format!("a process with {}", self.mark)));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(mounts.lines().filter(|line| line.contains(&*workspace.to_string_lossy())).map(str::to_owned));
        let temporary = fs::read_to_string(place.file(&format!("temporary-{}", self.id))).unwrap_or_default();
        let temporary = std::iter::once(temporary).chain(
            (0..ESCAPES.len())
                .flat_map(|n| [1, 2].map(|k| fs::read_to_string(place.file(&format!("up-{}-{n}.{k}", self.id))).unwrap_or_default())),
        );
        left.extend(temporary.map(|path| path.trim().to_owned()).filter(|path| Path::new(path).exists()));
        // Where the worker was started, and beside the jobs.
        let expected = |name: &String| {
            ["jobs", "workspaces"].contains(&name.as_str()) || ["up-", "again-", "temporary-"].iter().any(|begin| name.starts_with(begin))
        };
        left.extend(names(place.home.path()).into_iter().filter(|name| !expected(name) && !name.starts_with('.')));
        left
    }
}

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The supervisors of the job that runs in this workspace.
fn helpers_of(workspace: &Path) -> Vec<i32> {
    let mark = [b"@", workspace.as_os_str().as_bytes()].concat();
    let carries = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(b"LONGSHORE_SUPERVISOR=") && entry.ends_with(&mark))
    };
    pids().filter(carries).collect()
}

/// What a worker's supervisors are forked from.
fn nursery_of(worker: &Process) -> Option<i32> {
    let is_child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        parent == Some(worker.pid()) && !stat.contains(") Z ")
    };
    pids().find(is_child)
}

fn kill(pid: i32, signal: Signal) {
    let _gone_already = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

#[tokio::test]
async fn every_ending_of_a_workers_job_with_every_trick_leaves_nothing() {
    let place = Place::new().await;
    fs::create_dir(place.workspaces()).unwrap();
    let workspaces = place.workspaces().canonicalize().unwrap();
    place.prepare("").await;
    let mut worker = place.worker("--stay --max-jobs 4");

    for (id, last, more, expected) in [
        ("success", "true", json!({}), "success"),
        ("failure", "exit 3", json!({}), "failed"),
        ("time-out", "sleep 1000", json!({ "timeout": "2s" }), "failed"),
    ] {
        let job = Tricky::new(&place, id, last);
        job.send(&place, &more).await;
        job.is_up_or_done(&place).await;
        assert_eq!(place.response(id, 1).await["status"], expected, "{id}");
        job.leaves_nothing(&place, &workspaces).await;
    }

    let helper_killed = Tricky::new(&place, "helper", "sleep 1000");
    helper_killed.send(&place, &json!({})).await;
    helper_killed.is_up(&place).await;
    helpers_of(&workspaces.join("helper")).into_iter().for_each(|pid| kill(pid, Signal::KILL));
    // It is this host's fault, and somebody is offered the job again later.
    worker.wait_for_line(|line| line.contains("a job could not be done here and is given back"), PATIENCE).await;
    helper_killed.leaves_nothing(&place, &workspaces).await;

    let stopped = Tricky::new(&place, "stopped", "trap '' TERM; while :; do sleep 1; done");
    stopped.send(&place, &json!({})).await;
    stopped.is_up(&place).await;
    worker.signal(Signal::TERM);
    worker.signal(Signal::TERM);
    assert!(worker.wait(PATIENCE).await.code().is_some());
    stopped.leaves_nothing(&place, &workspaces).await;

    for (id, with_helpers) in [("worker", false), ("both", true)] {
        worker = place.worker("--stay --max-jobs 4");
        let killed = Tricky::new(&place, id, "sleep 1000");
        killed.send(&place, &json!({})).await;
        killed.is_up(&place).await;
        let nursery = nursery_of(&worker).expect("it keeps one");
        worker.kill9();
        if with_helpers {
            helpers_of(&workspaces.join(id)).into_iter().for_each(|pid| kill(pid, Signal::KILL));
        }
        eventually("what supervisors were forked from ends with it", PATIENCE, async || (!is_helper(nursery)).then_some(())).await;
        worker = place.worker("--stay --max-jobs 4");
        // Not gone on with: run again from its beginning, at once.
        assert_eq!(place.response(id, 1).await["status"], "success", "{id}");
        assert!(place.result(id)["attempt"].as_u64() > Some(1));
        killed.leaves_nothing(&place, &workspaces).await;
        worker.kill9();
    }

    let disk = match Disk::mount("8m") {
        Ok(disk) => disk,
        Err(reason) => return println!("a full disk is left out: {reason}"),
    };
    let full = Tricky::new(&place, "full", "yes > large");
    let on_disk = disk.path().join("workspaces");
    let _worker = place.worker(&format!("--stay -w {}", on_disk.display()));
    full.send(&place, &json!({})).await;
    assert_eq!(place.response("full", 1).await["status"], "failed");
    full.leaves_nothing(&place, &on_disk).await;
}

impl Tricky {
    /// For a job that may have ended meanwhile.
    async fn is_up_or_done(&self, place: &Place) {
        eventually("all tricks are played", PATIENCE, async || place.file(&format!("temporary-{}", self.id)).exists().then_some(())).await;
    }
}

/// Whether this process is one of ours.
fn is_helper(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == b"__supervise"))
}

#[tokio::test]
async fn steps_of_a_worker_have_a_place_for_temporary_files_that_goes_with_the_job() {
    let place = Place::new().await;
    // As long as a name may be.
    let id = "n".repeat(255);
    place.prepare("").await;
    place.job(&id, &["f=$(mktemp) && echo kept > $f && test \"$(dirname $f)\" = \"$TMPDIR\" && echo $f > path"]);
    place.send(&json!({ "id": id })).await;
    let (code, said) = place.run("").await;
    assert_eq!((code, &place.result(&id)["status"]), (Some(0), &json!("success")), "{said}");
    let path = place.read(&id, "path");
    assert!(Path::new(path.trim()).is_absolute() && !Path::new(path.trim()).exists(), "{path}");
    place.assert_nothing_left();
    assert!(!names(place.home.path()).iter().any(|name| name.starts_with('n')), "nothing where it was started");

    place.send(&json!({ "id": ".longshore-tmp-x", "steps": ["true"] })).await;
    let (code, said) = place.run("").await;
    assert!(code == Some(1) && said.contains("the name belongs to Longshore"), "{said}");
}

#[tokio::test]
async fn a_worker_whose_helper_is_killed_or_stopped_goes_on() {
    let place = Place::new().await;
    place.prepare("").await;
    let worker = place.worker("--stay");
    for (id, signal) in [("first", None), ("killed", Some(Signal::KILL)), ("stopped", Some(Signal::STOP)), ("after", None)] {
        if let Some(signal) = signal {
            kill(nursery_of(&worker).expect("it keeps one"), signal);
        }
        place.job(id, &["echo done"]);
        place.send(&json!({ "id": id })).await;
        assert_eq!(place.response(id, 1).await["status"], "success", "{}", worker.output());
    }
    place.settled().await;
}
