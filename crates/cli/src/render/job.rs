//! Jobs for people.

use std::fmt::Write as _;
use std::time::Duration;

use indicatif::HumanBytes;
use jiff::Timestamp;
use longshore_client::{ExecutionView, JobId, JobList, JobSummary, JobView, TimelineEntry};
use longshore_model::ExecutionState;

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
        hosts(job),
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

/// The host's name, or how many hosts it is for.
fn hosts(job: &JobSummary) -> String {
    match job.executions.max(job.hosts.len()) {
        0 | 1 => or_dash(job.hosts.concat()),
        n => format!("{n} hosts"),
    }
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
    if job.executions.len() > 1 {
        let _ = write!(line, ": {}", tally(job));
        return line;
    }
    let host = job.executions.iter().find_map(|execution| execution.hostname.as_deref());
    host.iter().for_each(|host| _ = write!(line, " on {}", printable(host)));
    if let Some(error) = job.executions.iter().find_map(|execution| execution.error.as_ref()) {
        let _ = write!(line, ": {}", printable(&error.message));
    }
    line
}

/// How many executions ended how: `3 completed, 1 failed of 4`.
pub(crate) fn tally(job: &JobView) -> String {
    let count = |state: ExecutionState| job.executions.iter().filter(|execution| execution.state == state).count();
    let counts = STATES.map(|state| (count(state), state)).into_iter().filter(|(n, _)| *n > 0);
    let counts: Vec<_> = counts.map(|(n, state)| format!("{n} {}", state.as_str())).collect();
    format!("{} of {}", counts.join(", "), job.executions.len())
}

/// In the order they are told.
const STATES: [ExecutionState; 9] = [
    ExecutionState::Completed,
    ExecutionState::Failed,
    ExecutionState::Lost,
    ExecutionState::Skipped,
    ExecutionState::Cancelled,
    ExecutionState::Expired,
    ExecutionState::Running,
    ExecutionState::Retryable,
    ExecutionState::Pending,
];

/// How a job ended: a line, with a table of its hosts before it if there are several.
pub(crate) fn outcome(out: &Output, job: &JobView) -> String {
    if job.executions.len() > 1 { format!("{}\n{}", executions(out, job), job_line(job)) } else { job_line(job) }
}

/// A row for each host, sorted by name.
fn executions(out: &Output, job: &JobView) -> String {
    let mut table = Table::new(out, &["HOST", "STATE", "TRY", "TOOK", "CHANGED", "ERROR"]);
    for execution in by_host(job) {
        let changed = execution.changed.map_or("-", |changed| if changed { "yes" } else { "no" });
        table.row([
            host(execution),
            execution.state.as_str().to_owned(),
            execution.attempts.to_string(),
            or_dash(execution.duration_ms.map(|ms| duration(Duration::from_millis(ms))).unwrap_or_default()),
            changed.to_owned(),
            execution.error.as_ref().map(|error| error.message.clone()).unwrap_or_default(),
        ]);
    }
    table.text()
}

/// The executions, sorted by their host's name.
pub(crate) fn by_host(job: &JobView) -> Vec<&ExecutionView> {
    let mut executions: Vec<_> = job.executions.iter().collect();
    executions.sort_by_key(|execution| host(execution));
    executions
}

/// The name of its host; before that is known, the agent's id, or nothing for one that anybody may take.
pub(crate) fn host(execution: &ExecutionView) -> String {
    let agent = || execution.agent.or_else(|| execution.id.agent()).map_or_else(|| "-".to_owned(), |agent| agent.to_string());
    execution.hostname.clone().unwrap_or_else(agent)
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
    if job.executions.len() > 1 {
        put("hosts", tally(job));
        let rows = executions(out, job);
        rows.lines().for_each(|row| put("", row.to_owned()));
    }
    for execution in by_host(job) {
        if job.executions.len() == 1 {
            put("execution", execution_line(execution));
        } else if wide {
            put(&printable(&host(execution)), execution_line(execution));
        }
        if let Some(result) = execution.result.as_ref().filter(|_| wide || job.executions.len() == 1) {
            put("result", pretty(result));
        }
        if let Some(large) = &execution.large_result {
            let problem = large.problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
            let place = execution.hostname.as_ref().map(|host| format!(" --host {host}")).unwrap_or_default();
            put("result", printable(&format!("{}, see     longshore job result {}{place}{problem}", HumanBytes(large.bytes), job.id)));
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
    format!("{}  {}", when(out, entry.at, now), happening(entry))
}

/// Something that happened to a job, as it happens: `2026-07-27T10:00:01.000Z  j-9fpa12  started #1 on harbor-01  [running]`.
pub(crate) fn change(out: &Output, entry: &TimelineEntry) -> String {
    let status = entry.status.map(|status| format!("  [{}]", status.as_str())).unwrap_or_default();
    format!("{:.3}  {}  {}{status}", entry.at, id_text(out, entry.job), happening(entry))
}

fn happening(entry: &TimelineEntry) -> String {
    let mut line = printable(&entry.event);
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
    fn a_job_of_several_hosts_is_a_table_of_them_and_a_count() {
        let mut job = view();
        let first = job.executions[0].clone();
        let of = |name: &str, state, error: bool| ExecutionView {
            hostname: Some(name.to_owned()),
            state,
            changed: Some(!error),
            error: first.error.clone().filter(|_| error),
            ..first.clone()
        };
        job.executions = vec![
            of("web-03", ExecutionState::Failed, true),
            of("web-01", ExecutionState::Completed, false),
            of("web-02", ExecutionState::Completed, false),
            ExecutionView { hostname: None, duration_ms: None, changed: None, ..of("", ExecutionState::Pending, false) },
        ];
        let mut out = Output::new(Format::Table, Color::Never, false);
        out.stdout_is_terminal = false;
        assert_eq!(tally(&job), "2 completed, 1 failed, 1 pending of 4");
        let text = outcome(&out, &job);
        let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "HOST STATE TRY TOOK CHANGED ERROR",
                "- pending 1 - -",
                "web-01 completed 1 41ms yes",
                "web-02 completed 1 41ms yes",
                "web-03 failed 1 41ms no exited with status 1\u{fffd}[2J",
                "j-000007 failed in 41ms: 2 completed, 1 failed, 1 pending of 4",
            ]
        );
        let whole = super::job(&out, &job, false, "2026-07-27T10:02:00Z".parse().unwrap());
        assert!(whole.contains("hosts       2 completed") && whole.contains("web-02  completed"), "{whole}");
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
            executions: 1,
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
        let many = JobSummary { executions: 3, hosts: vec!["a".to_owned()], ..list.items[0].clone() };
        assert_eq!(hosts(&many), "3 hosts", "however many have begun");
    }
}
