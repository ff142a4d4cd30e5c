//! The load: submitters that each send a job, wait for its end, and send the next, through whichever controller answers.
//!
//! A client of this kind loses nothing: a call whose outcome is unknown is made again, a submission under the same key. What is noted is
//! what a client can know; how to judge it is the checker's affair.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use longshore_client::{Backoff, Client, JobFilter};
use longshore_model::JobId;
use longshore_model::wire::problem::chain;
use longshore_model::wire::rest::{JobRequest, JobView, RetryRequest};
use longshore_testkit::witness::Witness;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::history::{JobHistory, Policy, label_at};

/// How long one call may take beyond what it waits for itself.
const CALL: Duration = Duration::from_secs(10);
/// How long a call waits for the end of a job.
const WAIT: Duration = Duration::from_secs(10);
/// How long a controller may take to be readable at the end, and its lists to follow.
const READ_WITHIN: Duration = Duration::from_secs(30);
/// Readings on their way at once.
const READERS: usize = 16;
/// Every so manyth job is …
const ONCE: usize = 3;
const CANCELLED: usize = 10;
const SLOW: usize = 5;
const SENT_AGAIN: usize = 7;
/// Of so many jobs some are for everybody, for a group, and for one of it. No multiple of the numbers above.
const KINDS: usize = 13;
/// The group of every agent.
pub(crate) const GROUP: &str = "group:crew";

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// Until told otherwise.
    Told,
    /// Nothing new is submitted; what is on its way is given up at this instant.
    Drained(Instant),
}

/// Everybody who submits.
pub(crate) struct Load {
    doors: Vec<Client>,
    witness: Witness,
    hosts: usize,
    began: Instant,
    until: watch::Receiver<Until>,
    n_submitted: Cell<usize>,
    jobs: RefCell<Vec<JobHistory>>,
}

impl Load {
    /// Submitters for a fleet with controllers behind these doors and so many hosts.
    pub(crate) fn new(doors: Vec<Client>, witness: Witness, hosts: usize, began: Instant, until: watch::Receiver<Until>) -> Self {
        Self { doors, witness, hosts, began, until, n_submitted: Cell::new(0), jobs: RefCell::default() }
    }

    /// Submits with so many on their way at once, until it is told to stop and all have ended or were given up.
    pub(crate) async fn run(&self, in_flight: usize) {
        join_all((0..in_flight).map(|_| self.submitter())).await;
    }

    /// What is known of the jobs so far.
    pub(crate) fn jobs(&self) -> Vec<JobHistory> {
        self.jobs.borrow().clone()
    }

    /// Reads every job again from every controller, alone and in its lists, and gives all that is known.
    pub(crate) async fn read_again(&self) -> Vec<JobHistory> {
        let mut jobs = self.jobs();
        for door in &self.doors {
            let end = Instant::now() + READ_WITHIN;
            let mut read: Vec<_> =
                futures::stream::iter(std::mem::take(&mut jobs)).map(|job| self.again(door, end, job)).buffered(READERS).collect().await;
            self.compare_list(door, &mut read).await;
            jobs = read;
        }
        jobs
    }

    async fn submitter(&self) {
        while *self.until.borrow() == Until::Told {
            let n = self.n_submitted.replace(self.n_submitted.get() + 1);
            let job = self.one(n).await;
            self.jobs.borrow_mut().push(job);
        }
    }

    async fn one(&self, n: usize) -> JobHistory {
        let policy = if n.is_multiple_of(ONCE) { Policy::Once } else { Policy::Again };
        let target = match n % KINDS {
            3 => "_all".to_owned(),
            7 => GROUP.to_owned(),
            10 => format!("_any@{GROUP}"),
            _ if n.is_multiple_of(2) => "_any".to_owned(),
            _ => format!("host-{}", n / 2 % self.hosts),
        };
        let mut job = JobHistory::new(format!("job-{n}"), policy, target, self.began.elapsed());
        let is_cancelled = n % CANCELLED == CANCELLED - 1;
        let work = if is_cancelled {
            "sleep 3"
        } else if n.is_multiple_of(SLOW) {
            "sleep 0.2"
        } else {
            "true"
        };
        let request = JobRequest {
            target: job.target.clone(),
            idempotency_key: Some(job.label.clone()),
            timeout: Some("20s".to_owned()),
            retry: (policy == Policy::Again).then(|| RetryRequest { max_attempts: 50, backoff: Some(vec!["100ms".to_owned()]) }),
            ..Client::request("command.shell", self.arguments(&job, work))
        };
        let Some(id) = self.accepted(n, &request, &mut job).await else { return job };
        if n % SENT_AGAIN == SENT_AGAIN - 1 {
            // Through the next controller, if there is one: whoever takes it must know the key.
            self.accepted(n + 1, &request, &mut job).await;
        }
        if is_cancelled {
            // Some before it starts, some while it runs.
            tokio::time::sleep(Duration::from_millis(n as u64 / 10 % 8 * 50)).await;
            self.cancelled(n, id, &mut job).await;
        }
        while job.ends.is_empty() {
            let Some(view) = self.call(n, &mut job, |door| async move { door.job(id, Some(WAIT)).await }).await else { break };
            self.note(&mut job, &view);
        }
        job
    }

