//! Jobs to send. Fields are public: `Job { timeout, ..sample::query_any(id, now) }` makes another.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use longshore_model::job::Job;
use longshore_model::operation::Call;
use longshore_model::retry::RetryPolicy;
use longshore_model::{AgentId, ExecutionId, HostName, JobId, Target};
use serde_json::{Value, json};

/// The `n`th job's id. Ids sort like their numbers.
#[must_use]
pub fn job_id(n: u64) -> JobId {
    JobId::from_bits(u128::from(n))
}

/// The `n`th agent's id.
#[must_use]
pub fn agent_id(n: u64) -> AgentId {
    AgentId::from_bits(u128::from(n))
}

/// A query (`node.hostname.get`) for whichever agent is free.
#[must_use]
pub fn query_any(id: JobId, now: Timestamp) -> Job {
    job(id, now, "node.hostname.get", json!({}), Target::Any, ExecutionId::Any)
}

/// A query (`node.hostname.get`) for one agent.
#[must_use]
pub fn query_host(id: JobId, now: Timestamp, hostname: &str, agent: AgentId) -> Job {
    job(id, now, "node.hostname.get", json!({}), host(hostname), agent.into())
}

/// A modify operation (`command.exec` of `true`) for one agent.
#[must_use]
pub fn modify_host(id: JobId, now: Timestamp, hostname: &str, agent: AgentId) -> Job {
    job(id, now, "command.exec", json!({"command": ["true"]}), host(hostname), agent.into())
}

/// A modify operation (`command.shell`) for whichever agent is free.
#[must_use]
pub fn shell_any(id: JobId, now: Timestamp, script: &str) -> Job {
    job(id, now, "command.shell", json!({ "command": script }), Target::Any, ExecutionId::Any)
}

/// The same for one agent.
#[must_use]
pub fn shell_host(id: JobId, now: Timestamp, script: &str, hostname: &str, agent: AgentId) -> Job {
    job(id, now, "command.shell", json!({ "command": script }), host(hostname), agent.into())
}

/// As if submitted at `now`: startable for an hour, half a minute an attempt, the operation's own retry policy.
fn job(id: JobId, now: Timestamp, operation: &str, args: Value, target: Target, execution: ExecutionId) -> Job {
    let call = Call::parse(operation, args).expect("the samples are in the catalogue");
    let retry = if call.operation().spec().retry_safe { RetryPolicy::standard() } else { RetryPolicy::once() };
    Job {
        id,
        call,
        target,
        executions: vec![execution],
        timeout: Duration::from_secs(30),
        not_before: None,
        expires_at: now.checked_add(SignedDuration::from_hours(1)).expect("the calendar goes on for an hour"),
        retry,
        concurrency_key: None,
        annotations: BTreeMap::new(),
        submitted_by: "testkit".to_owned(),
        submitted_at: now,
        retry_of: None,
        sealed_for: None,
    }
}

fn host(name: &str) -> Target {
    Target::Host(name.parse::<HostName>().expect("the test gives a valid host name"))
}

#[cfg(test)]
mod tests {
    use longshore_model::wire::record::Definition;

    use super::*;

    #[test]
    fn samples_survive_being_stored() {
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let (id, agent) = (job_id(7), agent_id(8));
        for job in [
            query_any(id, now),
            query_host(id, now, "web-01", agent),
            modify_host(id, now, "web-01", agent),
            shell_any(id, now, "echo hello"),
            shell_host(id, now, "echo hello", "web-01", agent),
        ] {
            assert_eq!(Job::try_from(Definition::from(&job)).unwrap(), job);
        }
    }
}
