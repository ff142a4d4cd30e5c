//! Takes requests: one, or as they come, until it is told to drain.

use std::sync::Arc;
use std::time::Duration;

use longshore_exec::workspace::leftovers;
use longshore_model::wire::problem::chain;
use longshore_store::jetstream::stand_alone::{Pull, Request, Requests};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::delivery::{Left, Slot, Worker};
use super::{Config, Error};

/// Before the next request after one that this host could not do: others may be quicker.
const AFTER_FAULT: Duration = Duration::from_secs(1);

/// How a worker ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It did its job, or was told to end.
    Done,
    /// No job came.
    NoJob,
    /// The request can never be done; it was refused, for that reason.
    Refused(String),
    /// It could not do the job and gave it back, for that reason.
    Failed(String),
}

/// Clears away what killed workers left, hands back what they held, and takes requests. At `drain` it takes no more; at `stop` it ends
/// what still runs and gives it back. Without `stay` it ends after one job, or when none has come.
///
/// # Errors
/// The broker is not there when a job was waited for, or does not serve requests any more.
pub async fn serve(config: Config, requests: Requests, drain: CancellationToken, stop: CancellationToken) -> Result<Ended, Error> {
    give_back_left(&config, &requests).await?;
    let terms = requests.terms().await?;
    let mut pull = requests.pull().await?;
    let stay = config.stay;
    let max_jobs = if stay { config.max_jobs.max(1) } else { 1 };
    let mut server = Server {
        max_jobs,
        slots: Arc::new(Semaphore::new(max_jobs)),
        deadline: (!stay).then(|| Instant::now() + config.idle_max),
        worker: Arc::new(Worker { config, requests, terms, stop }),
        running: JoinSet::new(),
    };
    let ended = server.take(&mut pull, &drain).await;
    let last = pull.close().await;
    match (&ended, stay) {
        (Ok(Ended::NoJob), false) => {
            // It came at the last moment.
            last.into_iter().for_each(|request| server.start(request, None));
            Ok(server.one_left().await.map_or(Ended::NoJob, Ended::from))
        }
        _ => {
            for request in last {
                // The broker offers it again in any case.
                let _later = request.give_back(Duration::ZERO).await;
            }
            while server.one_left().await.is_some() {}
            ended
        }
    }
}

struct Server {
    worker: Arc<Worker>,
    max_jobs: usize,
    /// One for each job that may run.
    slots: Arc<Semaphore>,
    /// Until when a job is waited for.
    deadline: Option<Instant>,
    running: JoinSet<Left>,
}

enum Event {
    Drain,
    Left(Left),
    Request(Result<Option<Request>, longshore_store::Error>, Slot),
    Stray(Request),
}

impl Server {
    async fn take(&mut self, pull: &mut Pull, drain: &CancellationToken) -> Result<Ended, Error> {
        loop {
            // Jobs that have been answered are tidied up while the next run, but not any number of them. One that ends after a job takes no other.
            let has_room = self.running.len() < if self.deadline.is_none() { 2 * self.max_jobs } else { 1 };
            let (is_running, deadline, slots) = (!self.running.is_empty(), self.deadline, Arc::clone(&self.slots));
            let coming = async {
                let slot = tokio::select! {
                    biased;
                    slot = slots.acquire_owned(), if has_room => slot.expect("nobody closes it"),
                    request = pull.stray() => return Event::Stray(request),
                };
                Event::Request(pull.next(deadline).await, slot)
            };
            let event = tokio::select! {
                biased;
                () = drain.cancelled() => Event::Drain,
                left = self.one_left(), if is_running => Event::Left(left.unwrap_or(Left::Passed)),
                event = coming => event,
            };
            match event {
                Event::Drain => return Ok(self.drained().await),
                Event::Left(left) if self.deadline.is_none() => {
                    if matches!(left, Left::Failed(_)) {
                        sleep(AFTER_FAULT).await;
                    }
                }
                // Somebody else's; there may be another.
                Event::Left(Left::Passed) => {}
                Event::Left(left) => return Ok(left.into()),
                Event::Request(Ok(Some(request)), slot) => self.start(request, Some(slot)),
                Event::Stray(request) => {
                    // Should it get lost, its claim runs out.
                    let _later = request.give_back(Duration::ZERO).await;
                }
                Event::Request(Ok(None), _) => return Ok(Ended::NoJob),
                Event::Request(Err(error), _) => return Err(error.into()),
            }
        }
    }

    fn start(&mut self, request: Request, slot: Option<Slot>) {
        let worker = Arc::clone(&self.worker);
        self.running.spawn(async move { worker.deliver(request, slot).await });
    }

    /// How the next of those that run left; nothing if none does. Cancel-safe.
    async fn one_left(&mut self) -> Option<Left> {
        self.running.join_next().await.map(|left| {
            left.unwrap_or_else(|fault| {
                tracing::error!(error = %fault, "a job ended in a fault of ours");
                Left::Failed("a job ended in a fault of the worker; its log has more".to_owned())
            })
        })
    }

    async fn drained(&mut self) -> Ended {
        let mut ended = Ended::Done;
        while let Some(left) = self.one_left().await {
            if self.deadline.is_some() {
                ended = left.into();
            }
        }
        ended
    }
}

impl From<Left> for Ended {
    fn from(left: Left) -> Self {
        match left {
            Left::Done | Left::Passed => Self::Done,
            Left::Refused(reason) => Self::Refused(reason),
            Left::Failed(reason) => Self::Failed(reason),
        }
    }
}

/// Ends, removes and hands back what workers of this queue that were killed have left here.
async fn give_back_left(config: &Config, requests: &Requests) -> Result<(), Error> {
    let (dir, queue) = (config.workspaces_dir.clone(), requests.clone());
    let found = spawn_blocking(move || leftovers(&dir, &|token| queue.is_ours(token))).await;
    let found = found.unwrap_or_else(|fault| std::panic::resume_unwind(fault.into_panic()))?;
    for left in found {
        match requests.give_back_left(&left.note).await {
            Ok(()) => {
                tracing::info!(job.id = %left.id(), "handed back what a killed worker held");
                left.end();
            }
            // Its claim runs out by itself.
            Err(error) => tracing::warn!(error = %chain(&error), "could not hand back what a killed worker held"),
        }
    }
    Ok(())
}
