//! What a module may call that WASI does not have: `longshore.feedback`, and `longshore.next` with `longshore.next_answer`.
//!
//! An answer may have any size, so it is asked for in two calls: the first waits for it and tells its size, the second fetches it.

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use wasmi::{Caller, Error, Linker};

use super::super::feedback::Feedback;
use super::task::Task;
use super::wasi::{Done, Errno, enter, get, put};

/// The name of the module that these are in.
pub(super) const MODULE: &str = "longshore";

/// Bytes of one piece of feedback, and of one request of `next`.
const SAID_BYTES_MAX: u32 = 1 << 20;

/// What is handed on to the next element of a chain.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    payload: Map<String, Value>,
    #[serde(default)]
    host_ctx: Map<String, Value>,
    #[serde(default)]
    middleware_ctx: Map<String, Value>,
    #[serde(default)]
    timeout_ms: Option<u64>,
}

/// Whether a module may import that of ours.
pub(super) fn has(name: &str) -> bool {
    matches!(name, "feedback" | "next" | "next_answer")
}

/// Makes them known.
pub(super) fn define(linker: &mut Linker<Task>) -> Result<(), Error> {
    linker.func_wrap(MODULE, "feedback", |mut caller: Caller<'_, Task>, at: u32, length: u32| -> Result<i32, Error> {
        enter(&mut caller, |memory, task| {
            let said = said(memory, at, length)?;
            serde_json::from_slice::<Feedback>(said).map_err(|_| Errno::INVAL)?;
            task.running.wait_for_room();
            task.feedback(said);
            Ok(())
        })
    })?;
    linker.func_wrap(MODULE, "next", |mut caller: Caller<'_, Task>, at: u32, length: u32, size_at: u32| -> Result<i32, Error> {
        enter(&mut caller, |memory, task| next(memory, task, at, length, size_at))
    })?;
    linker.func_wrap(MODULE, "next_answer", |mut caller: Caller<'_, Task>, at: u32, room: u32| -> Result<i32, Error> {
        enter(&mut caller, |memory, task| {
            let answer = task.answer();
            if answer.len() > room as usize { Err(Errno::INVAL) } else { put(memory, at, answer) }
        })
    })?;
    Ok(())
}

fn said(memory: &[u8], at: u32, length: u32) -> Result<&[u8], Errno> {
    if length > SAID_BYTES_MAX { Err(Errno::INVAL) } else { get(memory, at, length) }
}

/// Asks for the next element of the chain and waits for its answer, or until the request's own time is over.
fn next(memory: &mut [u8], task: &mut Task, at: u32, length: u32, size_at: u32) -> Done {
    let asked: Asked = serde_json::from_slice(said(memory, at, length)?).map_err(|_| Errno::INVAL)?;
    // Nothing is asked whose answer could not be told of.
    get(memory, size_at, 4)?;
    let Asked { payload, host_ctx, middleware_ctx, timeout_ms } = asked;
    let timeout_ms = timeout_ms.filter(|ms| *ms > 0);
    let request = json!({ "payload": payload, "host_ctx": host_ctx, "middleware_ctx": middleware_ctx, "timeout_ms": timeout_ms });
    let deadline = timeout_ms.and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms)));
    let answer = task.ask_next(&request, deadline).unwrap_or_else(|| {
        let message = format!("the next element gave no answer within {} ms", timeout_ms.unwrap_or_default());
        json!({ "error": { "code": "next_timeout", "message": message, "trace": null } }).to_string().into_bytes()
    });
    let size = u32::try_from(answer.len()).map_err(|_| Errno::NOMEM)?;
    task.keep_answer(answer)?;
    put(memory, size_at, &size.to_le_bytes())
}
