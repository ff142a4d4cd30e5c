//! One request from its claim to its end at the broker.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longshore_exec::workspace::{Hold, HoldError, Workspace};
use longshore_model::DirectoryName;
use longshore_model::wire::problem::chain;
use longshore_model::wire::stand_alone::Response;
use longshore_store::jetstream::stand_alone::{Request, Requests, Routes, Terms};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Config;
use super::job::{NotNow, Offer, Performed, perform, read};
use super::manifest::refusal;

/// How long a name that is just being given back is waited for.
const HOLD_WITHIN: Duration = Duration::from_secs(1);
const HOLD_PAUSE: Duration = Duration::from_millis(10);
/// The longest between two extensions of a claim.
const EXTEND_MAX: Duration = Duration::from_secs(30);
/// The shortest.
const EXTEND_MIN: Duration = Duration::from_millis(10);
/// Between tries to tell the broker something.
const PAUSE: Duration = Duration::from_millis(250);
/// How long a broker that is there may refuse a response, a full stream say, before the request is given back. What is on disk by
/// then is not run again.
const RESPOND_WITHIN: Duration = Duration::from_secs(60);
/// How often a broker that is there is told the end of a request that it does not confirm.
const TELL_MAX: usize = 5;

/// The right to run a job in this worker.
pub(super) type Slot = OwnedSemaphorePermit;

/// What every request of a worker shares.
pub(super) struct Worker {
    pub(super) config: Config,
    pub(super) requests: Requests,
    /// What the consumer promises.
    pub(super) terms: Terms,
    /// Ends what runs.
    pub(super) stop: CancellationToken,
}

/// How a request left this worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Left {
    /// It was done, and its response is with the broker.
    Done,
    /// It can never be done; why.
    Refused(String),
    /// It was given back, as this worker could not do it; why.
    Failed(String),
    /// It was given back or dropped for others, without anybody's fault.
    Passed,
}

impl Worker {
    /// Carries a request to its end. A worker that stays may take another one when this is answered: all that is left then is to tell the broker
    /// and to tidy up.
    pub(super) async fn deliver(&self, request: Request, slot: Option<Slot>) -> Left {
        let request = Arc::new(request);
        let _extending = self.extend(&request);
        let asked = match read(request.payload()) {
            Ok(asked) => asked,
            Err(refused) => {
                tracing::warn!(reason = %refused.reason, "refused a request");
                if let Some(id) = &refused.id {
                    let routes = self.requests.routes(self.subjects(id)).await;
                    if let Err(left) = self.respond(&request, &routes, &refusal(id, &refused.reason)).await {
                        return left;
                    }
                }
                self.tell(|| request.refuse(&refused.reason)).await;
                return Left::Refused(refused.reason);
            }
        };
        let hold = match self.hold(&asked.id, request.token()).await {
            Ok(hold) => Arc::new(hold),
            Err(not_now) => {
                let routes = self.requests.routes(self.subjects(asked.id.as_str())).await;
                return self.give_back(&request, &routes, asked.id.as_str(), &not_now).await;
            }
        };
        let offer = Offer { asked: Some(request.asked().clone()), attempt: request.delivered() };
        let is_open = async {
            request.is_open().await.unwrap_or_else(|error| {
                tracing::debug!(error = %chain(&error), "could not look whether the request is open still");
                true
            })
        };
        tracing::info!(job.id = %asked.id, sequence = request.asked().sequence, delivered = request.delivered(), "took a job");
        let performing = perform(&self.config, &asked, offer, &hold, is_open, &self.stop);
        let (routes, performed) = tokio::join!(self.requests.routes(self.subjects(asked.id.as_str())), performing);
        let left = self.finish(&request, &routes, asked.id.as_str(), performed, slot).await;
        tracing::info!(job.id = %asked.id, ?left, "a job has left");
        self.let_go(hold, &left).await;
        left
    }

    async fn finish(&self, request: &Request, routes: &Routes, id: &str, performed: Performed, slot: Option<Slot>) -> Left {
        match performed {
            Performed::Answered { response, workspace } => {
                let (responded, ()) = tokio::join!(self.respond_and_end(request, routes, &response, slot), clean(workspace));
                responded
            }
            Performed::Stored(response) => {
                tracing::info!(job.id = response.id, "the job had run for this message; its response is published again");
                self.respond_and_end(request, routes, &response, slot).await
            }
            Performed::Refused { response, reason } => {
                if let Err(left) = self.respond(request, routes, &response).await {
                    return left;
                }
                self.tell(|| request.refuse(&reason)).await;
                Left::Refused(reason)
            }
            Performed::NotNow(not_now) => self.give_back(request, routes, id, &not_now).await,
            Performed::Gone => {
                tracing::info!("the request was ended by somebody else; it is not run");
                self.tell(|| request.done()).await;
                Left::Passed
            }
        }
    }

    async fn respond_and_end(&self, request: &Request, routes: &Routes, response: &Response, slot: Option<Slot>) -> Left {
        if let Err(left) = self.respond(request, routes, response).await {
            return left;
        }
        drop(slot);
        self.tell(|| request.done()).await;
        Left::Done
    }