    /// Work of which each host writes down that it does it, under a name of its own if there are several.
    fn arguments(&self, job: &JobHistory, work: &str) -> Value {
        if !job.is_for_several {
            return json!({ "command": self.witness.script(&job.label, work) });
        }
        // A word of the witness file until the script is written, and the host's own name then.
        let script = self.witness.script(&label_at(&job.label, "WHERE"), work);
        json!({ "command": script.replace(".WHERE ", ".$WHERE "), "env": { "WHERE": "@fact.hostname" } })
    }

    async fn accepted(&self, n: usize, request: &JobRequest, job: &mut JobHistory) -> Option<JobId> {
        let view = self.call(n, job, |door| async move { door.submit(request, None).await }).await?;
        job.accepted.get_or_insert_with(|| self.began.elapsed());
        job.ids.insert(view.id.to_string());
        self.note(job, &view);
        Some(view.id)
    }

    async fn cancelled(&self, n: usize, id: JobId, job: &mut JobHistory) {
        if let Some(view) = self.call(n, job, |door| async move { door.cancel(id).await }).await {
            job.cancelled = true;
            self.note(job, &view.job);
        }
    }

    fn note(&self, job: &mut JobHistory, view: &JobView) {
        if !job.note(view, self.began.elapsed()) {
            return;
        }
        if job.is_for_several {
            let hosts = view.executions.iter().filter_map(|execution| execution.hostname.as_deref());
            hosts.for_each(|hostname| self.witness.note_seen(&label_at(&job.label, hostname)));
        } else {
            self.witness.note_seen(&job.label);
        }
    }

    /// Makes a call again and again, each time at the next door, until one answers well or it is time to give up.
    async fn call<T, F>(&self, n: usize, job: &mut JobHistory, make: impl Fn(Client) -> F) -> Option<T>
    where
        F: Future<Output = Result<T, longshore_client::Error>>,
    {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        for door in n.. {
            if matches!(*self.until.borrow(), Until::Drained(end) if Instant::now() > end) {
                return None;
            }
            match tokio::time::timeout(WAIT + CALL, make(self.doors[door % self.doors.len()].clone())).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => job.last_error = Some(chain(&error)),
                Err(_) => job.last_error = Some(format!("no answer within {:?}", WAIT + CALL)),
            }
            job.n_repeats += 1;
            tokio::time::sleep(backoff.next_wait()).await;
        }
        None
    }

    /// A controller that does not answer is waited for until `end`, once and not for each job.
    async fn again(&self, door: &Client, end: Instant, mut job: JobHistory) -> JobHistory {
        for id in job.ids.clone() {
            let Ok(id) = id.parse::<JobId>() else { continue };
            loop {
                match door.job(id, None).await {
                    Ok(view) => {
                        self.note(&mut job, &view);
                        break;
                    }
                    Err(error) if Instant::now() > end => {
                        job.unread = Some(format!("{}: {}", door.url(), chain(&error)));
                        break;
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        }
        job
    }

    /// Lists follow the ledger, so they are given a while.
    async fn compare_list(&self, door: &Client, jobs: &mut [JobHistory]) {
        let since = Instant::now();
        loop {
            let listed = match list(door).await {
                Ok(listed) => listed,
                Err(error) if since.elapsed() > READ_WITHIN => {
                    // Of no job in particular, and told once.
                    if let Some(job) = jobs.first_mut() {
                        job.unread = Some(format!("the list at {}: {}", door.url(), chain(&error)));
                    }
                    return;
                }
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            };
            let differs = |job: &&mut JobHistory| {
                let end = job.ends.last();
                end.is_some_and(|end| job.ids.iter().any(|id| listed.get(id) != Some(&end.status)))
            };
            let differing: Vec<_> = jobs.iter_mut().filter(differs).collect();
            if differing.is_empty() {
                return;
            }
            if since.elapsed() > READ_WITHIN {
                for job in differing {
                    job.listed = Some(job.ids.iter().map(|id| listed.get(id).cloned().unwrap_or_default()).collect());
                }
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// The status of every job, by the list.
async fn list(door: &Client) -> Result<BTreeMap<String, String>, longshore_client::Error> {
    let mut listed = BTreeMap::new();
    let mut filter = JobFilter { limit: Some(1000), ..JobFilter::default() };
    loop {
        let page = door.jobs(&filter).await?;
        listed.extend(page.items.iter().map(|job| (job.id.to_string(), job.status.as_str().to_owned())));
        match page.next_cursor {
            Some(cursor) => filter.cursor = Some(cursor),
            None => return Ok(listed),
        }
    }
}
