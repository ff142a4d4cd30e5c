//! What people do: they submit jobs, again if they do not know what became of them, look at them, end them, repeat them, remove them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::rest::{ExecutionView, JobRequest, JobView, RetryOnly, RetryRequest, TimelineEntry};
use longshore_model::{ExecutionId, JobId};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::agents::{GROUP, hostname};
use crate::controllers::{Controllers, Reply};
use crate::history::{Acknowledged, Cancelled, Intent, Repeat, Seen, Seq, Share, Told};
use crate::readers::Reader;
use crate::rng::Rng;
use crate::world::{Actor, Clocks, World};

/// The annotation that names the intent behind a job.
pub(crate) const INTENT: &str = "intent";
/// How long after the healing somebody who has a key may be without an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Somebody with jobs to submit.
pub(crate) struct Client {
    /// Tells people apart.
    pub(crate) id: u64,
    pub(crate) world: Arc<World>,
    pub(crate) controllers: Controllers,
    pub(crate) rng: Rng,
    /// When misfortune ends.
    pub(crate) heals_at: Instant,
    pub(crate) n_agents: usize,
    /// How many of a thousand jobs have a concurrency key.
    pub(crate) keyed: u64,
}

/// What is done with a job after its submission.
#[derive(Debug, Clone, Copy)]
enum Then {
    Nothing,
    Look,
    Follow,
    Cancel,
    Delete { force: bool },
    Retry,
}

impl Client {
    /// Submits jobs with these numbers, one after the other.
    pub(crate) async fn work(mut self, numbers: std::ops::Range<u64>) {
        let first = numbers.start;
        for number in numbers {
            sleep(Duration::from_millis(self.rng.below(9000))).await;
            let clashes_with = (number > first && self.rng.chance(80)).then(|| number - 1);
            let request = self.request(number, clashes_with);
            let intent = Intent { request: request.clone(), clashes_with, accepted: Vec::new(), refused: None, is_unknown: false };
            self.world.history().intents.insert(number, intent);
            let asked = self.asks();
            let Some(view) = self.submit(number, &request).await else { continue };
            self.saw(asked, &view);
            let job = view.id;
            match self.then() {
                Then::Nothing => {}
                Then::Look => self.look(job).await,
                Then::Follow => self.follow(job).await,
                Then::Cancel => self.cancel(job).await,
                Then::Delete { force } => self.delete(job, force).await,
                Then::Retry => self.retry(job).await,
            }
            if self.rng.chance(100) && request.idempotency_key.is_some() {
                // Somebody is not sure any more whether it was sent.
                self.submit(number, &request).await;
            }
        }
    }

    fn then(&mut self) -> Then {
        match self.rng.below(100) {
            0..=29 => Then::Nothing,
            30..=44 => Then::Look,
            45..=54 => Then::Follow,
            55..=79 => Then::Cancel,
            80..=87 => Then::Delete { force: self.rng.chance(500) },
            88..=91 => Then::Retry,
            _ => Then::Nothing,
        }
    }

