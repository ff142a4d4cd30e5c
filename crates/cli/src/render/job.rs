//! Jobs for people.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use longshore_client::{ExecutionView, JobId, JobList, JobSummary, JobView, TimelineEntry};

use super::printable::printable;
use super::table::Table;
use super::time::{ago, duration};
use crate::output::Output;

fn id_text(out: &Output, id: JobId) -> String {
    if out.stdout_is_terminal { id.short() } else { id.to_string() }
}

/// A list of jobs.
pub(crate) fn jobs(out: &Output, list: &JobList, wide: bool, now: Timestamp) -> String {
    let mut headings = vec!["ID", "OPERATION", "STATUS", "HOST", "TRY", "AGE", "TOOK"];
    if wide {
        headings.extend(["TARGET", "SUBMITTER", "ANNOTATIONS"]);
    }
    headings.push("ERROR");
    let mut table = Table::new(out, &headings);
    for job in &list.items {
        table.row(job_cells(out, job, wide, now));
    }
    table.text()
}

fn job_cells(out: &Output, job: &JobSummary, wide: bool, now: Timestamp) -> Vec<String> {
    let took = job.finished_at.and_then(|end| Duration::try_from(end.duration_since(job.submitted_at)).ok());
    let mut cells = vec![
        id_text(out, job.id),
        job.operation.clone(),
        job.status.as_str().to_owned(),
        or_dash(job.hosts.join(",")),
        job.attempts.to_string(),
        ago(out, job.submitted_at, now),
        or_dash(took.map(duration).unwrap_or_default()),
    ];
    if wide {
        let annotations = job.annotations.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
        cells.extend([job.target.clone(), job.submitted_by.clone(), or_dash(annotations)]);
    }
    cells.push(job.error.clone().unwrap_or_default());
    cells
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

/// One line on how a job stands: `j-9fpa12 completed in 41ms on harbor-01`.
pub(crate) fn job_line(job: &JobView) -> String {
    let mut line = format!("{} {}", job.id.short(), job.status.as_str().replace('_', " "));
    let times = job.executions.iter().filter_map(|execution| execution.duration_ms);
    if let Some(ms) = times.max() {
        let _ = write!(line, " in {}", duration(Duration::from_millis(ms)));
    }
    let hosts: Vec<_> = job.executions.iter().filter_map(|execution| execution.hostname.as_deref()).map(printable).collect();
    match hosts.as_slice() {
        [] => {}
        [host] => _ = write!(line, " on {host}"),
        hosts => _ = write!(line, " on {} hosts", hosts.len()),
    }
    if let Some(error) = job.executions.iter().find_map(|execution| execution.error.as_ref()) {
        let _ = write!(line, ": {}", printable(&error.message));
    }
    line
}

/// Everything of one job.
pub(crate) fn job(out: &Output, job: &JobView, wide: bool, now: Timestamp) -> String {
    let mut text = format!("{} {}  {}\n", printable(&job.operation), id_text(out, job.id), job.status.as_str());
    let mut put = |label: &str, value: String| _ = writeln!(text, "  {label:<12}{value}");
    put("id", job.id.to_string());
    put("target", printable(&job.target));
    put("submitted", format!("{} by {}", when(out, job.submitted_at, now), printable(&job.submitted_by)));
    put(
        "limits",
        format!("{} an attempt, {} at most, start before {}", printable(&job.timeout), attempts(job.max_attempts), job.expires_at),
    );
    job.not_before.iter().for_each(|at| put("not before", at.to_string()));
    job.annotations.iter().for_each(|(key, value)| put("annotation", printable(&format!("{key}={value}"))));
    job.retry_of.iter().for_each(|id| put("retry of", id.to_string()));
    job.retried_by.iter().for_each(|id| put("retried by", id.to_string()));
    if wide {
        put("args", pretty(&job.args));
    }
    for execution in &job.executions {
        put("execution", execution_line(execution));
        if let Some(result) = execution.result.as_ref().filter(|_| wide || job.executions.len() == 1) {
            put("result", pretty(result));
        }
    }
    for entry in &job.timeline {
        put("", timeline_line(out, entry, now));
    }
    text.trim_end().to_owned()
}

/// JSON over several lines, the following ones below the first.
fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}").replace('\n', "\n              ")
}

fn attempts(n: u32) -> String {
    if n == 1 { "1 attempt".to_owned() } else { format!("{n} attempts") }
}

fn when(out: &Output, at: Timestamp, now: Timestamp) -> String {
    let text = ago(out, at, now);
    if out.stdout_is_terminal { format!("{text} ago") } else { text }
}

