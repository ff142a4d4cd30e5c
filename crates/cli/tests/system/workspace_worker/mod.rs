//! `longshore workspace worker` on a real broker: jobs on a shared drive, workers as processes, what they leave and what they say.

mod endings;
mod faults;
mod flags;
mod lives;
mod requests;
mod soak;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use longshore_testkit::{NatsServer, Process, eventually};
use serde_json::{Value, json};

use crate::fleet::{PATIENCE, longshore};

/// A broker, a drive with jobs, and a stream that keeps responses.
struct Place {
    nats: NatsServer,
    home: tempfile::TempDir,
}

impl Place {
    async fn new() -> Self {
        Self::on(NatsServer::start().await).await
    }

    async fn on(nats: NatsServer) -> Self {
        let place = Self { nats, home: tempfile::tempdir().unwrap() };
        fs::create_dir(place.jobs()).unwrap();
        let stream = json!({ "name": "RESULTS", "subjects": ["jobs.results", "jobs.results.>"], "num_replicas": 1 });
        let made = place.nats.ask("$JS.API.STREAM.CREATE.RESULTS", &stream).await;
        assert!(made.get("error").is_none(), "{made}");
        place
    }

    fn jobs(&self) -> PathBuf {
        self.home.path().join("jobs")
    }

    fn workspaces(&self) -> PathBuf {
        self.home.path().join("workspaces")
    }

    /// A file beside the drive for steps to write to.
    fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A worker of this place, with these flags.
    fn command(&self, flags: &str) -> Command {
        let mut command = longshore(self.home.path(), &["workspace", "worker"]);
        command.args(["-u", &self.nats.url()]).args(flags.split_whitespace()).current_dir(self.home.path());
        command.env("LONGSHORE_LOG", "info,async_nats=warn,longshore_agent=debug");
        command
    }

    fn worker(&self, flags: &str) -> Process {
        Process::spawn(self.command(flags))
    }

    /// Runs a worker to its end; gives its exit code and all it said.
    async fn run(&self, flags: &str) -> (Option<i32>, String) {
        let mut worker = self.worker(flags);
        let status = worker.wait(PATIENCE).await;
        (status.code(), worker.output())
    }

    /// Makes a job's directory with these steps as its `job.json`.
    fn job(&self, id: &str, steps: &[&str]) -> PathBuf {
        let dir = self.jobs().join(id);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("job.json"), json!({ "steps": steps }).to_string()).unwrap();
        dir
    }

    /// Makes the stream and the consumer, as a worker does that finds no work.
    async fn prepare(&self, flags: &str) {
        let (code, said) = self.run(&format!("--idle 10ms {flags}")).await;
        assert_eq!(code, Some(0), "{said}");
    }

    /// Sends a request; gives its place in the stream.
    async fn send(&self, request: &Value) -> u64 {
        self.send_text(&request.to_string()).await
    }

    async fn send_text(&self, payload: &str) -> u64 {
        let stored = self.nats.ask_with("jobs.pending", payload).await;
        stored["seq"].as_u64().unwrap_or_else(|| panic!("not stored: {stored}"))
    }

    /// All responses so far under this subject, oldest first.
    async fn responses(&self, subject: &str) -> Vec<Value> {
        let (mut responses, mut sequence) = (Vec::new(), 1);
        loop {
            let question = json!({ "seq": sequence, "next_by_subj": subject });
            let found = self.nats.ask("$JS.API.STREAM.MSG.GET.RESULTS", &question).await;
            let Some(message) = found.get("message") else { return responses };
            sequence = message["seq"].as_u64().unwrap() + 1;
            use base64::Engine as _;
            let data = base64::engine::general_purpose::STANDARD.decode(message["data"].as_str().unwrap()).unwrap();
            responses.push(serde_json::from_slice(&data).unwrap());
        }
    }

    /// Waits for the `n`th response about `id`.
    async fn response(&self, id: &str, n: usize) -> Value {
        let subject = format!("jobs.results.{id}");
        eventually("a response", PATIENCE, async || self.responses(&subject).await.into_iter().nth(n - 1)).await
    }

    fn result(&self, id: &str) -> Value {
        serde_json::from_str(&self.read(id, "result.json")).unwrap()
    }

    fn read(&self, id: &str, name: &str) -> String {
        fs::read_to_string(self.jobs().join(id).join("results").join(name)).unwrap_or_else(|error| panic!("{id}/results/{name}: {error}"))
    }

    async fn consumer(&self) -> Value {
        self.nats.ask("$JS.API.CONSUMER.INFO.JOBS.worker-01", &Value::Null).await
    }

    /// Waits until the broker waits for nothing.
    async fn settled(&self) {
        eventually("every request is ended", PATIENCE, async || {
            let info = self.consumer().await;
            (info["num_ack_pending"] == 0 && info["num_pending"] == 0).then_some(())
        })
        .await;
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        let left: Vec<_> = fs::read_dir(self.workspaces()).into_iter().flatten().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn lines(path: &std::path::Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Waits until a step has written its process number, and gives it.
async fn pid_in(path: &std::path::Path) -> u32 {
    eventually("a process number", PATIENCE, async || lines(path).last().and_then(|line| line.parse().ok())).await
}

/// Whether a process runs that has this word among its arguments.
fn is_alive(word: &str) -> bool {
    let has_it = |entry: fs::DirEntry| {
        fs::read(entry.path().join("cmdline")).is_ok_and(|line| line.split(|byte| *byte == 0).any(|part| part == word.as_bytes()))
    };
    fs::read_dir("/proc").unwrap().filter_map(Result::ok).any(has_it)
}

async fn gone(word: &str) {
    eventually("a process is gone", Duration::from_secs(10), async || (!is_alive(word)).then_some(())).await;
}