    fn request(&mut self, number: u64, clashes_with: Option<u64>) -> JobRequest {
        let rng = &mut self.rng;
        let (operation, args) = match rng.chance(500) {
            true => ("node.hostname.get", json!({})),
            false => ("command.exec", json!({ "command": ["work", number.to_string()] })),
        };
        let host = hostname(usize::try_from(rng.below(self.n_agents as u64)).unwrap_or(0));
        let target = match rng.below(100) {
            0..=39 => "_any".to_owned(),
            40..=64 => host,
            65..=76 => "_all".to_owned(),
            77..=88 => format!("_any@{GROUP}"),
            _ => GROUP.to_owned(),
        };
        let backoff = |rng: &mut Rng| (0..rng.between(1, 3)).map(|_| format!("{}s", rng.between(1, 12))).collect();
        let retry = match (operation, rng.below(100)) {
            ("node.hostname.get", 0..=89) => {
                Some(RetryRequest { max_attempts: u32::try_from(rng.between(1, 4)).unwrap_or(1), backoff: Some(backoff(rng)) })
            }
            ("command.exec", 0..=24) => Some(RetryRequest { max_attempts: 2, backoff: Some(backoff(rng)) }),
            _ => None,
        };
        let retry = retry.or_else(|| (operation == "node.hostname.get").then_some(RetryRequest { max_attempts: 1, backoff: None }));
        let own_key = rng.chance(600).then(|| format!("key {number}"));
        // What somebody is to do who never comes back ends when it expires.
        let longest = if self.world.loses_agent { "90s" } else { "10m" };
        let key = clashes_with.map_or(own_key, |other| Some(format!("key {other}")));
        let request = JobRequest {
            timeout: Some(format!("{}s", rng.between(5, 40))),
            expires_in: Some(if rng.chance(300) { format!("{}s", rng.between(2, 25)) } else { longest.to_owned() }),
            not_before: rng.chance(150).then(|| format!("{}s", rng.between(1, 30))),
            retry,
            wait_for_agents: rng.chance(600).then(|| "5m".to_owned()),
            idempotency_key: key,
            concurrency_key: rng.chance(self.keyed).then(|| format!("turn {}", rng.below(2))),
            annotations: [(INTENT.to_owned(), number.to_string())].into(),
            ..JobRequest::new(operation, args, target)
        };
        if self.world.clocks == Clocks::BySeed { request } else { timeless(request) }
    }

    async fn submit(&mut self, number: u64, request: &JobRequest) -> Option<JobView> {
        loop {
            let request = request.clone();
            let has_key = request.idempotency_key.is_some();
            let reply = self.controllers.ask(move |controller, caller| async move { controller.submit(&caller, request).await }).await;
            let outcome = |reply: &Reply<JobView>| match reply {
                Reply::Done(view) => format!("was accepted as {}", view.id.short()),
                Reply::Refused(code) => format!("was refused: {code}"),
                Reply::Unknown => "was not answered".to_owned(),
            };
            self.world.note(Actor::Client, || format!("submission {number} {}", outcome(&reply)));
            {
                let mut history = self.world.history();
                let intent = history.intents.get_mut(&number)?;
                match reply {
                    Reply::Done(view) => {
                        intent.accepted.push(view.id);
                        return Some(view);
                    }
                    Reply::Refused(code) => {
                        intent.refused = Some(code);
                        return None;
                    }
                    Reply::Unknown => intent.is_unknown = true,
                }
            }
            if !has_key || Instant::now() > self.heals_at + PATIENCE {
                return None;
            }
            sleep(Duration::from_millis(self.rng.between(100, 3000))).await;
        }
    }

    /// A place in what is noted, from before something is asked for.
    fn asks(&self) -> Seq {
        self.world.history().next()
    }

    fn saw(&self, asked: Seq, view: &JobView) {
        let share = |execution: &ExecutionView| Share {
            state: execution.state,
            attempts: execution.attempts,
            is_ending: execution.cancel_requested || execution.state.is_final(),
        };
        let shares = view.executions.iter().map(|execution| (execution.id, share(execution))).collect();
        let timeline = view.timeline.iter().map(|entry| {
            let TimelineEntry { job, execution, event, attempt, .. } = entry.clone();
            Told { job, execution, event, attempt }
        });
        self.was_shown(asked, view.id, shares, timeline.collect());
    }

    fn was_shown(&self, asked: Seq, job: JobId, shares: BTreeMap<ExecutionId, Share>, timeline: Vec<Told>) {
        let mut history = self.world.history();
        let seq = history.next();
        history.views.push(Seen { client: self.id, job, seq, asked, shares, timeline });
    }

    /// Reads a job, and notes what it is shown, also that there is no such job.
    async fn read(&self, job: JobId) {
        let asked = self.asks();
        match self.controllers.ask(move |controller, caller| async move { controller.job(&caller, job).await }).await {
            Reply::Done(view) => self.saw(asked, &view),
            Reply::Refused(ErrorCode::NotFound) => self.was_shown(asked, job, BTreeMap::new(), Vec::new()),
            Reply::Refused(_) | Reply::Unknown => {}
        }
    }

