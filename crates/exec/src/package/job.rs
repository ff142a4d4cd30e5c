//! `package.run` as a job: one attempt at a node of an installed package, and what its handler says meanwhile as the job's output.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use data_encoding::BASE64;
use longshore_model::limits::{LOG_BYTES_PER_STEP_MAX, LOG_RECORD_BYTES_MAX};
use longshore_model::operation::PackageRun;
use longshore_model::unit::Span;
use longshore_model::wire::log::{LogStream, progress_line};
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::result::PackageResult;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::host::{Call, Channel, Chunk, Door, ErrorKind, Feedback, FeedbackReceiver, HandlerError, Outcome, Status, feedback_channel};
use super::runner::words_of;
use crate::Output;
use crate::executor::{Host, Task};
use crate::finished::Finished;
use crate::process::Stops;

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
    let (feedback, mut said) = feedback_channel();
    let log = Arc::new(Bounded { output, left: AtomicU64::new(LOG_BYTES_PER_STEP_MAX) });
    let door = Door { feedback: Some(feedback), next: None, output: Some(Arc::clone(&log) as Arc<dyn Output>) };
    let stop = CancellationToken::new();
    let result = {
        let mut work = std::pin::pin!(runner.run(&run.package, &version, call(task, run, stops), door, stop.clone()));
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
    match result {
        Ok(outcome) => ended(outcome, version),
        Err(error) => failed(&error, task.job.timeout),
    }
}

fn call(task: &Task, run: &PackageRun, stops: &Stops) -> Call {
    Call {
        run_id: task.job.id.to_string(),
        task_id: format!("{}/{}", task.execution, task.attempt),
        node_id: task.execution.to_string(),
        node_type: run.node.clone(),
        parameters: run.parameters.clone(),
        tenant: TENANT.to_owned(),
        timeout: Some(stops.deadline.saturating_duration_since(Instant::now())),
        ..Call::default()
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

/// Why there is no word of the handler's own.
fn failed(error: &HandlerError, limit: Duration) -> Finished {
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
        ErrorKind::Cancelled => Finished::cancelled(error.verified),
    }
}

/// Hands on what the handler says, until it says no more.
async fn tell(said: &mut FeedbackReceiver, log: &Bounded) {
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

/// As much output as one step may have, and a remark where it was cut off.
struct Bounded {
    output: Arc<dyn Output>,
    left: AtomicU64,
}

impl Output for Bounded {
    fn write(&self, step: u32, stream: LogStream, bytes: &[u8]) {
        let wanted = bytes.len() as u64;
        let before = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(wanted)));
        let left = before.unwrap_or_default();
        let fits = usize::try_from(left.min(wanted)).unwrap_or(bytes.len());
        bytes[..fits].chunks(LOG_RECORD_BYTES_MAX).for_each(|piece| self.output.write(step, stream, piece));
        if fits < bytes.len() && left > 0 {
            self.output.write(step, LogStream::System, b"[truncated: the handler told more than its log keeps]\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<(LogStream, usize)>>);

    impl Output for Kept {
        fn write(&self, _step: u32, stream: LogStream, bytes: &[u8]) {
            self.0.lock().unwrap().push((stream, bytes.len()));
        }
    }

    #[test]
    fn output_of_a_handler_is_cut_off_once_and_says_so() {
        let kept = Arc::new(Kept::default());
        let log = Bounded { output: Arc::clone(&kept) as Arc<dyn Output>, left: AtomicU64::new(10) };
        for _ in 0..3 {
            log.write(0, LogStream::Stdout, b"sevenby");
        }
        let kept = kept.0.lock().unwrap();
        let pieces: Vec<_> = kept.iter().map(|(stream, bytes)| (*stream, if *stream == LogStream::System { 0 } else { *bytes })).collect();
        assert_eq!(pieces, [(LogStream::Stdout, 7), (LogStream::Stdout, 3), (LogStream::System, 0)]);
    }

    #[test]
    fn every_kind_of_fault_has_its_own_end() {
        use longshore_model::wire::record::Outcome as Word;
        let end = |kind, verified| {
            let error = HandlerError { verified, ..HandlerError::new(kind, "it") };
            let finished = failed(&error, Duration::from_secs(3));
            (finished.outcome, finished.failure.map(|failure| failure.code), finished.transient, finished.cancel_verified)
        };
        for kind in [ErrorKind::NotLoaded, ErrorKind::Raised, ErrorKind::BadReturn, ErrorKind::HostDied] {
            assert_eq!(end(kind, true), (Word::Failed, Some(ErrorCode::HandlerFailed), false, None), "{kind:?}");
        }
        assert_eq!(end(ErrorKind::ResourceMissing, true), (Word::Failed, Some(ErrorCode::Unsupported), false, None));
        assert_eq!(end(ErrorKind::HostUnavailable, true), (Word::Failed, Some(ErrorCode::HostFault), true, None));
        assert_eq!(end(ErrorKind::TimedOut, true), (Word::Failed, Some(ErrorCode::TimedOut), false, None));
        assert_eq!(end(ErrorKind::Cancelled, false), (Word::Cancelled, Some(ErrorCode::Cancelled), false, Some(false)));
    }
}
