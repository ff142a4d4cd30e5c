//! Agents for people.

use std::fmt::Write as _;

use jiff::Timestamp;
use longshore_client::{AgentDetail, AgentView, AlarmView, Condition};

use super::printable::printable;
use super::table::Table;
use super::time::ago;
use crate::output::Output;

/// A list of agents.
pub(crate) fn agents(out: &Output, agents: &[AgentView], wide: bool, now: Timestamp) -> String {
    let mut headings = vec!["NAME", "ID", "STATE", "JOBS", "CONDITIONS", "LAST SEEN", "LABELS", "VERSION"];
    if wide {
        headings.push("UP SINCE");
    }
    let mut table = Table::new(out, &headings);
    for agent in agents {
        let id = if out.stdout_is_terminal && !wide { agent.id.short() } else { agent.id.to_string() };
        let conditions: Vec<String> = agent.conditions.iter().map(short).collect();
        let mut cells = vec![
            agent.hostname.clone(),
            id,
            agent.state.as_str().to_owned(),
            format!("{}/{}", agent.running, agent.max_jobs),
            if conditions.is_empty() { "-".to_owned() } else { conditions.join(" ") },
            agent.last_seen.map_or_else(|| "-".to_owned(), |at| ago(out, at, now)),
            agent.labels.join(" "),
            agent.version.clone(),
        ];
        if wide {
            cells.push(ago(out, agent.started_at, now));
        }
        table.row(cells);
    }
    table.text()
}

/// One agent with all there is.
pub(crate) fn agent(out: &Output, AgentDetail { agent, drains }: &AgentDetail, now: Timestamp) -> String {
    let mut text = format!("{} {}  {}\n", printable(&agent.hostname), agent.id, agent.state.as_str());
    let mut put = |label: &str, value: &str| _ = writeln!(text, "  {label:<12}{}", printable(value));
    agent.last_seen.iter().for_each(|at| put("last seen", &ago(out, *at, now)));
    put("up since", &ago(out, agent.started_at, now));
    put("version", &agent.version);
    put("jobs", &format!("{} of {} at once", agent.running, agent.max_jobs));
    if !agent.labels.is_empty() {
        put("labels", &agent.labels.join(" "));
    }
    if let Some(worker) = &agent.worker {
        put("worker", &format!("{}, instance {}, attached to {}", worker.name, worker.instance, worker.controller));
        if let Some(since) = worker.contested_since {
            put(
                "contested",
                &format!("since {since}: several workers have its instance id and take it from each other; give each one of its own"),
            );
        }
    }
    for package in agent.worker.iter().flat_map(|worker| &worker.packages).chain(&agent.packages) {
        put("package", &format!("{} {}  {}", package.name, package.version, package.nodes.join(" ")));
    }
    for condition in &agent.conditions {
        let since = ago(out, condition.since, now);
        put("condition", &format!("{}, from {}% on; {since}", short(condition), condition.threshold_percent));
    }
    for change in drains {
        let what = if change.drained { "drained" } else { "undrained" };
        let why = change.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        put(what, &format!("{} by {}{why}", ago(out, change.at, now), change.by));
    }
    text.truncate(text.trim_end().len());
    text
}

/// What somebody should look at.
pub(crate) fn alarms(out: &Output, alarms: &[AlarmView], now: Timestamp) -> String {
    let line = |alarm: &AlarmView| format!("  alarm    {} {}: {}\n", ago(out, alarm.since, now), alarm.agent, printable(&alarm.message));
    alarms.iter().map(line).collect()
}

/// `disk_pressure(/var)=93%`.
fn short(condition: &Condition) -> String {
    let mount = condition.mount.as_ref().map(|mount| format!("({mount})")).unwrap_or_default();
    format!("{}{mount}={}%", condition.kind, condition.percent)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::output::{Color, Format};

    #[test]
    fn an_agent_shows_what_it_is_short_of_and_who_drained_it() {
        let detail: AgentDetail = serde_json::from_value(json!({
            "id": longshore_client::AgentId::from_bits(7), "hostname": "quay\u{1b}[2J", "state": "stopped", "version": "0.1.0",
            "max_jobs": 4, "running": 1, "labels": ["group:web"], "started_at": "2026-07-27T10:00:00Z", "last_seen": "2026-07-27T11:00:00Z",
            "conditions": [{"kind": "disk_pressure", "percent": 93, "threshold_percent": 90, "mount": "/var", "since": "2026-07-27T10:30:00Z"}],
            "drains": [{"drained": true, "by": "ada", "at": "2026-07-27T09:00:00Z", "reason": "new disk"}],
        }))
        .unwrap();
        let mut out = Output::new(Format::Table, Color::Never, false);
        out.stdout_is_terminal = false;
        let now = "2026-07-27T12:00:00Z".parse().unwrap();
        let one = agent(&out, &detail, now);
        let list = agents(&out, std::slice::from_ref(&detail.agent), false, now);
        for part in ["quay\u{fffd}[2J", "stopped", "disk_pressure(/var)=93%", "group:web"] {
            assert!(one.contains(part) && list.contains(part), "{part:?} in {one}\n{list}");
        }
        assert!(one.contains("from 90% on; 2026-07-27T10:30:00.000Z") && one.contains("by ada: new disk"), "{one}");
        assert!(list.contains("1/4") && list.contains("2026-07-27T11:00:00.000Z"), "{list}");
    }
}
