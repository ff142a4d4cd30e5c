//! The audit trail for people.

use jiff::Timestamp;
use longshore_client::AuditRecord;

use super::table::Table;
use super::time::ago;
use crate::output::Output;

/// A list of records.
pub(crate) fn audit_records(out: &Output, records: &[AuditRecord], wide: bool, now: Timestamp) -> String {
    let mut headings = vec!["WHEN", "ACTOR", "FROM", "ACTION", "OPERATION", "TARGET", "END"];
    if wide {
        headings.extend(["JOB", "REQUEST"]);
    }
    headings.push("WHY");
    let mut table = Table::new(out, &headings);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for record in records {
        let end = record.status.map_or_else(|| "unknown".to_owned(), |status| format!("{} {status}", record.outcome().as_str()));
        let targets = (!record.targets.is_empty()).then(|| record.targets.join(", "));
        let mut cells = vec![
            ago(out, record.at, now),
            or_dash(record.who.clone()),
            or_dash(record.remote.clone()),
            format!("{} {}", record.method, record.path),
            or_dash(record.operation.clone()),
            or_dash(targets),
            end,
        ];
        if wide {
            cells.extend([or_dash(record.job.map(|job| job.to_string())), record.request_id.clone()]);
        }
        cells.push(why(record));
        table.row(cells);
    }
    table.text()
}

fn why(record: &AuditRecord) -> String {
    let said = record.reason.clone().or_else(|| record.code.map(|code| code.to_string())).unwrap_or_default();
    let more = (record.more > 0).then(|| format!("and {} more such calls before it", record.more));
    let dropped = (record.dropped_before > 0).then(|| format!("{} records before it were given up", record.dropped_before));
    [Some(said).filter(|said| !said.is_empty()), more, dropped].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::output::{Color, Format};

    #[test]
    fn a_row_says_who_did_what_and_how_it_ended() {
        let out = Output::new(Format::Table, Color::Never, false);
        let records: Vec<AuditRecord> = serde_json::from_value(json!([
            {"schema": 1, "id": "x", "at": "2026-11-22T10:00:00Z", "request_id": "r", "who": "ada", "method": "POST", "path": "/api/v1/jobs",
             "operation": "command.exec", "targets": ["web-01"], "status": 201},
            {"schema": 1, "id": "y", "at": "2026-11-22T10:00:01Z", "request_id": "r", "remote": "192.0.2.1", "method": "GET", "path": "/\u{1b}[2J",
             "status": 401, "code": "unauthenticated", "reason": "the request has no token", "more": 4711},
        ]))
        .unwrap();
        let text = audit_records(&out, &records, false, Timestamp::UNIX_EPOCH);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("WHEN") && lines[0].ends_with("WHY"), "{text}");
        assert!(lines[1].contains("POST /api/v1/jobs") && lines[1].contains("command.exec") && lines[1].ends_with("done 201"), "{text}");
        assert!(
            lines[2].contains("refused 401") && lines[2].ends_with("the request has no token; and 4711 more such calls before it"),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'));
    }
}
