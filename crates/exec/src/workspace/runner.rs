//! Runs the steps of a job on a shared drive, in the way in which those of every workspace job are run ([`mod@super::run`]).
//!
//! Such a job has a name instead of an id and belongs to no fleet, so what the steps are told of it is put together here. What they
//! inherit is the caller's to choose.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use longshore_model::job::Job;
use longshore_model::limits::DRIVE_PATIENCE;
use longshore_model::operation::{Call, WorkspaceRun};
use longshore_model::retry::RetryPolicy;
use longshore_model::wire::result::StepResult;
use longshore_model::{DirectoryName, ExecutionId, JobId, Target};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::beside::Workspace;
use super::run;
use crate::executor::Host;
use crate::finished::Finished;
use crate::machine::Machine;
use crate::process::{Launcher, Nursery, Stops};
use crate::{Output, SupervisorCommand, Task};

/// Runs steps. Cheap to clone. For runtimes with one thread: a process that keeps supervisors ready ends with the thread that first uses it.
#[derive(Debug, Clone)]
pub struct Runner {
    supervisor: SupervisorCommand,
    kill_grace: Duration,
    environment: BTreeMap<String, String>,
    nursery: Arc<Nursery>,
    /// How long the drive with the results may be silent after a job was to end.
    pub drive_patience: Duration,
}

/// Steps that have ended, and all their processes with them as far as [`Self::verified`] says so.
#[derive(Debug)]
pub struct Ran {
    /// Each that started, in order.
    pub steps: Vec<StepResult>,
    /// How the job ends, if it does not end well; without a result.
    pub end: Option<Finished>,
    /// Whether every process is known to be gone.
    pub verified: bool,
}

impl Runner {
    /// `supervisor` starts a supervisor; a process may ignore SIGTERM for `kill_grace` before SIGKILL; every step inherits `environment`, and
    /// what a job or a step says goes before it. Starts nothing.
    #[must_use]
    pub fn new(supervisor: SupervisorCommand, kill_grace: Duration, environment: BTreeMap<String, String>) -> Self {
        let nursery = Arc::new(Nursery::new(supervisor.clone()));
        Self { supervisor, kill_grace, environment, nursery, drive_patience: DRIVE_PATIENCE }
    }

    /// Starts what makes the first step start sooner. Needs a tokio runtime. Safe to repeat, and not needed.
    pub fn prepare(&self) {
        if let Err(error) = self.nursery.start() {
            tracing::debug!(%error, "supervisors are not kept ready");
        }
    }

    /// Runs the steps in the workspace, each with its log in the results, until one fails that may not, `deadline` passes, or `cancel`.
    /// `limit` is what the deadline was made from, for messages. Dropping the future ends the processes at once.
    pub async fn run(
        &self,
        workspace: &Workspace,
        id: &DirectoryName,
        run: &WorkspaceRun,
        (deadline, limit): (Instant, Duration),
        output: Arc<dyn Output>,
        cancel: CancellationToken,
    ) -> Ran {
        let host = self.host(workspace);
        let mut run = run.clone();
        for step in &mut run.steps {
            let mut env = self.environment.clone();
            env.insert("LONGSHORE_JOB_ID".to_owned(), id.to_string());
            env.append(&mut step.env);
            step.env = env;
        }
        // The token is cancelled by nobody but a caller who drops this.
        let abandon = CancellationToken::new();
        let stops = Stops { cancel, abandon: abandon.clone(), deadline };
        let _abandoned_with_this_future = abandon.drop_guard();
        let place = (&workspace.place, workspace.temporary());
        let run::Steps { results, logs, end, verified } = run::steps(&host, &task(limit), &run, output, &stops, place).await;
        // Closing them may wait for their drive.
        let _left_alone = host.watch(&stops).over(move |_| drop(logs)).await;
        Ran { steps: results, end, verified }
    }

    /// What is started for a workspace carries its path, by which it is found if this process is killed.
    fn host(&self, workspace: &Workspace) -> Host {
        let own = |name: &str| self.environment.get(name).filter(|value| !value.is_empty()).cloned();
        let state_dir = workspace.path().to_string_lossy().into_owned();
        let host = Host::new(
            Launcher {
                supervisor: self.supervisor.clone(),
                kill_grace: self.kill_grace,
                state_dir,
                nursery: Some(Arc::clone(&self.nursery)),
            },
            (PathBuf::new(), PathBuf::new()),
            own("HOME"),
            Machine { path: own("PATH"), ..Machine::default() },
        );
        Host { drive_patience: self.drive_patience, ..host }
    }
}

/// The steps' place in a fleet, which there is none of: nothing of it is shown.
fn task(timeout: Duration) -> Task {
    let job = Job {
        id: JobId::from_bits(0),
        call: Call::NodeUptimeGet,
        target: Target::Any,
        executions: vec![ExecutionId::Any],
        timeout,
        not_before: None,
        expires_at: Timestamp::MAX,
        retry: RetryPolicy::once(),
        concurrency_key: None,
        annotations: BTreeMap::new(),
        submitted_by: String::new(),
        submitted_at: Timestamp::UNIX_EPOCH,
        retry_of: None,
        sealed_for: None,
    };
    Task { job, execution: ExecutionId::Any, attempt: 0, fence: None, hostname: String::new(), bundle: None }
}
