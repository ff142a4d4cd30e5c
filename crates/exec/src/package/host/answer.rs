//! How a call ended, as its host tells it.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::call::{ErrorKind, HandlerError};

/// How a call ended.
#[derive(Debug)]
pub(crate) enum Answer {
    Returned { value: Value, took: Duration },
    Failed(HandlerError),
}

/// What a handler returned, if it can be read.
pub(super) fn returned(payload: &[u8]) -> Answer {
    #[derive(Deserialize)]
    struct Returned {
        #[serde(default)]
        ms: u64,
        value: Value,
    }
    match serde_json::from_slice::<Returned>(payload) {
        Ok(Returned { ms, value }) => Answer::Returned { value, took: Duration::from_millis(ms) },
        Err(error) => Answer::Failed(HandlerError::new(
            ErrorKind::BadReturn,
            format!("what the handler returned cannot be sent: {error} (numbers up to 64 bits and 100 levels of nesting can)"),
        )),
    }
}

/// Why a handler returned nothing.
pub(super) fn failed(payload: &[u8]) -> Answer {
    #[derive(Deserialize)]
    struct Failed {
        #[serde(default)]
        kind: String,
        #[serde(default, rename = "type")]
        type_name: String,
        #[serde(default)]
        message: String,
    }
    let read = serde_json::from_slice::<Failed>(payload);
    let Failed { kind, type_name, message } = read.unwrap_or_else(|error| Failed {
        kind: String::new(),
        type_name: String::new(),
        message: format!("an error that cannot be read: {error}"),
    });
    Answer::Failed(match kind.as_str() {
        "cancelled" => HandlerError::new(ErrorKind::Cancelled, "the task was cancelled"),
        "not_encodable" => HandlerError::new(ErrorKind::BadReturn, format!("what the handler returned cannot be sent: {message}")),
        "not_loaded" => {
            let what = if type_name.is_empty() { message } else { format!("{type_name}: {message}") };
            let named = HandlerError::raised(type_name, "").type_name.filter(|name| !name.is_empty());
            HandlerError { type_name: named, ..HandlerError::new(ErrorKind::NotLoaded, format!("Handler not registered: {what}")) }
        }
        _ if type_name.is_empty() => HandlerError { kind: ErrorKind::Raised, ..HandlerError::new(ErrorKind::Raised, message) },
        _ => HandlerError::raised(type_name, message),
    })
}
