//! What a job's end means for the exit code of `longshore run`.

use longshore_client::{ErrorCode, ExecutionView, JobView};
use longshore_model::JobStatus;
use longshore_model::wire::result::{CommandResult, WorkspaceResult, WorkspaceStatus};

use crate::exit::Exit;

/// The command's own status where there is one.
pub(crate) fn exit(job: &JobView) -> Exit {
    match job.status {
        JobStatus::Completed | JobStatus::Skipped => Exit::Done,
        JobStatus::Failed
        | JobStatus::PartialFailure
        | JobStatus::Cancelled
        | JobStatus::Expired
        | JobStatus::Scheduled
        | JobStatus::Pending
        | JobStatus::Running
        | JobStatus::Retryable => {
            // A job that did not complete never looks like one that did.
            job.executions.iter().filter_map(of_execution).find(|exit| exit.code() != 0).unwrap_or(Exit::RunFailed)
        }
    }
}

fn of_execution(execution: &ExecutionView) -> Option<Exit> {
    let code = execution.error.as_ref()?.code;
    if code == ErrorCode::CommandNotFound {
        return Some(Exit::RunNotFound);
    }
    // A process that was stopped at its time-out has a signal too, but that was Longshore's doing.
    if code != ErrorCode::ExitStatus {
        return Some(Exit::RunFailed);
    }
    let result = execution.result.clone()?;
    let (status, signal) = match serde_json::from_value::<WorkspaceResult>(result.clone()) {
        Ok(workspace) => {
            let failed = workspace.steps.into_iter().find(|step| step.status == WorkspaceStatus::Failed)?;
            (failed.exit_code, failed.signal)
        }
        Err(_) => {
            let command: CommandResult = serde_json::from_value(result).ok()?;
            (command.exit_code, command.signal)
        }
    };
    let number = status.or(signal.map(|signal| 128 + signal))?;
    Some(u8::try_from(number).map_or(Exit::RunFailed, Exit::Command))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(status: &str, code: &str, result: &Value, expected: u8) {
        let id = longshore_client::JobId::from_bits(7);
        let job: JobView = serde_json::from_value(json!({
            "id": id, "status": status, "operation": "command.exec", "args": {}, "target": "_any", "submitted_by": "x",
            "submitted_at": "2026-07-27T10:00:00Z", "expires_at": "2026-07-27T11:00:00Z", "timeout": "5m", "max_attempts": 1,
            "annotations": {}, "timeline": [],
            "executions": [{
                "id": "any", "state": status, "attempts": 1, "result": result,
                "error": (!code.is_empty()).then(|| json!({"code": code, "message": "x"})),
            }],
        }))
        .unwrap();
        assert_eq!(exit(&job).code(), expected, "{status} {code} {result}");
    }

    fn command(exit_code: Option<i32>, signal: Option<i32>) -> Value {
        json!({"exit_code": exit_code, "signal": signal, "stdout": "", "stderr": "", "stdout_bytes": 0, "stderr_bytes": 0, "truncated": false, "duration_ms": 1})
    }

    fn workspace(steps: &[(&str, Option<i32>)]) -> Value {
        let step = |(status, code): &(&str, Option<i32>)| json!({"index": 0, "command": "x", "status": status, "exitCode": code, "durationMs": 1, "log": "x"});
        json!({
            "jobId": "j", "status": "failed", "timing": {"start": "2026-07-27T10:00:00Z", "end": "2026-07-27T10:00:00Z", "durationMs": 1},
            "steps": steps.iter().map(step).collect::<Vec<_>>(), "files": {"created": [], "modified": [], "deleted": [], "skipped": []},
            "worker": "w", "attempt": 1, "schema": 1
        })
    }

    #[test]
    fn the_exit_code_is_the_commands_own_where_it_has_one() {
        check("completed", "", &command(Some(0), None), 0);
        check("failed", "exit_status", &command(Some(3), None), 3);
        check("failed", "exit_status", &command(Some(255), None), 255);
        check("failed", "exit_status", &command(None, Some(9)), 137);
        check("failed", "exit_status", &workspace(&[("success", Some(0)), ("failed", Some(2)), ("failed", Some(4))]), 2);
        check("failed", "command_not_found", &Value::Null, 127);
        check("failed", "timed_out", &command(None, Some(15)), 125);
        check("failed", "staging", &Value::Null, 125);
        check("cancelled", "cancelled", &Value::Null, 125);
        check("expired", "", &Value::Null, 125);
    }
}
