//! What handlers return, read the way the existing worker reads it.
//!
//! A pure function: the same for every runtime, whatever the handler is written in.

use std::time::Duration;

use serde_json::{Map, Value};

use super::call::{Artifact, ErrorKind, HandlerError, Outcome, Status};

/// Artifacts of one task.
const ARTIFACTS_MAX: usize = 10_000;

/// Reads what a handler returned. `metadata` is the call's.
///
/// # Errors
/// It returned no object, `outputs` is none, or `status` is no text.
pub(crate) fn normalised(returned: Value, metadata: &Map<String, Value>, duration: Duration) -> Result<Outcome, HandlerError> {
    let bad = |message: String| HandlerError::new(ErrorKind::BadReturn, message);
    let mut remarks = Vec::new();
    let mut fields = match returned {
        Value::Object(fields) => fields,
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            return Err(bad(format!("the handler has to return an object (a dict in Python) and returned {}", kind_of(&other))));
        }
    };
    let status = match fields.remove("status") {
        None => Status::Succeeded,
        Some(Value::String(word)) => of_word(&word).unwrap_or_else(|| {
            // Not told: what a handler gives may be secret.
            remarks.push(format!("the status, a word of {} bytes, is none that is known, and counts as failed", word.len()));
            Status::Failed
        }),
        Some(other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_))) => {
            return Err(bad(format!("the handler returned {} as status, which has to be a text such as \"succeeded\"", kind_of(&other))));
        }
    };
    let mut merged = metadata.clone();
    match fields.remove("metadata") {
        None | Some(Value::Null) => {}
        Some(Value::Object(own)) => merged.extend(own),
        Some(other @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_))) => {
            remarks.push(format!("metadata was left out: it is {} and no object", kind_of(&other)));
        }
    }
    let artifacts = match fields.remove("artifacts") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) => artifacts(list, &mut remarks),
        Some(other @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_))) => {
            remarks.push(format!("artifacts were left out: they are {} and no list", kind_of(&other)));
            Vec::new()
        }
    };
    let result = match fields.get_mut("outputs").map(Value::take) {
        None => fields,
        // The key stays, as it is one of the result's own then.
        Some(Value::Null) => fields,
        Some(Value::Object(outputs)) => outputs,
        Some(other @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_))) => {
            return Err(bad(format!("the handler returned {} as outputs, which has to be an object (a dict in Python)", kind_of(&other))));
        }
    };
    Ok(Outcome { status, result, metadata: merged, artifacts, duration, remarks })
}

fn of_word(word: &str) -> Option<Status> {
    match word.to_uppercase().as_str() {
        "SUCCESS" | "SUCCEED" | "SUCCEEDED" | "ALLOWED" | "BLOCKED" | "OK" | "DONE" => Some(Status::Succeeded),
        "ERROR" | "FAIL" | "FAILED" => Some(Status::Failed),
        "CANCEL" | "CANCELLED" => Some(Status::Cancelled),
        "SKIP" | "SKIPPED" => Some(Status::Skipped),
        _ => None,
    }
}

