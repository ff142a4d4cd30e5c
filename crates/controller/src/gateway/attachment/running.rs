//! What a worker was handed, and how that goes on: from an offer in its inbox to a dispatch, and what is due when nothing is heard of it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use longshore_model::AgentId;
use longshore_model::job::Job;
use longshore_model::limits::LOG_BYTES_PER_STEP_MAX;
use longshore_model::operation::{Call, Operation};
use longshore_model::unit::ByteSize;
use longshore_model::wire::agent::WorkerPackage;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Definition, Failure, Outcome};
use longshore_session::Message;
use longshore_store::{Delivery, Fence, Lease};
use tokio::time::Instant;

use super::words::interrupted;
use super::{Aside, Attachment, Done, OURS, PAUSE, UNSTORED};
use crate::app::App;
use crate::gateway::frames::{self, Task};
use crate::gateway::logs::{Log, Source};
use crate::gateway::packages::{self, Command};
use crate::gateway::presence::Abilities;
use crate::gateway::ticket::Pass;
use crate::gateway::work::{self, Attempt, Claimed, End, Ending, Key, Taken};

/// An attempt in hand.
pub(super) struct Running {
    pub(super) job: Box<Job>,
    /// As it is stored, of an operation.
    definition: Option<Box<Definition>>,
    /// Its turn, if the job has a concurrency key.
    pub(super) fence: Option<Box<Fence>>,
    pub(super) attempt: Attempt,
    /// Of the package that it runs with.
    pub(super) version: String,
    pub(super) lease: Option<Box<dyn Lease>>,
    pub(super) log: Option<Log>,
    /// The next number of its log, unless it is open.
    first_record: u64,
    /// The ids of its dispatches.
    dispatches: Vec<String>,
    /// When it is to be dispatched, again or at all.
    say_at: Option<Instant>,
    /// The worker has taken a dispatch.
    pub(super) is_delivered: bool,
    /// The worker is known not to have it: it was not handed to it yet, or not taken.
    pub(super) is_absent: bool,
    /// The worker may have it, or may never have heard of it, or may have ended it.
    pub(super) is_in_doubt: bool,
    doubted_at: Option<Instant>,
    /// Its end is being stored.
    pub(super) is_ending: bool,
    pub(super) cancelled_by: Option<String>,
    pub(super) cancel_until: Option<Instant>,
    /// After this it was not answered in time.
    until: Instant,
    /// Frames that say again what is being stored.
    pub(super) also: Vec<Aside>,
}

impl Running {
    /// Whether this names it: its task's id, or that of a dispatch.
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.dispatches.iter().any(|id| id == name) || self.attempt.task.id() == name
    }

    /// Whether it was handed out.
    pub(super) fn is_asked(&self) -> bool {
        !self.dispatches.is_empty()
    }

    pub(super) fn say_again_at(&mut self, at: Instant) {
        self.say_at = Some(at);
    }

    /// Somebody wants its end: it is not handed out any more.
    pub(super) fn cancel(&mut self, by: &str, until: Instant) {
        self.cancelled_by = Some(by.to_owned());
        (self.cancel_until, self.say_at) = (Some(until), None);
    }

    pub(super) fn doubt(&mut self) {
        self.is_in_doubt = true;
        self.doubted_at.get_or_insert_with(Instant::now);
    }

    pub(super) fn is_doubted_for(&self, patience: Duration) -> bool {
        // A worker says nothing of commands for its packages when it says what it has under way.
        self.is_in_doubt
            && !self.is_ending
            && !packages::is_managing(&self.job.call)
            && self.doubted_at.is_some_and(|since| since.elapsed() >= patience)
    }

    pub(super) fn due(&self) -> Option<Instant> {
        if self.is_ending { None } else { [self.say_at, self.cancel_until, Some(self.until)].into_iter().flatten().min() }
    }

    pub(super) fn log(&mut self, app: &App, agent: AgentId) -> &mut Log {
        let n_steps = if let Call::WorkspaceRun { run, .. } = &self.job.call { run.steps.len().max(1) } else { 1 };
        let bytes_max = LOG_BYTES_PER_STEP_MAX.saturating_mul(n_steps as u64);
        let (source, first) = (Source { task: self.attempt.task, agent, bytes_max }, self.first_record);
        self.log.get_or_insert_with(|| Log::open(app, source, first))
    }
}

