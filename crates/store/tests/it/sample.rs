//! Records to store. What a test does not name does not matter to it.

use jiff::Timestamp;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Answer, Definition, Event, EventKind, Failure, Outcome, SCHEMA};
use longshore_model::{AgentId, ExecutionId, JobId};
use longshore_store::{Appended, Created, Revision, Store};
use longshore_testkit::sample;
use serde_json::json;

pub(crate) use longshore_testkit::sample::{agent_id, job_id};

/// A moment.
pub(crate) fn then() -> Timestamp {
    "2026-01-02T03:04:05.678Z".parse().unwrap()
}

pub(crate) fn any_job(n: u64) -> Definition {
    Definition::from(&sample::shell_any(job_id(n), then(), "echo hello"))
}

pub(crate) fn any_query(n: u64) -> Definition {
    Definition::from(&sample::query_any(job_id(n), then()))
}

pub(crate) fn host_job(n: u64, agent: AgentId) -> Definition {
    Definition::from(&sample::modify_host(job_id(n), then(), "web-01", agent))
}

pub(crate) fn host_query(n: u64, agent: AgentId) -> Definition {
    Definition::from(&sample::query_host(job_id(n), then(), "web-01", agent))
}

/// Work for one agent of a group.
pub(crate) fn group_work(n: u64, group: &str) -> Definition {
    Definition { target: format!("_any@{group}"), ..any_job(n) }
}

/// Work for several agents.
pub(crate) fn shared_job(n: u64, agents: &[AgentId]) -> Definition {
    Definition { target: "_all".to_owned(), executions: agents.iter().map(|agent| (*agent).into()).collect(), ..any_job(n) }
}

/// A job whose record has at least so many bytes.
pub(crate) fn large_job(n: u64, bytes: usize) -> Definition {
    Definition { args: json!({ "command": "x".repeat(bytes) }), ..any_job(n) }
}

pub(crate) fn event(kind: EventKind) -> Event {
    Event { schema: SCHEMA, at: then(), kind }
}

pub(crate) fn started(attempt: u32, agent: AgentId) -> Event {
    event(EventKind::Started { attempt, agent, hostname: "web-01".to_owned(), delivery: None })
}

pub(crate) fn retrying(attempt: u32) -> Event {
    let error = Failure { code: ErrorCode::Internal, message: "the disk is away".to_owned() };
    event(EventKind::Retrying { attempt, error, not_before: then() })
}

pub(crate) fn cancel_requested(by: &str) -> Event {
    event(EventKind::CancelRequested { by: by.to_owned() })
}

pub(crate) fn answer(job: JobId, execution: ExecutionId, said: &str) -> Answer {
    Answer {
        agent: Some(agent_id(1)),
        hostname: Some("web-01".to_owned()),
        changed: Some(true),
        result: Some(json!({ "said": said })),
        started_at: Some(then()),
        duration_ms: Some(12),
        ..Answer::new(job, execution, Outcome::Completed, 1, then())
    }
}

/// Creates a job that was not there.
pub(crate) async fn create(store: &Store, definition: &Definition) -> Revision {
    match store.ledger.create(definition).await.unwrap() {
        Created::Stored(revision) => revision,
        Created::Exists => panic!("{} exists already", definition.id),
    }
}

/// Appends to a history that nobody else writes to.
pub(crate) async fn append(store: &Store, definition: &Definition, after: Revision, event: &Event) -> Revision {
    match store.ledger.append(definition.id, definition.executions[0], after, event).await.unwrap() {
        Appended::Stored(revision) => revision,
        Appended::Conflict => panic!("somebody wrote to the history of {}", definition.id),
    }
}