fn execution_line(execution: &ExecutionView) -> String {
    let mut line = execution.state.as_str().to_owned();
    execution.hostname.iter().for_each(|host| _ = write!(line, " on {}", printable(host)));
    let _ = write!(line, ", {}", attempts(execution.attempts));
    execution.duration_ms.iter().for_each(|ms| _ = write!(line, ", {}", duration(Duration::from_millis(*ms))));
    execution.changed.iter().for_each(|changed| line.push_str(if *changed { ", changed" } else { ", nothing changed" }));
    if execution.cancel_requested {
        line.push_str(match execution.cancel_verified {
            Some(true) => ", cancelled: every process is gone",
            Some(false) => ", cancelled: not known whether every process is gone",
            None => ", cancel requested",
        });
    }
    execution.error.iter().for_each(|error| _ = write!(line, ": {} ({})", printable(&error.message), error.code));
    line
}

fn timeline_line(out: &Output, entry: &TimelineEntry, now: Timestamp) -> String {
    let mut line = format!("{}  {}", when(out, entry.at, now), printable(&entry.event));
    entry.attempt.iter().for_each(|attempt| _ = write!(line, " #{attempt}"));
    entry.hostname.iter().for_each(|host| _ = write!(line, " on {}", printable(host)));
    entry.detail.iter().for_each(|detail| _ = write!(line, ": {}", printable(detail)));
    line
}

#[cfg(test)]
mod tests {
    use longshore_model::JobStatus;

    use super::*;
    use crate::output::{Color, Format};

    fn view() -> JobView {
        serde_json::from_value(serde_json::json!({
            "id": JobId::from_bits(7), "status": "failed", "operation": "command.exec", "args": {"command": ["false"]},
            "target": "_any", "submitted_by": "admin", "submitted_at": "2026-07-27T10:00:00Z", "expires_at": "2026-07-27T11:00:00Z",
            "timeout": "5m", "max_attempts": 1, "annotations": {"team": "dock"},
            "executions": [{
                "id": "any", "state": "failed", "hostname": "quay-07", "attempts": 1, "result": {"exit_code": 1},
                "error": {"code": "exit_status", "message": "exited with status 1\u{1b}[2J"}, "duration_ms": 41
            }],
            "timeline": [{"job": JobId::from_bits(7), "at": "2026-07-27T10:00:01Z", "event": "started", "attempt": 1, "hostname": "quay-07"}]
        }))
        .unwrap()
    }

    #[test]
    fn a_job_in_one_line_says_how_long_where_and_why() {
        let line = job_line(&view());
        assert_eq!(line, "j-000007 failed in 41ms on quay-07: exited with status 1\u{fffd}[2J");
    }

    #[test]
    fn a_whole_job_has_its_limits_execution_and_timeline() {
        let mut out = Output::new(Format::Table, Color::Never, false);
        out.stdout_is_terminal = false;
        let now = "2026-07-27T10:02:00Z".parse().unwrap();
        let text = job(&out, &view(), false, now);
        for part in [
            "command.exec j-0",
            "5m an attempt, 1 attempt at most",
            "annotation  team=dock",
            "failed on quay-07, 1 attempt, 41ms: exited",
            "started #1 on quay-07",
            "result      {\n                \"exit_code\": 1\n              }",
        ] {
            assert!(text.contains(part), "{part:?} in\n{text}");
        }
        out.stdout_is_terminal = true;
        assert!(job(&out, &view(), false, now).contains("2m00s ago by admin"));
    }

    #[test]
    fn a_list_has_a_line_for_each_job_with_whole_ids_off_a_terminal() {
        let mut out = Output::new(Format::Table, Color::Never, false);
        out.stdout_is_terminal = false;
        let summary = JobSummary {
            id: JobId::from_bits(7),
            status: JobStatus::Running,
            operation: "node.status.get".to_owned(),
            target: "_any".to_owned(),
            hosts: vec![],
            attempts: 0,
            submitted_by: "admin".to_owned(),
            submitted_at: "2026-07-27T10:00:00Z".parse().unwrap(),
            finished_at: None,
            error: None,
            annotations: std::collections::BTreeMap::new(),
        };
        let list = JobList { items: vec![summary], next_cursor: None, counts: std::collections::BTreeMap::new() };
        let text = jobs(&out, &list, true, "2026-07-27T10:02:00Z".parse().unwrap());
        let expected =
            format!("{}  node.status.get  running  -     0    2026-07-27T10:00:00.000Z  -     _any    admin      -", JobId::from_bits(7));
        assert_eq!(text.lines().nth(1).map(str::to_owned), Some(expected), "{text}");
    }
}
