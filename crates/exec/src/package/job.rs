//! `package.run` as a job: one attempt at a node of an installed package, and what its handler says meanwhile as the job's output.

mod log;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use longshore_model::operation::{PackageRun, RESOURCE_BINDINGS};
use longshore_model::unit::Span;
use longshore_model::wire::log::{LogStream, progress_line};
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::Failure;
use longshore_model::wire::result::PackageResult;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::log::{Log, without};
use super::host::{Call, Channel, Chunk, Door, ErrorKind, Feedback, FeedbackReceiver, HandlerError, Outcome, Status, feedback_channel};
use super::runner::words_of;
use crate::Output;
use crate::executor::{Host, Task};
use crate::finished::Finished;
use crate::process::{Redactor, Stops};
use crate::secrets::opened;

/// For whom a job's handlers work, as they see it.
const TENANT: &str = "default";
/// How long a host that has answered may keep the way open by which its handler spoke.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs the node's handler to its end.
pub(crate) async fn run(host: &Host, task: &Task, run: &PackageRun, output: Arc<dyn Output>, stops: &Stops) -> Finished {
    let Some(runner) = host.packages.get() else {
        return Finished::skipped(format!("the agent on this host runs no packages, so not {:?} either", run.package));
    };
    let Some(version) = runner.version_for(run).await else {
        let version = run.version.as_ref().map(|version| format!(" {version}")).unwrap_or_default();
        return Finished::skipped(format!("this host does not have the node {} of the package {}{version}", run.node, run.package));
    };
    let secrets = match opened(&run.secrets) {
        Ok(secrets) => secrets,
        Err(finished) => return *finished,
    };
    let redactor = Redactor::of(&secrets);
    let (feedback, mut said) = feedback_channel();
    let log = Arc::new(Log::new(output, redactor.as_ref()));
    let door = Door { feedback: Some(feedback), next: None, output: Some(Arc::clone(&log) as Arc<dyn Output>) };
    let stop = CancellationToken::new();
    let result = {
        let mut work = std::pin::pin!(runner.run(&run.package, &version, call(task, run, &secrets, stops), door, stop.clone()));
        let mut tell = std::pin::pin!(tell(&mut said, &log));
        let mut is_told = false;
        let result = loop {
            tokio::select! {
                biased;
                result = &mut work => break result,
                () = &mut tell, if !is_told => is_told = true,
                () = stops.cancel.cancelled(), if !stop.is_cancelled() => stop.cancel(),
                () = stops.abandon.cancelled(), if !stop.is_cancelled() => stop.cancel(),
            }
        };
        if !is_told {
            let _the_rest_is_nobodys = timeout(LAST_WORDS, tell).await;
        }
        result
    };
    log.end();
    let finished = match result {
        Ok(outcome) => ended(outcome, version),
        Err(error) => failed(&error, task.job.timeout, runner.hosts().end_with_tasks()),
    };
    match &redactor {
        Some(redactor) => masked(finished, redactor),
        None => finished,
    }
}

fn call(task: &Task, run: &PackageRun, secrets: &BTreeMap<String, String>, stops: &Stops) -> Call {
    let key = task.job.concurrency_key.as_ref().map(|key| ("concurrency_key".to_owned(), key.as_str().into()));
    let fence = task.fence.map(|fence| ("fence".to_owned(), fence.into()));
    Call {
        run_id: task.job.id.to_string(),
        task_id: format!("{}/{}", task.execution, task.attempt),
        node_id: task.execution.to_string(),
        node_type: run.node.clone(),
        parameters: bound(run.parameters.clone(), secrets),
        metadata: key.into_iter().chain(fence).collect(),
        tenant: TENANT.to_owned(),
        timeout: Some(stops.deadline.saturating_duration_since(Instant::now())),
        ..Call::default()
    }
}

/// The parameters with each secret where packages look for what they are bound to.
fn bound(mut parameters: Map<String, Value>, secrets: &BTreeMap<String, String>) -> Map<String, Value> {
    if secrets.is_empty() {
        return parameters;
    }
    // That it is an object, and has none of these names, was checked when the job came.
    if let Value::Object(bindings) = parameters.entry(RESOURCE_BINDINGS).or_insert_with(|| json!({})) {
        let binding = |(name, value): (&String, &String)| {
            (name.clone(), json!({ "resourceId": name, "type": "secret", "sizeBytes": value.len(), "metadata": {}, "value": value }))
        };
        bindings.extend(secrets.iter().map(binding));
    }
    parameters
}

/// The same without any secret in it.
fn masked(finished: Finished, redactor: &Redactor) -> Finished {
    let failure = finished.failure.map(|failure| Failure { message: without(redactor, &failure.message), ..failure });
    let result = finished.result.map(|mut result| {
        mask(&mut result, redactor);
        result
    });
    Finished { failure, result, ..finished }
}

