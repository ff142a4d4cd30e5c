//! Operations of the catalogue, for the controller that the worker is attached to: everything that an agent does, by the same executor.
//!
//! Bundles and archives do not go over the session but over HTTP ([`courier`]), with a pass that came with the task; output goes as feedback
//! ([`output`]). Whether anybody else may ask for operations is decided before this: only a peer that said that it is a Longshore may.

mod courier;
mod output;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use longshore_exec::{Config as ExecConfig, Executor, Finished, Machine, SupervisorCommand, Task as Attempt};
use longshore_model::fact::FactValues;
use longshore_model::job::Job;
use longshore_model::limits::DRIVE_PATIENCE;
use longshore_model::operation::{Call, Operation};
use longshore_model::wire::attached::{FEATURE, FinishedFrame, OperationFrame};
use longshore_model::wire::facts::{AgentFacts, Facts};
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Failure, Outcome as Ended};
use longshore_model::{AgentId, ExecutionId, Label};
use longshore_seal::{OpeningKeys, TrustedKeys};
use longshore_session::Payload;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::dial::{Dialer, DialerError};
use super::frames::{OWN_PACKAGE, object};
use super::handlers::{Door, Fault, FaultKind, Handlers, Install, Inventory, Outcome, Status, Task};
use super::packages::PackageHandlers;
use super::settings::Settings;
use crate::attempt::unfetched;
use crate::trust::{self, Reader};
use courier::Courier;

/// How long a process may ignore SIGTERM.
const KILL_GRACE: Duration = Duration::from_secs(10);
/// How long an archive waits for the controller, and its job's answer with it.
const STORE_WITHIN: Duration = Duration::from_secs(15 * 60);
/// The same of what was cancelled.
const STORE_CANCELLED_WITHIN: Duration = Duration::from_secs(15);

