//! What a carrier is told and what it tells.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use longshore_model::ExecutionId;
use longshore_model::limits::DRIVE_PATIENCE;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Definition, Failure, Outcome};
use longshore_model::wire::result::ArchiveInfo;
use serde::{Deserialize, Serialize};

use super::SCHEMA;
use super::directory::Directory;
use crate::executor::{Host, Task};
use crate::finished::{Archive, Finished};

/// The first line to a carrier. Holds secrets in the clear, and goes through its socket only.
#[derive(Serialize, Deserialize)]
pub(crate) struct Errand {
    pub(crate) definition: Definition,
    pub(crate) secrets: BTreeMap<String, String>,
    pub(crate) execution: ExecutionId,
    pub(crate) attempt: u32,
    pub(crate) fence: Option<u64>,
    pub(crate) hostname: String,
    pub(crate) bundle: Option<PathBuf>,
    /// Whose directories it may name as its source.
    #[serde(default)]
    pub(crate) jobs_dir: Option<PathBuf>,
    /// The job's own.
    pub(crate) directory: PathBuf,
    pub(crate) supervisor: PathBuf,
    pub(crate) supervisor_args: Vec<OsString>,
    pub(crate) kill_grace_ms: u64,
    /// How long it goes on without an agent.
    pub(crate) patience_ms: u64,
    /// How long a drive may be silent after the job was to end.
    #[serde(default = "usual_drive_patience_ms")]
    pub(crate) drive_patience_ms: u64,
    pub(crate) home: String,
    pub(crate) path: String,
}

impl Errand {
    /// What `task`, whose secrets are these, comes to for a carrier in `directory`.
    pub(crate) fn new(host: &Host, task: &Task, secrets: BTreeMap<String, String>, directory: &Directory) -> Self {
        let mut job = task.job.clone();
        // A definition would mask them.
        job.call.secrets_mut().map(std::mem::take);
        Self {
            definition: Definition::from(&job),
            secrets,
            execution: task.execution,
            attempt: task.attempt,
            fence: task.fence,
            hostname: task.hostname.clone(),
            bundle: task.bundle.as_deref().map(|bundle| directory.keep_bundle(bundle)),
            jobs_dir: host.jobs_dir.clone(),
            directory: directory.path().to_owned(),
            supervisor: host.launcher.supervisor.program.clone(),
            supervisor_args: host.launcher.supervisor.args.clone(),
            kill_grace_ms: millis(host.launcher.kill_grace),
            patience_ms: millis(host.patience),
            drive_patience_ms: millis(host.drive_patience),
            home: host.home.clone(),
            path: host.path.clone(),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// For an agent of an earlier version, which started this program after it was replaced.
fn usual_drive_patience_ms() -> u64 {
    millis(DRIVE_PATIENCE)
}

/// A line to a carrier after the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CarrierOrder {
    /// End the steps, and bring back what there is.
    Cancel,
    /// End everything at once: nobody waits for it.
    Abandon,
}

/// How the job ended: what its carrier leaves as its last word.
#[derive(Serialize, Deserialize)]
pub(crate) struct Ended {
    schema: u32,
    outcome: Outcome,
    changed: Option<bool>,
    result: Option<serde_json::Value>,
    code: Option<ErrorCode>,
    message: Option<String>,
    transient: bool,
    cancel_verified: Option<bool>,
    archive: Option<ArchiveInfo>,
    duration_ms: u64,
}

impl Ended {
    /// What is to be told of `finished`; and its archive, which has to be kept until an agent takes it.
    pub(crate) fn of(finished: Finished) -> (Self, Option<Archive>) {
        let Finished { outcome, changed, result, failure, transient, cancel_verified, archive, duration } = finished;
        let (code, message) = failure.map(|Failure { code, message }| (code, message)).unzip();
        let info = archive.as_ref().map(|archive| archive.info().clone());
        let duration_ms = millis(duration);
        let ended =
            Self { schema: SCHEMA, outcome, changed, result, code, message, transient, cancel_verified, archive: info, duration_ms };
        (ended, archive)
    }

    /// Whether this version wrote it.
    pub(crate) fn is_known(&self) -> bool {
        self.schema == SCHEMA
    }

    /// Its archive, if it brought one back.
    pub(crate) fn archive(&self) -> Option<&ArchiveInfo> {
        self.archive.as_ref()
    }

    /// The same as an attempt's end, with its archive where it is now.
    pub(crate) fn finished(self, archive: Option<Archive>) -> Finished {
        let failure = self.code.zip(self.message).map(|(code, message)| Failure { code, message });
        Finished {
            outcome: self.outcome,
            changed: self.changed,
            result: self.result,
            failure,
            transient: self.transient,
            cancel_verified: self.cancel_verified,
            archive,
            duration: Duration::from_millis(self.duration_ms),
        }
    }
}
