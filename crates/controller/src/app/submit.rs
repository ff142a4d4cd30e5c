//! Accepting a job: checked, allowed, addressed, then written once.
//!
//! With an idempotency key the job's id is reserved before the job is written, so that a repeat finds the same id whether or not the
//! first try came to its end.

use std::time::Duration;

use data_encoding::HEXLOWER;
use jiff::{SignedDuration, Timestamp};
use longshore_model::JobId;
use longshore_model::access::Caller;
use longshore_model::job::turn::waiter;
use longshore_model::job::{Job, Submission};
use longshore_model::operation::has_secrets;
use longshore_model::wire::record::{Definition, Reservation, SCHEMA};
use longshore_model::wire::rest::{JobRequest, JobView};
use longshore_seal::fingerprint;
use longshore_store::{Created, JobRecord};
use sha2::{Digest, Sha256};

use crate::SigningKey;
use crate::fleet::Waits;
use crate::wait::Ticket;

use super::results::Shown;
use super::{App, Error, Frozen, chain, job_view, permit, permit_targets, resolve};
use super::{bundles, get};

/// What became of a submission.
pub(crate) struct Submitted {
    pub(crate) record: JobRecord,
    /// For a job that is new: a place from before it was stored. Without one this is the job of an earlier submission with the same key.
    pub(crate) ticket: Option<Ticket>,
}

impl Submitted {
    /// The job as it was stored, or as it was found.
    pub(crate) fn view(&self, app: &App) -> JobView {
        job_view(&self.record, app.index().retries_of(self.record.definition.id), app.now())
    }

    /// Whether this is the job of an earlier submission with the same key.
    pub(crate) fn is_replayed(&self) -> bool {
        self.ticket.is_none()
    }

    /// The job when it has ended, or as it is when the time is up.
    pub(crate) async fn when_ended(self, app: &App, wait: Duration) -> Shown {
        let Self { mut record, ticket } = self;
        let id = record.definition.id;
        let ended = match ticket {
            Some(ticket) => get::when_first_final(app, ticket, &mut record, wait).await,
            None => get::when_final(app, id, wait).await,
        };
        // Accepted is accepted: a broker that goes away now must not hide the id.
        ended.unwrap_or_else(|error| {
            tracing::warn!(job.id = %id, error = %chain(&error), "a submission could not wait for its end");
            Shown { job: Self { record, ticket: None }.view(app), room: None }
        })
    }
}

/// Accepts a job.
pub(crate) async fn submit(app: &App, caller: &Caller, request: JobRequest) -> Result<Submitted, Error> {
    let now = app.now();
    let body_sha256 = request.idempotency_key.is_some().then(|| body_hash(&request, &app.config.signing_key));
    let submission = Submission::parse(request, now)?;
    permit(caller, submission.call.operation().spec().permission)?;
    if app.config.sealing_key.is_none() && submission.call.secrets().is_some_and(|secrets| !secrets.is_empty()) {
        return Err(Error::NoSealingKey);
    }
    check_retention(app, &submission, now)?;

    let (Some(key), Some(body_sha256)) = (submission.idempotency_key.clone(), body_sha256) else {
        return accept_new(app, caller, submission, new_id(app), None).await;
    };
    let key = key_hash(&caller.name, &key);
    // What nobody can do takes no key: put right, it may come with that key again.
    if let Err(refused) = is_possible(app, caller, &submission)
        && app.store.ledger.reserved(&key).await?.is_none()
    {
        return Err(refused);
    }
    let wanted = Reservation { schema: SCHEMA, job: new_id(app), body_sha256, deleted: false };
    let mut held = reserve(app, &key, &wanted).await?;
    if held != wanted.job {
        if let Some(record) = app.load(held).await? {
            return Ok(Submitted { record, ticket: None });
        }
        // An earlier try reserved the id and crashed before it wrote the job. Or the job was deleted just now: then its key says so by now.
        held = reserve(app, &key, &wanted).await?;
    }
    accept_new(app, caller, submission, held, Some(key)).await
}

async fn accept_new(app: &App, caller: &Caller, submission: Submission, id: JobId, key_sha256: Option<String>) -> Result<Submitted, Error> {
    let frozen = place(app, caller, &submission)?;
    accept(app, caller, submission, Placed { id, frozen, retry_of: None, key_sha256 }).await
}

/// Who would do it now.
fn place(app: &App, caller: &Caller, submission: &Submission) -> Result<Frozen, Error> {
    let waits = if submission.wait_for_agents.is_some() { Waits::ForAgents } else { Waits::No };
    resolve(app, caller, &submission.target, &submission.call, waits)
}

/// Refuses what nobody can do now, or this caller may not have done by them.
fn is_possible(app: &App, caller: &Caller, submission: &Submission) -> Result<(), Error> {
    permit_targets(app, caller, &submission.target.to_string(), &place(app, caller, submission)?.executions)
}

/// The job that a key stands for.
async fn reserve(app: &App, key: &str, wanted: &Reservation) -> Result<JobId, Error> {
    let held = app.store.ledger.reserve(key, wanted).await?;
    if held.deleted {
        return Err(Error::Deleted { job: held.job });
    }
    if held.body_sha256 != wanted.body_sha256 {
        return Err(Error::IdempotencyConflict { job: held.job });
    }
    Ok(held.job)
}