/// Why operations cannot be performed at all.
#[derive(Debug, thiserror::Error)]
pub enum OperationsError {
    /// The state directory.
    #[error("cannot prepare the host")]
    Host(#[from] longshore_exec::OpenError),
    /// The settings give no way to a controller.
    #[error("cannot connect to any controller")]
    Dialer(#[from] DialerError),
}

/// What a worker opens secrets with, and whom it trusts. Without the latter it runs what its controller hands out.
#[derive(Clone, Default)]
pub struct JobKeys {
    /// Open the secrets of jobs; without them jobs with secrets fail here.
    pub opening: Option<OpeningKeys>,
    /// Controllers that jobs must be signed by.
    pub trusted: Option<TrustedKeys>,
}

/// Runs the handlers of packages, and operations of the catalogue beside them. `package.run` is one of these where it has secrets, which no frame of
/// a dispatch may hold.
pub struct Operations {
    packages: Arc<PackageHandlers>,
    executor: Executor,
    machine: Machine,
    courier: Courier,
    bundles: PathBuf,
    keys: JobKeys,
    hostname: String,
    labels: Vec<Label>,
}

impl Operations {
    /// Prepares the host, and ends what an earlier process of this instance left running. Blocks for milliseconds as a rule; needs a runtime.
    ///
    /// # Errors
    /// A directory that cannot be used, or that another worker uses; an address that is none.
    pub fn open(
        settings: &Settings,
        instance: &str,
        supervisor: SupervisorCommand,
        keys: JobKeys,
        packages: Arc<PackageHandlers>,
    ) -> Result<Self, OperationsError> {
        let state_dir = settings.state_dir_of(instance).join("operations");
        let bundles = state_dir.join("bundles");
        // Nobody asks for what an earlier process fetched.
        let _none_is_well = std::fs::remove_dir_all(&bundles);
        let (kill_grace, drive_patience) = (KILL_GRACE, DRIVE_PATIENCE);
        let executor =
            Executor::open(ExecConfig { state_dir, supervisor, kill_grace, drive_patience, workspaces_dir: None, jobs_dir: None })?;
        executor.run_packages(packages.runner());
        Ok(Self {
            packages,
            executor,
            machine: Machine::default(),
            courier: Courier::new(Dialer::new(settings, super::FRAME_BYTES_MAX)?),
            bundles,
            keys,
            hostname: longshore_exec::host_name(),
            labels: settings.feature_flags.iter().filter_map(|word| word.parse().ok()).collect(),
        })
    }

    /// Waits until nothing is performed or tidied up any more. Safe to repeat.
    pub async fn close(&self) {
        self.executor.close().await;
    }

    async fn perform(&self, frame: OperationFrame, said: mpsc::Sender<Payload>, stop: CancellationToken) -> Finished {
        let OperationFrame { execution, attempt, definition, fence, pass, .. } = frame;
        let ExecutionId::Agent(agent) = execution else {
            return failed(ErrorCode::Internal, "an operation for a worker is for that worker alone".to_owned());
        };
        let reader =
            Reader { agent, labels: &self.labels, trusted_keys: self.keys.trusted.as_ref(), opening_keys: self.keys.opening.as_ref() };
        let secrets = match trust::check_for(&reader, &definition) {
            Ok(secrets) => secrets,
            Err(refused) => return unfetched(refused.on(&self.hostname), false),
        };
        let mut job = match Job::try_from(definition) {
            Ok(job) => job,
            Err(error) => return failed(ErrorCode::Unsupported, format!("this version of the worker cannot take the job: {error}")),
        };
        if let Err(failure) = self.fill(&mut job, agent).await {
            return unfetched(failure, false);
        }
        if let Some(place) = job.call.secrets_mut() {
            *place = secrets;
        }
        let bundle = match self.fetch(&job, attempt, pass.as_deref(), &stop).await {
            Ok(bundle) => bundle,
            Err(finished) => return *finished,
        };
        let (sink, source) = output::channel();
        let path = bundle.as_ref().map(|bundle| bundle.path().to_owned());
        let run = Attempt { job: job.clone(), execution, attempt, fence, hostname: self.hostname.clone(), bundle: path };
        let work = async {
            let mut finished = self.executor.run(run, sink, stop.clone()).await;
            if let Some(archive) = finished.archive.take() {
                let within = if stop.is_cancelled() { STORE_CANCELLED_WITHIN } else { STORE_WITHIN };
                let stored = self.courier.bring(pass.as_deref(), &archive, Instant::now() + within, &stop).await;
                if let Err(failure) = stored
                    && finished.outcome == Ended::Completed
                {
                    (finished.outcome, finished.failure) = (Ended::Failed, Some(failure));
                }
            }
            finished
        };
        // The sink is gone with the work, and then the source ends: output first, so that a reader who sees the end has seen everything before it.
        let (finished, ()) = tokio::join!(work, source.send(&said));
        finished
    }

    /// Puts the host's facts into the arguments.
    async fn fill(&self, job: &mut Job, agent: AgentId) -> Result<(), Failure> {
        let Call::WithFacts(template) = &job.call else { return Ok(()) };
        let (machine, hostname) = (self.machine.clone(), self.hostname.clone());
        let found = tokio::task::spawn_blocking(move || machine.facts(&hostname)).await.unwrap_or_default();
        let label = |label: &Label| (label.key().to_owned(), label.segments().collect::<Vec<_>>().join("."));
        let facts = Facts {
            agent: AgentFacts { id: agent.to_string(), version: env!("CARGO_PKG_VERSION").to_owned() },
            label: self.labels.iter().map(label).collect(),
            ..found
        };
        job.call =
            template.fill(&FactValues::of(&facts)).map_err(|error| Failure { code: ErrorCode::Validation, message: error.to_string() })?;
        Ok(())
    }

    async fn fetch(
        &self,
        job: &Job,
        attempt: u32,
        pass: Option<&str>,
        stop: &CancellationToken,
    ) -> Result<Option<courier::LocalFile>, Box<Finished>> {
        let Some(sha256) = job.call.bundle() else { return Ok(None) };
        let path = self.bundles.join(format!("{}.{attempt}.bundle", job.id));
        let fetching = self.courier.fetch(pass, sha256, path, Instant::now() + job.timeout);
        match stop.run_until_cancelled(fetching).await {
            Some(Ok(bundle)) => Ok(Some(bundle)),
            Some(Err((failure, is_transient))) => Err(Box::new(unfetched(failure, is_transient))),
            // Nothing has been started, so nothing can be left.
            None => {
                let failure = Failure { code: ErrorCode::Cancelled, message: "cancelled before it was started".to_owned() };
                let finished = Finished { outcome: Ended::Cancelled, cancel_verified: Some(true), ..unfetched(failure, false) };
                Err(Box::new(finished))
            }
        }
    }
}

fn failed(code: ErrorCode, message: String) -> Finished {
    unfetched(Failure { code, message }, false)
}

#[async_trait]
impl Handlers for Operations {
    async fn run(&self, task: Task, door: Door, stop: CancellationToken) -> Result<Outcome, Fault> {
        if task.package_name != OWN_PACKAGE {
            return self.packages.run(task, door, stop).await;
        }
        let began = Instant::now();
        let frame = OperationFrame::deserialize(Value::Object(task.parameters))
            .map_err(|error| Fault { kind: FaultKind::Failed, message: format!("the operation cannot be read: {error}") })?;
        let finished = self.perform(frame, door.feedback, stop).await;
        let Finished { outcome, changed, result, failure: error, transient, cancel_verified, .. } = finished;
        let frame = FinishedFrame { outcome, changed, result, error, transient, cancel_verified };
        // The task has ended as a task should; how the operation ended is what it gave.
        let (status, metadata) = (Status::Succeeded, Payload::new());
        Ok(Outcome { status, result: object(&frame), metadata, artifacts: Vec::new(), duration: began.elapsed() })
    }

    async fn install(&self, install: Install) -> Result<Payload, Payload> {
        self.packages.install(install).await
    }

    async fn uninstall(&self, name: String, version: Option<String>) -> Result<Payload, Payload> {
        self.packages.uninstall(name, version).await
    }

    fn inventory(&self) -> Option<Inventory> {
        self.packages.inventory()
    }

    fn metrics(&self) -> Payload {
        self.packages.metrics()
    }

    fn features(&self) -> Vec<String> {
        // Packages are managed in the session's own words; runs of their nodes come so too, but for those with secrets.
        let named = Operation::ALL.into_iter().filter(|operation| !operation.manages_packages());
        named.map(|operation| format!("{FEATURE}{}", operation.name())).chain(self.packages.features()).collect()
    }
}