fn artifacts(list: Vec<Value>, remarks: &mut Vec<String>) -> Vec<Artifact> {
    let given = list.len();
    let fits = |artifact: &Artifact| [&artifact.resource_id, &artifact.worker_name, &artifact.kind].iter().all(|text| !text.is_empty());
    let read = list.into_iter().filter_map(|entry| serde_json::from_value::<Artifact>(entry).ok()).filter(fits);
    let read = read.take(ARTIFACTS_MAX).collect::<Vec<_>>();
    if read.len() < given {
        remarks.push(format!("{} of {given} artifacts were left out: they do not have the form of one", given - read.len()));
    }
    read
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn read(returned: Value) -> Result<Outcome, HandlerError> {
        normalised(returned, &object(json!({ "concurrency_key": "k", "both": "of the call" })), Duration::from_millis(7))
    }

    #[test]
    fn every_row_of_the_table_of_words_is_read() {
        let rows = [
            (Status::Succeeded, ["success", "succeed", "SUCCEEDED", "allowed", "Blocked", "ok", "done"].as_slice()),
            (Status::Failed, &["error", "Fail", "failed"]),
            (Status::Cancelled, &["cancel", "CANCELLED"]),
            (Status::Skipped, &["skip", "Skipped"]),
        ];
        for (status, words) in rows {
            for word in words {
                let outcome = read(json!({ "status": word })).unwrap();
                assert_eq!((outcome.status, outcome.remarks.len()), (status, 0), "{word}");
            }
        }
        assert_eq!(read(json!({})).unwrap().status, Status::Succeeded);
        for odd in ["", "canceled", "weird", " ok "] {
            let outcome = read(json!({ "status": odd })).unwrap();
            assert_eq!((outcome.status, outcome.remarks.len()), (Status::Failed, 1), "{odd:?}");
        }
    }

    #[test]
    fn every_form_of_an_answer_is_read_or_refused() {
        let rows = [
            (json!({ "a": 1, "status": "ok", "metadata": {}, "artifacts": [] }), Ok(json!({ "a": 1 }))),
            (json!({ "outputs": { "a": 1 }, "b": 2 }), Ok(json!({ "a": 1 }))),
            (json!({ "outputs": {}, "b": 2 }), Ok(json!({}))),
            (json!({ "outputs": null, "b": 2 }), Ok(json!({ "outputs": null, "b": 2 }))),
            (json!({ "metadata": null, "artifacts": null, "b": 2 }), Ok(json!({ "b": 2 }))),
            (json!({ "outputs": [1] }), Err("a list as outputs")),
            (json!({ "outputs": false }), Err("a boolean as outputs")),
            (json!({ "status": 1 }), Err("a number as status")),
            (json!({ "status": null }), Err("nothing as status")),
            (json!(null), Err("returned nothing")),
            (json!([1]), Err("returned a list")),
            (json!("done"), Err("returned a text")),
            (json!(1), Err("returned a number")),
            (json!(true), Err("returned a boolean")),
        ];
        for (returned, expected) in rows {
            match (read(returned.clone()), expected) {
                (Ok(outcome), Ok(result)) => assert_eq!(Value::Object(outcome.result), result, "{returned}"),
                (Err(error), Err(words)) => {
                    assert_eq!(error.kind, ErrorKind::BadReturn, "{returned}");
                    assert!(error.message.contains(words), "{returned}: {error}");
                }
                (read, expected) => panic!("{returned}: {read:?} instead of {expected:?}"),
            }
        }
    }

    #[test]
    fn metadata_overlays_that_of_the_call() {
        let outcome = read(json!({ "metadata": { "both": "of the handler", "own": 1 } })).unwrap();
        assert_eq!(Value::Object(outcome.metadata), json!({ "concurrency_key": "k", "both": "of the handler", "own": 1 }));
        assert_eq!(outcome.duration, Duration::from_millis(7));
        assert_eq!(read(json!({ "metadata": [1] })).unwrap().remarks.len(), 1);
    }

    #[test]
    fn artifacts_that_are_none_are_left_out_and_said() {
        let good = json!({ "resource_id": "r", "worker_name": "w", "type": "file", "size_bytes": 3, "metadata": { "path": "p" } });
        let list = json!([good, { "resource_id": "r" }, { "resource_id": "", "worker_name": "w", "type": "t" }, 7, { "resource_id": "r", "worker_name": "w", "type": "t", "odd": 1 }]);
        let outcome = read(json!({ "artifacts": list })).unwrap();
        assert_eq!(serde_json::to_value(&outcome.artifacts).unwrap(), json!([good]));
        assert_eq!(outcome.remarks, ["4 of 5 artifacts were left out: they do not have the form of one"]);
        assert_eq!(read(json!({ "artifacts": { "a": 1 } })).unwrap().remarks.len(), 1);
    }
}
