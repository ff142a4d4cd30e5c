//! What the existing scheduler refuses: unknown fields, missing ones, and values of another type, in the envelope and in what it reads of payloads.

use serde_json::Value;

/// A kind, its required fields and its optional ones.
type Row = (&'static str, &'static [&'static str], &'static [&'static str]);

const PAYLOADS: &[Row] = &[
    ("control.handshake", &["protocol", "auth", "worker"], &[]),
    ("control.register", &["capabilities"], &["payload_types", "packages", "manifests", "channels"]),
    ("control.resume", &["session_id", "session_token"], &["last_seen_seq"]),
    ("control.ack", &[], &["ok", "for", "info", "ack_seq", "ack_bitmap", "recv_window"]),
    ("control.heartbeat", &["healthy", "metrics"], &["packages"]),
    ("biz.exec.result", &["run_id", "task_id", "status", "result"], &["duration_ms", "metadata", "artifacts", "error"]),
    ("biz.exec.error", &["code", "message"], &["remediation", "context"]),
    ("biz.exec.feedback", &["run_id", "task_id"], &["stage", "progress", "message", "chunks", "metrics", "metadata"]),
    (
        "biz.exec.next.request",
        &["requestId", "runId", "nodeId", "middlewareId"],
        &["chainIndex", "hostCtx", "middlewareCtx", "payload", "timeoutMs"],
    ),
    ("biz.pkg.event", &["name", "version", "status"], &["log_url", "details"]),
];

const ENVELOPE: Row =
    ("the envelope", &["type", "id", "ts", "tenant", "sender", "payload"], &["corr", "seq", "session_seq", "ack", "flags"]);

pub(super) fn check(envelope: &Value) -> Result<(), String> {
    fields(envelope, &ENVELOPE)?;
    for name in ["type", "id", "tenant"] {
        if envelope[name].as_str().is_none_or(str::is_empty) {
            return Err(format!("{name} must be a text that is not empty"));
        }
    }
    if envelope["ts"].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok()).is_none() {
        return Err("ts must be a time with its zone".to_owned());
    }
    if envelope["sender"]["role"] != "worker" || envelope["sender"]["id"].as_str().is_none_or(str::is_empty) {
        return Err("sender must be a worker".to_owned());
    }
    let kind = envelope["type"].as_str().unwrap_or_default();
    if let Some(row) = PAYLOADS.iter().find(|(known, ..)| *known == kind) {
        fields(&envelope["payload"], row)?;
    }
    let payload = &envelope["payload"];
    match kind {
        "control.heartbeat" if payload["metrics"]["inflight"].as_u64().is_none() => Err("metrics.inflight must be a number".to_owned()),
        "biz.exec.result" if !["SUCCEEDED", "FAILED", "SKIPPED", "CANCELLED"].iter().any(|word| payload["status"] == *word) => {
            Err("status is none".to_owned())
        }
        "biz.exec.result" if !payload["result"].is_object() => Err("result must be an object".to_owned()),
        "biz.exec.error" if payload["message"].as_str().is_none_or(str::is_empty) => Err("message must not be empty".to_owned()),
        "biz.pkg.event" if !["installed", "failed"].iter().any(|word| payload["status"] == *word) => Err("status is none".to_owned()),
        _ if !kind.starts_with("control.") && envelope["session_seq"].as_u64().is_none_or(|number| number == 0) => {
            Err("session_seq must be a number from 1".to_owned())
        }
        _ => Ok(()),
    }
}

fn fields(object: &Value, (kind, required, optional): &Row) -> Result<(), String> {
    let fields = object.as_object().ok_or_else(|| format!("{kind} is no object"))?;
    if let Some(missing) = required.iter().find(|name| fields.get(**name).is_none_or(Value::is_null)) {
        return Err(format!("{kind} lacks {missing}"));
    }
    match fields.keys().find(|name| !required.contains(&name.as_str()) && !optional.contains(&name.as_str())) {
        Some(unknown) => Err(format!("{kind} has {unknown}, which is unknown")),
        None => Ok(()),
    }
}