    async fn look(&mut self, job: JobId) {
        for _ in 0..self.rng.between(1, 6) {
            sleep(Duration::from_millis(self.rng.below(5000))).await;
            self.read(job).await;
        }
    }

    async fn follow(&mut self, job: JobId) {
        let (world, controllers, rng) = (self.world.clone(), self.controllers.clone(), self.rng.fork());
        Reader { world, controllers, rng, of: Some(job), until: self.heals_at + PATIENCE }.read().await;
    }

    async fn cancel(&mut self, job: JobId) {
        let delay = if self.rng.chance(500) { self.rng.below(300) } else { self.rng.below(15_000) };
        sleep(Duration::from_millis(delay)).await;
        for _ in 0..self.rng.between(1, 2) {
            while Instant::now() < self.heals_at + PATIENCE {
                let asked = self.asks();
                let reply = self.controllers.ask(move |controller, caller| async move { controller.cancel(&caller, job).await }).await;
                match reply {
                    Reply::Done(cancelled) => {
                        self.world.note(Actor::Client, || format!("cancel of {}: {}", job.short(), cancelled.message));
                        {
                            let mut history = self.world.history();
                            let seq = history.next();
                            history.cancels.push(Cancelled { job, asked, seq, revision: cancelled.revision });
                        }
                        self.saw(asked, &cancelled.job);
                        self.read(job).await;
                        break;
                    }
                    Reply::Refused(ErrorCode::NotFound) => return,
                    Reply::Refused(_) | Reply::Unknown => sleep(Duration::from_millis(self.rng.between(200, 3000))).await,
                }
            }
        }
    }

    async fn delete(&mut self, job: JobId, force: bool) {
        // Later than anything that is still on its way of the submission.
        sleep(Duration::from_millis(self.rng.between(5_000, 30_000))).await;
        let wish = Acknowledged { job, seq: self.asks() };
        self.world.history().delete_wishes.push(wish);
        while Instant::now() < self.heals_at + PATIENCE {
            let reply = self.controllers.ask(move |controller, caller| async move { controller.delete(&caller, job, force).await }).await;
            match reply {
                Reply::Done(()) | Reply::Refused(ErrorCode::NotFound) => {
                    self.world.note(Actor::Client, || format!("{} is deleted", job.short()));
                    {
                        let mut history = self.world.history();
                        let seq = history.next();
                        history.deletes.push(Acknowledged { job, seq });
                    }
                    return self.read(job).await;
                }
                Reply::Refused(_) | Reply::Unknown => sleep(Duration::from_millis(self.rng.between(500, 5000))).await,
            }
        }
    }

    async fn retry(&mut self, job: JobId) {
        sleep(Duration::from_millis(self.rng.between(2_000, 20_000))).await;
        let only = if self.rng.chance(500) { RetryOnly::Failed } else { RetryOnly::All };
        let asked = self.asks();
        let reply = self.controllers.ask(move |controller, caller| async move { controller.retry(&caller, job, only).await }).await;
        let made = match &reply {
            Reply::Done(view) => Some(view.id),
            Reply::Unknown => None,
            Reply::Refused(_) => return,
        };
        self.world.note(Actor::Client, || format!("retry of {}: {:?}", job.short(), made.map(JobId::short)));
        self.world.history().repeats.push((job, Repeat::Retry, made));
        if let Reply::Done(view) = reply {
            self.saw(asked, &view);
            self.read(view.id).await;
        }
    }
}

/// The same, with nothing in it that anybody has to compare with a clock.
fn timeless(request: JobRequest) -> JobRequest {
    let retry = request.retry.map(|_| RetryRequest { max_attempts: 1, backoff: None });
    // Far beyond what a clock is wrong by: whoever waits for agents expires with its patience.
    let long = || "24h".to_owned();
    let wait_for_agents = request.wait_for_agents.as_ref().map(|_| long());
    JobRequest { expires_in: Some(long()), not_before: None, wait_for_agents, retry, ..request }
}
