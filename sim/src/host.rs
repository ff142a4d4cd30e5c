//! The host below a simulated agent: work that takes a while and ends in some way, and notes that outlive the agent's process. Keeps the
//! witness: what began and how it ended, whatever the product says of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use longshore_agent::{Entry, Host, Key, Notes};
use longshore_exec::{Finished, Output, Strain, Task};
use longshore_model::operation::Kind;
use longshore_model::wire::agent::Process;
use longshore_model::wire::facts::Facts;
use longshore_model::wire::log::LogStream;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Failure, Outcome};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::history::{End, Run};
use crate::plant::Bug;
use crate::world::{Actor, World, agent_id};

/// The longest that work takes to its end once it is told to, in milliseconds.
pub(crate) const DIES_WITHIN_MAX: u64 = 4_000;

/// A host that does nothing but take its time.
pub(crate) struct SimHost {
    pub(crate) world: Arc<World>,
    pub(crate) n: usize,
    pub(crate) process: Process,
}

/// Notes in memory. They belong to the host, not to the process.
#[derive(Clone)]
pub(crate) struct SimNotes {
    world: Arc<World>,
    entries: Arc<Mutex<BTreeMap<Key, Entry>>>,
}

/// How a piece of work goes, if nobody interferes.
struct Course {
    takes: Duration,
    ends: End,
    /// Between the wish that it ends and its end, at most [`DIES_WITHIN_MAX`].
    dies_within: Duration,
    talks: bool,
}

/// Writes the witness's last line, also if the work is dropped.
struct Witness {
    world: Arc<World>,
    me: Actor,
    idx: usize,
}

/// What a host was told to do, in words: what is compared with what was submitted.
pub(crate) fn task_text(operation: &str, args: &serde_json::Value, annotations: &BTreeMap<String, String>) -> String {
    format!("{operation} {args} {annotations:?}")
}

#[async_trait]
impl Host for SimHost {
    async fn run(&self, task: Task, output: Arc<dyn Output>, cancel: CancellationToken) -> Finished {
        let (began, deadline) = (Instant::now(), Instant::now() + task.job.timeout);
        let course = self.course(&task);
        let witness = self.begin(&task, &course);
        if course.talks {
            output.write(1, LogStream::Stdout, b"at work");
        }
        // Gone before the work is: whoever waits for the last output waits for this.
        drop(output);
        let end = tokio::select! {
            biased;
            () = sleep(course.takes) => course.ends,
            () = sleep_until(deadline) => End::Finished { outcome: Outcome::Failed, transient: false },
            () = cancel.cancelled(), if !self.world.is(Bug::CancelUnheard) => {
                sleep(course.dies_within).await;
                End::Finished { outcome: Outcome::Cancelled, transient: false }
            }
        };
        let is_late = Instant::now() >= deadline;
        let run = witness.idx;
        witness.end(end);
        finished(end, is_late, run, began.elapsed())
    }

    async fn facts(&self, hostname: &str) -> Facts {
        Facts { hostname: hostname.to_owned(), ..Facts::default() }
    }

    async fn strain(&self) -> Strain {
        Strain::default()
    }

    fn process(&self) -> Process {
        self.process.clone()
    }

    async fn close(&self) {}
}

impl SimHost {
    fn course(&self, task: &Task) -> Course {
        let mut rng = self.world.rng();
        let takes = match rng.below(10) {
            0..=5 => rng.between(1, 300),
            6..=8 => rng.between(300, 8_000),
            _ => rng.between(8_000, 60_000),
        };
        let is_query = task.job.call.operation().spec().kind == Kind::Query;
        let outcome = |outcome| End::Finished { outcome, transient: false };
        let ends = match rng.below(100) {
            0..=59 => outcome(Outcome::Completed),
            60..=69 => outcome(Outcome::Failed),
            70..=73 if is_query => outcome(Outcome::Skipped),
            _ => End::Finished { outcome: Outcome::Failed, transient: true },
        };
        let dies_within = Duration::from_millis(if rng.chance(300) { rng.between(1, DIES_WITHIN_MAX) } else { 0 });
        Course { takes: Duration::from_millis(takes), ends, dies_within, talks: rng.chance(200) }
    }

    fn begin(&self, task: &Task, course: &Course) -> Witness {
        let me = Actor::Agent(self.n);
        let job = &task.job;
        self.world.note(me, || format!("BEGINS {} attempt {}", job.id.short(), task.attempt));
        let now = self.world.now();
        let mut history = self.world.history();
        let run = Run {
            seq: history.next(),
            key: (job.id, task.execution),
            attempt: task.attempt,
            agent: agent_id(self.n),
            process: self.process.id.clone(),
            task: task_text(job.call.operation().name(), &job.call.args_json(), &job.annotations),
            talks: course.talks,
            fence: task.fence,
            began: now,
            ended: None,
        };
        history.runs.push(run);
        Witness { world: self.world.clone(), me, idx: history.runs.len() - 1 }
    }
}

impl Witness {
    fn end(&self, end: End) {
        let now = self.world.now();
        let mut history = self.world.history();
        let run = &mut history.runs[self.idx];
        if run.ended.is_none() {
            run.ended = Some((now, end));
            let (job, attempt) = (run.key.0, run.attempt);
            drop(history);
            self.world.note(self.me, || format!("ENDS {} attempt {attempt} {end:?}", job.short()));
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.end(End::Killed);
    }
}

fn finished(end: End, is_late: bool, run: usize, duration: Duration) -> Finished {
    let (outcome, transient) = match end {
        End::Finished { outcome, transient } => (outcome, transient),
        End::Killed => (Outcome::Failed, false),
    };
    let failure = |code: ErrorCode| Some(Failure { code, message: format!("the simulation says so in run {run}") });
    let failure = match outcome {
        Outcome::Completed => None,
        Outcome::Skipped => failure(ErrorCode::Unsupported),
        Outcome::Cancelled | Outcome::Expired => failure(ErrorCode::Cancelled),
        Outcome::Failed if transient => failure(ErrorCode::HostFault),
        Outcome::Failed if is_late => failure(ErrorCode::TimedOut),
        Outcome::Failed => failure(ErrorCode::ExitStatus),
    };
    Finished {
        outcome,
        changed: None,
        result: (outcome == Outcome::Completed).then(|| json!({ "run": run })),
        failure,
        transient,
        cancel_verified: (outcome == Outcome::Cancelled).then_some(true),
        archive: None,
        duration,
    }
}

impl SimNotes {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        Self { world: world.clone(), entries: Arc::default() }
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<Key, Entry>)) {
        change(&mut self.entries.lock().expect("no holder of this lock panics"));
    }
}

impl Notes for SimNotes {
    fn note(&self, key: Key, entry: &Entry) -> bool {
        let mut entry = entry.clone();
        if self.world.is(Bug::NotedAnswerLost) {
            entry.answer = None;
        }
        self.change(|entries| drop(entries.insert(key, entry)));
        true
    }

    fn forget(&self, key: Key) {
        self.change(|entries| drop(entries.remove(&key)));
    }

    fn left_behind(&self) -> Vec<(Key, Entry)> {
        let mut left = Vec::new();
        self.change(|entries| left = entries.clone().into_iter().collect());
        left
    }
}