impl Attachment {
    pub(super) fn read_inbox(&mut self, at: Instant) {
        self.inbox_due = at + self.app.config.gateway.inbox_every;
        self.is_reading = true;
        // What is known already is at its beginning; as much again as can be taken is enough.
        let wanted = (self.claiming.len() + self.running.len() + self.later.len() + self.can.at_once).min(INBOX_MAX);
        let (work, agent) = (self.app.store.work.clone(), self.agent());
        self.spawn(Done::Inbox(Err(OURS)), async move {
            let read = async {
                let (mut all, mut after) = (Vec::new(), 0);
                loop {
                    let page = work.inbox(agent, after).await?;
                    all.extend(page.deliveries);
                    match page.next {
                        // What is beyond is read when this is done.
                        Some(next) if all.len() < wanted => after = next,
                        Some(_) | None => return Ok(all),
                    }
                }
            };
            Done::Inbox(read.await)
        });
        if self.looks_due <= at {
            self.looks_due = at + self.app.config.gateway.inbox_every;
            let tasks: Vec<Task> = self.running.values().map(|running| running.attempt.task).collect();
            tasks.into_iter().for_each(|task| self.look_at(task));
        }
    }

    pub(super) fn offered(&mut self, delivery: Delivery) {
        let [execution] = delivery.definition.executions[..] else { return };
        let key = (delivery.definition.id, execution);
        let is_known = self.running.contains_key(&key) || self.claiming.contains(&key) || self.later.contains_key(&key);
        let is_full = self.running.len() + self.claiming.len() >= self.can.at_once;
        if is_known || is_full || self.is_drained || !self.is_well || !self.is_state_known || !self.is_open() {
            return;
        }
        self.claiming.insert(key);
        let (app, proxy) = (self.app.clone(), self.proxy());
        self.spawn(Done::Claimed(key, Claimed::Later(UNSTORED), None), async move {
            let (claimed, lease) = work::take(app, proxy, delivery).await;
            Done::Claimed(key, claimed, lease)
        });
    }

    pub(super) fn claimed(&mut self, key: Key, claimed: Claimed, lease: Option<Box<dyn Lease>>) {
        self.claiming.remove(&key);
        let at = Instant::now();
        let (Taken { job, definition, attempt, fence }, is_new, cancelled_by) = match claimed {
            Claimed::Over => return,
            Claimed::Later(wait) => {
                self.later.insert(key, at + wait);
                return;
            }
            Claimed::Started(taken) => (taken, true, None),
            Claimed::TakenUp(taken, cancelled_by) => (taken, false, cancelled_by),
        };
        let elapsed = Duration::try_from(self.app.now().duration_since(attempt.started_at)).unwrap_or_default();
        // An operation's time-out is watched at its worker, which then brings back what there is.
        let bringing = if definition.is_some() { BRINGING_MAX } else { Duration::ZERO };
        let left = job.timeout.saturating_sub(elapsed) + self.app.config.gateway.grace + bringing;
        let mut running = Running {
            definition,
            fence,
            attempt,
            version: String::new(),
            lease,
            log: None,
            // Above whatever an earlier controller could have stored of it.
            first_record: if is_new { 0 } else { u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX / 2).saturating_mul(16) + 1 },
            dispatches: Vec::new(),
            say_at: None,
            is_delivered: false,
            is_absent: is_new,
            is_in_doubt: false,
            doubted_at: None,
            is_ending: false,
            cancelled_by: None,
            cancel_until: None,
            until: at + left,
            also: Vec::new(),
            job,
        };
        let may_repeat = self.is_longshore || packages::is_managing(&running.job.call);
        if is_new || (may_repeat && cancelled_by.is_none()) {
            running.say_at = Some(at);
        }
        if !is_new {
            running.doubt();
        }
        let task = attempt.task;
        self.running.insert(key, running);
        if cancelled_by.is_some() {
            self.look_at(task);
        }
    }

    /// Says what is to be said, and ends what was not answered in time.
    pub(super) fn look_after_work(&mut self, at: Instant) {
        let due: Vec<Key> =
            self.running.iter().filter(|(_, running)| running.due().is_some_and(|due| due <= at)).map(|(key, _)| *key).collect();
        for key in due {
            let Some(running) = self.running.get_mut(&key) else { continue };
            if running.cancel_until.is_some_and(|until| until <= at) {
                let by = running.cancelled_by.clone().unwrap_or_default();
                self.conclude(key, Ending::Answer { end: work::cancelled(&by), cancel_verified: Some(false) }, None);
            } else if running.until <= at {
                let (task, ending) = (running.attempt.task, late(running, &self.identity.hostname));
                self.tell_to_end(task);
                self.conclude(key, ending, None);
            } else if running.say_at.is_some_and(|say_at| say_at <= at) {
                self.dispatch(key, at);
            }
        }
    }

    fn dispatch(&mut self, key: Key, at: Instant) {
        let hostname = self.identity.hostname.clone();
        let now = self.now();
        let must_wait = self.is_package_busy(key);
        let Some(running) = self.running.get_mut(&key) else { return };
        running.say_at = None;
        if must_wait {
            running.say_at = Some(at + PAUSE);
            return;
        }
        if running.job.call == Call::PackageList {
            let end = packages::list(&self.can.packages, &self.can.broken);
            return self.conclude(key, Ending::Answer { end, cancel_verified: None }, None);
        }
        let message = match message(running, &self.can, &self.app, (self.identity.agent, &hostname)) {
            Ok(message) => message,
            Err(failure) => return self.conclude(key, ended(Outcome::Skipped, failure), None),
        };
        match self.session.send(message, now) {
            Ok(id) => {
                running.dispatches.push(id);
                self.app.metrics.handed_out();
                running.is_absent = false;
            }
            Err(error @ (longshore_session::SendError::Full { .. } | longshore_session::SendError::Repeated(_))) => {
                tracing::debug!(%error, "a dispatch waits");
                running.say_at = Some(at + PAUSE);
            }
            Err(error @ (longshore_session::SendError::Unfit(_) | longshore_session::SendError::Reserved(_))) => {
                let message = format!("it cannot be handed to the worker on {hostname}: {}", crate::app::chain(&error));
                self.conclude(key, ended(Outcome::Failed, Failure { code: ErrorCode::TooLarge, message }), None);
            }
        }
    }
}

