//! What a client saw of its jobs. Nothing here is the product's own opinion of what it saw earlier.

use std::collections::BTreeSet;
use std::time::Duration;

use longshore_model::wire::rest::{ExecutionView, JobView};
use serde::Serialize;
use serde_json::{Value, json};

/// How often a job may be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Policy {
    /// Again, when its agent is gone.
    Again,
    /// Once, whatever happens.
    Once,
}

/// One job from its first submission to the last reading. Times count from the beginning of the load.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct JobHistory {
    /// Its name in the witness file, and its idempotency key.
    pub(crate) label: String,
    pub(crate) policy: Policy,
    pub(crate) target: String,
    /// Whether each host that does it writes down a name of its own: [`label_at`].
    pub(crate) is_for_several: bool,
    pub(crate) submitted: Duration,
    /// When its acceptance was known.
    pub(crate) accepted: Option<Duration>,
    /// When its end was known.
    pub(crate) ended: Option<Duration>,
    /// What it was called by each acceptance; one name, if all is well.
    pub(crate) ids: BTreeSet<String>,
    /// Each reading of its end that differs from the one before, oldest first.
    pub(crate) ends: Vec<End>,
    /// Whether its cancel was acknowledged.
    pub(crate) cancelled: bool,
    /// How often it was sent after a failure.
    pub(crate) n_repeats: u32,
    /// Why the last call failed, if one did.
    pub(crate) last_error: Option<String>,
    /// A controller that could not be read from at the end, and why.
    pub(crate) unread: Option<String>,
    /// The status by which a list showed it at the end, where that is not the one of the job itself; "" where it was missing.
    pub(crate) listed: Option<String>,
}

/// A reading of a job that has ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct End {
    /// Of the job.
    pub(crate) status: String,
    /// One, or one for each host that it is for.
    pub(crate) shares: Vec<Share>,
}

/// A reading of an execution that has ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Share {
    /// `any`, or the agent's id.
    pub(crate) id: String,
    /// Who had it last, if anybody.
    pub(crate) hostname: Option<String>,
    pub(crate) state: String,
    pub(crate) attempts: u32,
    /// All else that must not change.
    pub(crate) answer: Value,
}

/// What a host writes down of a job for several.
pub(crate) fn label_at(label: &str, hostname: &str) -> String {
    format!("{label}.{hostname}")
}

impl JobHistory {
    /// One that is about to be submitted.
    pub(crate) fn new(label: String, policy: Policy, target: String, submitted: Duration) -> Self {
        Self {
            label,
            policy,
            is_for_several: target == "_all" || (target.contains(':') && !target.starts_with("_any@")),
            target,
            submitted,
            accepted: None,
            ended: None,
            ids: BTreeSet::new(),
            ends: Vec::new(),
            cancelled: false,
            n_repeats: 0,
            last_error: None,
            unread: None,
            listed: None,
        }
    }

    /// Notes a reading, unless it is that of a job that had not ended. Gives whether it is the first of its end.
    pub(crate) fn note(&mut self, view: &JobView, at: Duration) -> bool {
        if !view.status.is_final() {
            return false;
        }
        self.ended.get_or_insert(at);
        let (is_first, end) = (self.ends.is_empty(), End::of(view));
        if self.ends.last() != Some(&end) {
            self.ends.push(end);
        }
        is_first
    }
}

impl End {
    fn of(view: &JobView) -> Self {
        // A cancel that came too late may still be recorded, and is no part of the answer.
        let share = |execution: &ExecutionView| Share {
            id: execution.id.to_string(),
            hostname: execution.hostname.clone(),
            state: execution.state.as_str().to_owned(),
            attempts: execution.attempts,
            answer: json!({
                "agent": execution.agent, "result": execution.result, "error": execution.error, "changed": execution.changed,
                "cancel_verified": execution.cancel_verified, "finished_at": execution.finished_at,
            }),
        };
        let mut shares: Vec<Share> = view.executions.iter().map(share).collect();
        shares.sort_by(|one, other| one.id.cmp(&other.id));
        Self { status: view.status.as_str().to_owned(), shares }
    }
}
