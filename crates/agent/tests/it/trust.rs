//! What an agent refuses to run: what nobody it trusts vouches for, and what it cannot open.

use jiff::Timestamp;
use longshore_model::job::Job;
use longshore_model::operation::Call;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Answer, Definition, Outcome};
use longshore_model::{AgentId, ExecutionId, JobId};
use longshore_seal::{JobSigner, OpeningKeys, TrustedKeys, generate_opening_key, generate_signing_key};
use longshore_store::Created;
use longshore_testkit::sample;
use serde_json::json;

use super::{Bench, is_empty, n_starts};

struct Keys {
    signer: JobSigner,
    opening: OpeningKeys,
}

impl Keys {
    fn new() -> Self {
        let signer = JobSigner::parse(&generate_signing_key()).unwrap();
        Self { signer, opening: OpeningKeys::parse(&generate_opening_key()).unwrap() }
    }

    fn trusted(&self) -> TrustedKeys {
        TrustedKeys::parse(&self.signer.trusted_key()).unwrap()
    }

    fn signed(&self, job: &Job) -> Definition {
        let mut definition = Definition::from(job);
        self.signer.sign(&mut definition);
        definition
    }

    /// A job with a secret, sealed.
    fn with_secret(&self, id: JobId, command: &str) -> Job {
        let args = json!({"command": command, "secrets": {"TOKEN": "hunter2"}});
        let mut call = Call::parse("command.shell", args).unwrap();
        self.opening.sealing_key().seal(id, &mut call).unwrap();
        Job { call, ..sample::shell_any(id, Timestamp::now(), "true") }
    }
}

/// Stores what was not made by a controller, as whoever can write to the broker may.
async fn smuggle(bench: &Bench, definition: &Definition) -> Answer {
    assert!(matches!(bench.store.ledger.create(definition).await.unwrap(), Created::Stored(_)));
    bench.answer(definition.id, definition.executions[0]).await
}

async fn is_refused(bench: &Bench, definition: &Definition, code: ErrorCode, why: &str) {
    let answer = smuggle(bench, definition).await;
    let error = answer.error.as_ref().unwrap();
    assert_eq!((answer.outcome, error.code, answer.attempts), (Outcome::Failed, code, 0), "{answer:?}");
    assert!(error.message.contains(why) && error.message.contains("host-1"), "{error:?}");
    assert_eq!(n_starts(&bench.record(definition.id).await), 0, "nothing was started");
}

fn me() -> AgentId {
    sample::agent_id(1)
}

#[tokio::test]
async fn with_trusted_keys_unsigned_altered_and_foreign_jobs_are_refused_and_not_retried() {
    let keys = Keys::new();
    let mut bench = Bench::new(|_| ()).await;
    let trusted = keys.trusted();
    bench.start_with(me(), |config| config.trusted_keys = Some(trusted)).await;
    let now = Timestamp::now();
    let any = |n: u64| Job { retry: longshore_model::retry::RetryPolicy::standard(), ..sample::query_any(sample::job_id(n), now) };

    let good = smuggle(&bench, &keys.signed(&any(1))).await;
    assert_eq!((good.outcome, good.attempts), (Outcome::Completed, 1), "{good:?}");
    is_refused(&bench, &Definition::from(&any(2)), ErrorCode::Untrusted, "not signed").await;
    let altered = Definition { args: json!({"command": "id"}), operation: "command.shell".into(), ..keys.signed(&any(3)) };
    is_refused(&bench, &altered, ErrorCode::Untrusted, "altered").await;
    let replayed = Definition { id: sample::job_id(4), ..keys.signed(&any(1)) };
    is_refused(&bench, &replayed, ErrorCode::Untrusted, "altered").await;
    let later = Definition { expires_at: Timestamp::MAX, not_before: Some(Timestamp::MAX), ..keys.signed(&any(5)) };
    is_refused(&bench, &later, ErrorCode::Untrusted, "altered").await;
    is_refused(&bench, &Keys::new().signed(&any(6)), ErrorCode::Untrusted, "the agent trusts").await;
    let nonsense = Definition { operation: "no.such.thing".into(), ..keys.signed(&any(7)) };
    is_refused(&bench, &nonsense, ErrorCode::Untrusted, "altered").await;

    // What was signed for another agent, in this one's inbox.
    let for_other = keys.signed(&sample::query_host(sample::job_id(8), now, "host-2", sample::agent_id(2)));
    let moved = Definition { executions: vec![me().into()], ..for_other };
    is_refused(&bench, &moved, ErrorCode::Untrusted, "altered").await;
    assert!(is_empty(&bench, me()).await);
}

#[tokio::test]
async fn signed_work_for_several_is_done_by_each_of_them() {
    let keys = Keys::new();
    let mut bench = Bench::new(|_| ()).await;
    let agents: Vec<AgentId> = (1..=3).map(sample::agent_id).collect();
    for agent in &agents {
        let trusted = keys.trusted();
        bench.start_with(*agent, |config| config.trusted_keys = Some(trusted)).await;
    }
    let executions: Vec<ExecutionId> = agents.iter().map(|agent| (*agent).into()).collect();
    let job = sample::query_any(sample::job_id(1), Timestamp::now());
    let job = Job { target: "_all".parse().unwrap(), executions: executions.clone(), ..job };
    assert!(matches!(bench.store.ledger.create(&keys.signed(&job)).await.unwrap(), Created::Stored(_)));
    for execution in executions {
        let answer = bench.answer(job.id, execution).await;
        assert_eq!(answer.outcome, Outcome::Completed, "{answer:?}");
    }
}

#[tokio::test]
async fn secrets_that_do_not_open_fail_the_job_and_start_nothing() {
    let keys = Keys::new();
    let mut bench = Bench::new(|_| ()).await;
    let opening = keys.opening.clone();
    bench.start_with(me(), |config| config.opening_keys = Some(opening)).await;
    let job = keys.with_secret(sample::job_id(1), "deploy");

    let foreign = Keys::new().with_secret(sample::job_id(2), "deploy");
    is_refused(&bench, &Definition::from(&foreign), ErrorCode::SecretsSealed, "sealed for the key").await;
    // The value of one job in another's that would show it.
    let mut thief = Definition::from(&sample::shell_any(sample::job_id(3), Timestamp::now(), "printenv"));
    thief.args["secrets"] = Definition::from(&job).args["secrets"].clone();
    is_refused(&bench, &thief, ErrorCode::SecretsSealed, "does not open").await;
    thief.id = sample::job_id(4);
    thief.sealed_for = Some(job.id);
    is_refused(&bench, &thief, ErrorCode::SecretsSealed, "does not open").await;
    thief.id = sample::job_id(5);
    thief.args["secrets"] = json!({"TOKEN": "in clear"});
    is_refused(&bench, &thief, ErrorCode::SecretsSealed, "not a sealed value").await;
}

#[tokio::test]
async fn an_agent_without_an_opening_key_says_so() {
    let keys = Keys::new();
    let mut bench = Bench::new(|_| ()).await;
    bench.start_agent(me(), 1).await;
    let job = keys.with_secret(sample::job_id(1), "deploy");
    is_refused(&bench, &Definition::from(&job), ErrorCode::SecretsSealed, "it has no opening key").await;
}