fn mask(value: &mut Value, redactor: &Redactor) {
    match value {
        Value::String(text) => *text = without(redactor, text),
        Value::Array(items) => items.iter_mut().for_each(|item| mask(item, redactor)),
        Value::Object(fields) => {
            let masked = std::mem::take(fields).into_iter().map(|(name, mut value)| {
                mask(&mut value, redactor);
                (without(redactor, &name), value)
            });
            *fields = masked.collect();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// How the handler said that it ended.
fn ended(outcome: Outcome, version: String) -> Finished {
    let Outcome { status, result, metadata, artifacts, duration: _, remarks: _ } = outcome;
    let artifacts = artifacts.into_iter().filter_map(|artifact| serde_json::to_value(artifact).ok()).collect();
    let result = serde_json::to_value(PackageResult { output: result, version, metadata, artifacts }).ok();
    let finished = match status {
        Status::Succeeded => Finished::completed(None, serde_json::Value::Null),
        Status::Failed => Finished::failed(ErrorCode::HandlerFailed, "the handler said that it failed"),
        Status::Skipped => Finished::skipped("the handler said that it has nothing to do"),
        // Another attempt may go through with it, if the job's policy has one.
        Status::Cancelled => {
            Finished { transient: true, ..Finished::failed(ErrorCode::Interrupted, "the handler said that it was cancelled") }
        }
    };
    Finished { result, ..finished }
}

/// Why there is no word of the handler's own. What a handler that is stopped has started is known to be gone where its host ends with it.
fn failed(error: &HandlerError, limit: Duration, hosts_end_too: bool) -> Finished {
    match error.kind {
        ErrorKind::NotLoaded | ErrorKind::Raised | ErrorKind::BadReturn | ErrorKind::HostDied => {
            Finished::failed(ErrorCode::HandlerFailed, words_of(error))
        }
        ErrorKind::ResourceMissing => Finished::failed(ErrorCode::Unsupported, words_of(error)),
        ErrorKind::HostUnavailable => Finished::host_fault(words_of(error)),
        ErrorKind::TimedOut => {
            let gone = if error.verified { "" } else { "; not every process is known to be gone" };
            Finished::failed(ErrorCode::TimedOut, format!("ran longer than {}{gone}", Span(limit)))
        }
        ErrorKind::Cancelled => Finished::cancelled(error.verified && hosts_end_too),
    }
}

/// Hands on what the handler says, until it says no more.
async fn tell(said: &mut FeedbackReceiver, log: &Log) {
    while let Some(Feedback { stage, progress, message, chunks, dropped_chunks, metrics: _, metadata: _ }) = said.recv().await {
        if dropped_chunks > 0 {
            log.write(
                0,
                LogStream::System,
                format!("[{dropped_chunks} pieces were left out: the handler spoke faster than it was heard]\n").as_bytes(),
            );
        }
        if let Some(line) = progress_line(stage, progress, message) {
            log.write(0, LogStream::System, line.as_bytes());
        }
        for Chunk { channel, text, data_base64, .. } in chunks {
            let stream = match channel {
                Channel::Stderr => LogStream::Stderr,
                Channel::Stdout | Channel::Log | Channel::Llm | Channel::Metric | Channel::Custom => LogStream::Stdout,
            };
            match (text, data_base64) {
                (Some(text), _) => log.write(0, stream, text.as_bytes()),
                (None, Some(data)) => match BASE64.decode(data.as_bytes()) {
                    Ok(bytes) => log.write(0, stream, &bytes),
                    Err(_) => log.write(0, LogStream::System, b"[a piece was left out: it is no base64]\n"),
                },
                (None, None) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_fault_has_its_own_end() {
        use longshore_model::wire::record::Outcome as Word;
        let end = |kind, verified| {
            let error = HandlerError { verified, ..HandlerError::new(kind, "it") };
            let finished = failed(&error, Duration::from_secs(3), true);
            (finished.outcome, finished.failure.map(|failure| failure.code), finished.transient, finished.cancel_verified)
        };
        for kind in [ErrorKind::NotLoaded, ErrorKind::Raised, ErrorKind::BadReturn, ErrorKind::HostDied] {
            assert_eq!(end(kind, true), (Word::Failed, Some(ErrorCode::HandlerFailed), false, None), "{kind:?}");
        }
        assert_eq!(end(ErrorKind::ResourceMissing, true), (Word::Failed, Some(ErrorCode::Unsupported), false, None));
        assert_eq!(end(ErrorKind::HostUnavailable, true), (Word::Failed, Some(ErrorCode::HostFault), true, None));
        assert_eq!(end(ErrorKind::TimedOut, true), (Word::Failed, Some(ErrorCode::TimedOut), false, None));
        assert_eq!(end(ErrorKind::Cancelled, false), (Word::Cancelled, Some(ErrorCode::Cancelled), false, Some(false)));
        // A host that stays may have what the handler started.
        let stays = failed(&HandlerError::new(ErrorKind::Cancelled, "it"), Duration::from_secs(3), false);
        assert_eq!(stays.cancel_verified, Some(false));
    }

    #[test]
    fn secrets_are_bound_beside_what_is_bound_already_and_masked_wherever_they_come_back() {
        let secrets = BTreeMap::from([("key".to_owned(), "hunter2-hunter2".to_owned())]);
        let given = json!({ "n": 1, "__resourceBindings": { "other": { "value": "x" } } });
        let Value::Object(given) = given else { panic!("it is an object") };
        let parameters = bound(given.clone(), &secrets);
        assert_eq!(parameters["__resourceBindings"]["key"]["value"], "hunter2-hunter2");
        assert_eq!((&parameters["__resourceBindings"]["other"], &parameters["n"]), (&json!({ "value": "x" }), &json!(1)));
        assert_eq!(bound(given.clone(), &BTreeMap::new()), given);
        let result = json!({ "a": ["it is hunter2-hunter2!", 7, null], "hunter2-hunter2": true });
        let finished = Finished { result: Some(result), ..Finished::failed(ErrorCode::HandlerFailed, "ValueError: hunter2-hunter2") };
        let finished = masked(finished, &Redactor::of(&secrets).unwrap());
        assert_eq!(finished.result, Some(json!({ "a": ["it is ***!", 7, null], "***": true })));
        assert_eq!(finished.failure.unwrap().message, "ValueError: ***");
    }
}