    /// Publishes the response, however long the broker is away.
    async fn respond(&self, request: &Request, routes: &Routes, response: &Response) -> Result<(), Left> {
        let payload = match serde_json::to_vec(response) {
            Ok(json) => Bytes::from(json),
            Err(error) => return Err(Left::Failed(format!("could not write the response: {error}"))),
        };
        // One for all tries of this publication, and of no other: a second delivery is published again.
        let id = format!("{:016x}", RandomState::new().hash_one(request.token()));
        let mut refused_since = None;
        loop {
            let Err(error) = self.requests.respond(routes, &payload, &id).await else { return Ok(()) };
            if !self.requests.is_connected() {
                refused_since = None;
            } else if refused_since.get_or_insert_with(Instant::now).elapsed() > RESPOND_WITHIN {
                let fault = NotNow::fault(format!("could not publish the response: {}", chain(&error)));
                return Err(self.hand_back(request, &fault).await);
            }
            tracing::debug!(error = %chain(&error), "the response is published again");
            tokio::select! {
                () = self.stop.cancelled() => {
                    // Said once: a broker that is away is told by the next start.
                    self.tell(|| request.give_back(Duration::ZERO)).await;
                    return Err(Left::Failed("the worker ended before its broker was back; the next delivery is answered from disk".to_owned()));
                }
                () = sleep(PAUSE) => {}
            }
        }
    }

    /// Gives it back, if anybody is offered it then; else this was its last chance, and whoever asked is told.
    async fn give_back(&self, request: &Request, routes: &Routes, id: &str, not_now: &NotNow) -> Left {
        if self.terms.deliveries_max.is_none_or(|max| request.delivered() < max) {
            return self.hand_back(request, not_now).await;
        }
        let reason = format!("{}; its consumer offers it no more", not_now.reason);
        tracing::error!(reason, "a job could not be done, and this was the last time it was offered");
        if let Err(left) = self.respond(request, routes, &refusal(id, &reason)).await {
            return left;
        }
        self.tell(|| request.refuse(&reason)).await;
        Left::Failed(reason)
    }

    async fn hand_back(&self, request: &Request, NotNow { reason, delay, is_fault }: &NotNow) -> Left {
        let (delay, is_fault) = (*delay, *is_fault);
        if is_fault {
            tracing::error!(reason, "a job could not be done here and is given back");
        } else {
            tracing::info!(reason, "a job is given back");
        }
        self.tell(|| request.give_back(delay)).await;
        if is_fault { Left::Failed(reason.clone()) } else { Left::Passed }
    }

    /// Tells the broker how a request ends, until it has confirmed it. What it never confirms it offers again.
    async fn tell<F: Future<Output = Result<(), longshore_store::Error>>>(&self, tell: impl Fn() -> F) {
        let mut unconfirmed = 0;
        while let Err(error) = tell().await {
            unconfirmed += usize::from(self.requests.is_connected());
            if unconfirmed >= TELL_MAX || self.stop.is_cancelled() {
                tracing::warn!(error = %chain(&error), "the broker did not confirm the end of a request");
                return;
            }
            sleep(PAUSE).await;
        }
    }

    async fn hold(&self, id: &DirectoryName, token: &str) -> Result<Hold, NotNow> {
        let deadline = Instant::now() + HOLD_WITHIN;
        loop {
            let (dir, id, token) = (self.config.workspaces_dir.clone(), id.clone(), token.to_owned());
            let taken = spawn_blocking(move || Hold::take(&dir, &id, &token)).await;
            match taken {
                Ok(Ok(hold)) => return Ok(hold),
                Ok(Err(HoldError::Busy { .. })) if Instant::now() < deadline => sleep(HOLD_PAUSE).await,
                Ok(Err(error @ HoldError::Busy { .. })) => return Err(NotNow::busy(format!("could not {}", chain(&error)))),
                Ok(Err(error)) => return Err(NotNow::fault(format!("could not {}", chain(&error)))),
                Err(error) => return Err(NotNow::fault(format!("could not use the workspace: {error}"))),
            }
        }
    }

    /// Gives the job's name back. What this worker did not get to say is left for its next start.
    async fn let_go(&self, hold: Arc<Hold>, left: &Left) {
        let is_told = match left {
            Left::Done | Left::Refused(_) | Left::Passed => true,
            Left::Failed(_) => self.requests.is_connected(),
        };
        let letting_go = spawn_blocking(move || match Arc::into_inner(hold) {
            Some(hold) if is_told => hold.end(),
            other => drop(other),
        });
        // A panic there leaves a note, which the next start finds.
        let _noted = letting_go.await;
    }

    fn subjects(&self, id: &str) -> Vec<String> {
        vec![self.config.output_subject.clone(), format!("{}.{id}", self.config.output_subject)]
    }

    /// Extends the claim until it is dropped.
    fn extend(&self, request: &Arc<Request>) -> AbortOnDropHandle<()> {
        let (request, every) = (Arc::clone(request), (self.terms.claim / 3).clamp(EXTEND_MIN, EXTEND_MAX));
        #[expect(clippy::disallowed_methods, reason = "the handle below owns the task")]
        let extending: JoinHandle<()> = tokio::task::spawn(async move {
            loop {
                sleep(every).await;
                request.extend().await;
            }
        });
        AbortOnDropHandle::new(extending)
    }
}

async fn clean(workspace: Option<Workspace>) {
    // A panic there leaves the workspace, which the next who uses the name removes.
    let _left = spawn_blocking(move || drop(workspace)).await;
}