impl Attachment {
    /// Whether another command for the same package is under way: an event of packages does not say which one it is for.
    fn is_package_busy(&self, key: Key) -> bool {
        let package = |running: &Running| Command::of(&running.job.call).map(|command| command.package().to_owned());
        let Some(wanted) = self.running.get(&key).and_then(package) else { return false };
        let is_asked = |one: &Running| one.is_asked() && !one.is_ending && package(one).as_ref() == Some(&wanted);
        self.running.iter().any(|(other, one)| *other != key && is_asked(one))
    }
}

/// What a worker is handed for an attempt, or why it cannot do it.
fn message(running: &mut Running, can: &Abilities, app: &App, (agent, hostname): (AgentId, &str)) -> Result<Message, Failure> {
    let unable = |message: String| Failure { code: ErrorCode::Unsupported, message };
    let (job, task) = (&running.job, running.attempt.task);
    if let Call::PackageRun(run) = &job.call {
        let missing = || unable(format!("the worker on {hostname} does not have the node {} of the package {}", run.node, run.package));
        let version = WorkerPackage::version_for(&can.packages, run).ok_or_else(missing)?;
        version.clone_into(&mut running.version);
        if run.secrets.is_empty() {
            return Ok(frames::dispatch(task, job, run, version));
        }
        // They are sealed for who opens them where the handler runs: a Longshore that performs the operation itself.
        if !can.operations.contains(&Operation::PackageRun) {
            return Err(unable(format!("the worker on {hostname} cannot be handed secrets for a package: run it on an agent")));
        }
    }
    let operation = job.call.operation();
    if let Some(command) = Command::of(&job.call).filter(|_| can.operations.contains(&operation)) {
        return Ok(command.message(task));
    }
    let Some(definition) = running.definition.as_deref().filter(|_| can.operations.contains(&operation)) else {
        return Err(unable(format!("the worker on {hostname} does not perform {}", operation.name())));
    };
    if let Call::CommandExec(command) | Call::CommandShell { command, .. } = &job.call
        && command.max_output.is_some_and(|wanted| wanted.0 > ANSWER_OUTPUT_MAX)
    {
        let most = ByteSize(ANSWER_OUTPUT_MAX);
        return Err(unable(format!(
            "the answer of the worker on {hostname} holds at most {most} of output: ask for less, the log has all"
        )));
    }
    let pass = (operation == Operation::WorkspaceRun).then(|| {
        let lasts = SignedDuration::try_from(job.timeout + BRINGING_MAX).unwrap_or(SignedDuration::MAX);
        let exp = app.now().checked_add(lasts).unwrap_or(Timestamp::MAX).as_second();
        Pass { agent, attempt: task.attempt, execution: task.execution, exp, job: task.job }.sign(&app.config.signing_key)
    });
    let fence = running.fence.as_ref().map(|fence| fence.revision);
    Ok(frames::operation(task, definition.clone(), fence, pass))
}

/// Output that an answer over a session holds: a frame has 16 MiB, and a byte may need six as JSON.
const ANSWER_OUTPUT_MAX: u64 = 2 << 20;
/// How long a worker may take to bring what an operation made, when its time-out has passed.
const BRINGING_MAX: Duration = Duration::from_secs(2 * 3600);
/// Deliveries of an inbox that are looked at in one go.
const INBOX_MAX: usize = 1000;

fn ended(outcome: Outcome, failure: Failure) -> Ending {
    Ending::Answer { end: End::of(outcome, failure), cancel_verified: None }
}

/// The end of what was not answered in time. What may never have reached its worker may be tried again; what ran had its time.
fn late(running: &Running, hostname: &str) -> Ending {
    if running.is_in_doubt {
        let failure =
            interrupted(hostname, "it was handed to it before its connection or its controller ended, and nothing was heard of it since");
        return Ending::given_up(failure, false);
    }
    let message =
        format!("the worker on {hostname} did not answer within {}; it may still run", longshore_model::unit::Span(running.job.timeout));
    ended(Outcome::Failed, Failure { code: ErrorCode::TimedOut, message })
}
