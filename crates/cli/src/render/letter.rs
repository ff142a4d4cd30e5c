//! Dead letters for people.

use std::fmt::Write as _;

use jiff::Timestamp;
use longshore_client::{DeadExecution, DeadLetterView};

use super::printable::printable;
use super::table::Table;
use super::time::ago;
use crate::output::Output;

/// A list of dead letters.
pub(crate) fn dead_letters(out: &Output, letters: &[DeadLetterView], wide: bool, now: Timestamp) -> String {
    let mut headings = vec!["ID", "STATE", "OPERATION", "HOST", "TRY", "DIED"];
    if wide {
        headings.extend(["TARGET", "SUBMITTER", "AGAIN AS"]);
    }
    headings.push("ERROR");
    let mut table = Table::new(out, &headings);
    for letter in letters {
        let id = if out.stdout_is_terminal { letter.id.short() } else { letter.id.to_string() };
        let hosts = if letter.dead > 1 { format!("{} hosts", letter.dead) } else { host(&letter.last) };
        let died = ago(out, letter.at, now);
        let mut cells = vec![id, letter.state.as_str().to_owned(), letter.operation.clone(), hosts, letter.last.attempts.to_string(), died];
        if wide {
            let again = letter.redriven_as.map_or_else(|| "-".to_owned(), |job| job.to_string());
            cells.extend([letter.target.clone(), letter.submitted_by.clone(), again]);
        }
        cells.push(letter.last.error.message.clone());
        table.row(cells);
    }
    table.text()
}

fn host(execution: &DeadExecution) -> String {
    let agent = || execution.agent.map_or_else(|| "-".to_owned(), |agent| agent.to_string());
    execution.hostname.clone().unwrap_or_else(agent)
}

/// One dead letter with the executions that died.
pub(crate) fn dead_letter(out: &Output, letter: &DeadLetterView, now: Timestamp) -> String {
    let mut text = format!("{} {}  {}\n", printable(&letter.operation), letter.id, letter.state.as_str());
    let mut put = |label: &str, value: &str| _ = writeln!(text, "  {label:<12}{}", printable(value));
    put("target", &letter.target);
    put("submitted", &format!("by {}", letter.submitted_by));
    put("died", &ago(out, letter.at, now));
    letter.redriven_as.iter().for_each(|job| put("again as", &job.to_string()));
    if let (Some(by), Some(at)) = (&letter.closed_by, letter.closed_at) {
        put("closed", &format!("{} by {by}", ago(out, at, now)));
    }
    let mut table = Table::new(out, &["HOST", "TRY", "DIED", "ERROR"]);
    for execution in &letter.executions {
        table.row([host(execution), execution.attempts.to_string(), ago(out, execution.at, now), execution.error.message.clone()]);
    }
    text.push_str(&table.text());
    let unlisted = letter.dead.saturating_sub(letter.executions.len());
    if unlisted > 0 {
        let _ = write!(text, "\nand {unlisted} more: longshore job show {}", letter.id);
    }
    text
}

#[cfg(test)]
mod tests {
    use longshore_client::JobId;
    use serde_json::json;

    use super::*;
    use crate::output::{Color, Format};

    #[test]
    fn a_letter_says_where_it_died_of_what_and_what_became_of_it() {
        let died = json!({
            "id": "any", "hostname": "quay-07", "attempts": 3, "at": "2026-07-27T10:00:00Z",
            "error": {"code": "lost", "message": "gone\u{1b}[2J"},
        });
        let letter: DeadLetterView = serde_json::from_value(json!({
            "id": JobId::from_bits(7), "state": "redriven", "operation": "command.exec", "target": "_any", "submitted_by": "ada",
            "at": "2026-07-27T10:00:00Z", "dead": 3, "last": died, "executions": [died], "redriven_as": JobId::from_bits(8),
            "closed_by": "bob", "closed_at": "2026-07-27T11:00:00Z",
        }))
        .unwrap();
        let mut out = Output::new(Format::Table, Color::Never, false);
        out.stdout_is_terminal = false;
        let now = "2026-07-27T12:00:00Z".parse().unwrap();
        let list = dead_letters(&out, std::slice::from_ref(&letter), true, now);
        for part in ["redriven", "3 hosts", "ada", "gone\u{fffd}[2J", &JobId::from_bits(8).to_string()] {
            assert!(list.contains(part), "{part:?} in {list}");
        }
        let one = dead_letter(&out, &letter, now);
        for part in ["again as", "closed      2026-07-27T11:00:00.000Z by bob", "quay-07  3", "and 2 more: longshore job show"] {
            assert!(one.contains(part), "{part:?} in {one}");
        }
    }
}