/// What a submission becomes.
pub(super) struct Placed {
    pub(super) id: JobId,
    pub(super) frozen: Frozen,
    pub(super) retry_of: Option<JobId>,
    pub(super) key_sha256: Option<String>,
}

/// Writes a submission down. The caller has checked permissions and retention, and knows who is to do it.
pub(super) async fn accept(
    app: &App,
    caller: &Caller,
    mut submission: Submission,
    Placed { id, frozen: Frozen { executions, fleet_revision }, retry_of, key_sha256 }: Placed,
) -> Result<Submitted, Error> {
    permit_targets(app, caller, &submission.target.to_string(), &executions)?;
    let _held = bundles::hold(app, &submission).await?;
    let now = app.now();
    // Here and nowhere later: what follows stores, logs and shows.
    if let Some(key) = &app.config.sealing_key {
        key.seal(id, &mut submission.call)?;
    }
    let job = Job { retry_of, ..submission.into_job(id, executions, caller.name.clone(), now) };
    if let Some(waiter) = waiter(&job, now) {
        // Before the job: one that is stored has its place. A place whose job never comes is removed by a reconciler.
        app.store.turns.enter(&waiter).await?;
    }
    let mut definition = Definition { key_sha256, fleet_revision: Some(fleet_revision), ..Definition::from(&job) };
    if let Some(signer) = &app.config.job_signer {
        signer.sign(&mut definition);
    }
    let ticket = app.waiters.register_new(id);
    match app.store.ledger.create(&definition).await? {
        Created::Stored(revision) => {
            // Read your writes: the feed tells the same a moment later.
            app.index_mut().define(&definition, now, now);
            tracing::info!(job.id = %id, operation = %definition.operation, target = %definition.target, caller = %caller.name, "job accepted");
            let record = JobRecord::new(definition, revision, now);
            Ok(Submitted { record, ticket: Some(ticket) })
        }
        // Another try of the same submission was first.
        Created::Exists => {
            let record = app.load(id).await?.ok_or_else(|| Error::no_job(id))?;
            Ok(Submitted { record, ticket: None })
        }
    }
}

/// Refuses what could outlive its records.
pub(super) fn check_retention(app: &App, submission: &Submission, now: Timestamp) -> Result<(), Error> {
    let retention = SignedDuration::try_from(app.config.retention).unwrap_or(SignedDuration::MAX);
    let kept = now.checked_add(retention).unwrap_or(Timestamp::MAX);
    let needed = submission.outlives();
    if needed > kept { Err(Error::Retention { needed, kept }) } else { Ok(()) }
}

/// A new job's id: sorts by time.
pub(super) fn new_id(app: &App) -> JobId {
    JobId::from_bits(app.store.clock.unique())
}

fn key_hash(caller: &str, key: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(caller);
    hash.update([0]);
    hash.update(key);
    HEXLOWER.encode(&hash.finalize())
}

/// What a body is known by when it comes again. One with secrets is known by a keyed hash: a plain one would let whoever reads the broker
/// try values until one fits.
fn body_hash(request: &JobRequest, key: &SigningKey) -> String {
    let mut body = serde_json::to_value(request).expect("a request has string keys only");
    body.sort_all_objects();
    let body = body.to_string();
    if has_secrets(&request.args) { fingerprint(key.bytes(), body.as_bytes()) } else { HEXLOWER.encode(&Sha256::digest(body)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_hash_ignores_the_order_of_fields_and_nothing_else() {
        let key = SigningKey::new(vec![7; 32]);
        let hash = |text: &str| body_hash(&serde_json::from_str(text).unwrap(), &key);
        let one = hash(r#"{"operation": "a.b.c", "args": {"x": 1, "y": {"b": 1, "a": 2}}}"#);
        assert_eq!(one, hash(r#"{"args": {"y": {"a": 2, "b": 1}, "x": 1}, "operation": "a.b.c", "target": "_any"}"#));
        assert_ne!(one, hash(r#"{"operation": "a.b.c", "args": {"x": 2, "y": {"b": 1, "a": 2}}}"#));
    }

    #[test]
    fn a_body_with_secrets_is_known_by_a_hash_that_only_the_controller_can_make() {
        let request = |secret: &str| JobRequest::new("a.b.c", serde_json::json!({"secrets": {"A": secret}}), "_any");
        let (key, other) = (SigningKey::new(vec![7; 32]), SigningKey::new(vec![8; 32]));
        let one = body_hash(&request("1234"), &key);
        assert_eq!(one, body_hash(&request("1234"), &key));
        assert_ne!(one, body_hash(&request("1235"), &key));
        assert_ne!(one, body_hash(&request("1234"), &other), "it cannot be made without the key");
        assert!(longshore_model::operation::is_sha256(&one));
    }

    #[test]
    fn keys_of_different_callers_do_not_meet() {
        assert_ne!(key_hash("a", "bc"), key_hash("ab", "c"));
        assert_eq!(key_hash("a", "b").len(), 64);
    }
}
