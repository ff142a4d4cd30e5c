//! Handlers that are programs: found below the package's directory or on the `PATH`, talked to in JSON.
//!
//! Here is what runs one process for each call. One for all calls is a warm host whose frames are lines ([`super::codec`]).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use longshore_model::wire::problem::chain;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::call::{ErrorKind, HandlerError};
use super::pool::{Grounds, Key};
use super::start::{LastWords, stdin_pipe};
use crate::Output;
use crate::package::Installed;
use crate::process::{Exit, Program, Stop, Stops, Wiring};
use crate::provider::command::{ending, is_verified};

/// How long output may still come when the program has ended.
const REST_BOUND: Duration = Duration::from_secs(2);

/// The words of a command: a program with a `/` lies below the package's directory.
pub(crate) fn words(command: &[String], directory: &Path) -> Result<Vec<String>, String> {
    let mut words = command.to_vec();
    if words[0].contains('/') && !words[0].starts_with('/') {
        let program = directory.join(&words[0]);
        words[0] = program.into_os_string().into_string().map_err(|_| "the program's path is not UTF-8".to_owned())?;
    }
    Ok(words)
}

/// Runs the program once: gives it `request` on stdin, and what it wrote to stdout is the handler's answer.
///
/// # Errors
/// It could not be started, was stopped, ended with another status than 0, or wrote no JSON.
pub(crate) async fn once(
    grounds: &Arc<Grounds>,
    installed: &Installed,
    key: &Key,
    command: &[String],
    request: &[u8],
    output: Option<Arc<dyn Output>>,
    stops: &Stops,
) -> Result<(Value, Duration), HandlerError> {
    let unavailable =
        |why: String| HandlerError::new(ErrorKind::HostUnavailable, format!("the program {:?} could not be started: {why}", command[0]));
    let _stays = installed.hold().map_err(|error| unavailable(error.to_string()))?;
    let (stdin, mut sender) = stdin_pipe().map_err(|error| unavailable(format!("a pipe could not be made: {error}")))?;
    let cwd = key.directory.to_str().ok_or_else(|| unavailable("the package's path is not UTF-8".to_owned()))?.to_owned();
    let program = Program { words: words(command, &key.directory).map_err(unavailable)?, cwd, env: grounds.environment.clone() };
    let last_words = Arc::new(LastWords::passing_on(output));
    let (mut sink, (tell, told)) = (last_words.sink(), oneshot::channel());
    let wiring = Wiring { stdin: Some(stdin), stdout: Some(tell), limits: grounds.settings.limits(), contain: None };
    let began = Instant::now();
    let bytes_max = grounds.settings.frame_bytes_max;

    let give = async {
        // A program need not read all of it, or any of it.
        let _it_did_not_want_more = sender.write_all(request).await;
        drop(sender);
    };
    let hear = async {
        let mut answer = Vec::new();
        let Ok(stdout) = told.await else { return answer };
        let mut stdout = stdout.take(bytes_max as u64 + 1);
        let _what_came_counts = stdout.read_to_end(&mut answer).await;
        // The rest is read away, so that the program ends by itself.
        let mut rest = stdout.into_inner();
        let _nobody_wants_it = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
        answer
    };
    let running = grounds.launcher.run_wired(program, wiring, &mut sink, stops);
    tokio::pin!(running, give, hear);
    let mut answer = None;
    let mut given = false;
    let ran = loop {
        tokio::select! {
            ran = &mut running => break ran,
            heard = &mut hear, if answer.is_none() => answer = Some(heard),
            () = &mut give, if !given => given = true,
        }
    };
    let took = began.elapsed();
    let ran = ran.map_err(|fault| {
        let kind = if is_verified(&fault) { ErrorKind::HostUnavailable } else { ErrorKind::HostDied };
        HandlerError { verified: is_verified(&fault), ..HandlerError::new(kind, format!("the handler's program: {}", chain(&fault))) }
    })?;
    let answer = match answer {
        Some(answer) => answer,
        None => timeout(REST_BOUND, hear).await.unwrap_or_default(),
    };
    match (ran.stop, ran.exit) {
        (Some(Stop::Cancelled | Stop::Abandoned), _) => {
            Err(HandlerError { verified: ran.verified, ..HandlerError::new(ErrorKind::Cancelled, "the task was cancelled") })
        }
        (Some(Stop::TimedOut), _) => {
            Err(HandlerError { verified: ran.verified, ..HandlerError::new(ErrorKind::TimedOut, "the handler ran longer than it may") })
        }
        (None, Some(Exit { code: Some(0), signal: None })) => read(&answer, bytes_max).map(|value| (value, took)),
        (None, exit) => {
            let mut message = format!("the handler's program {}", ending(exit));
            let last_words = last_words.text();
            if !last_words.is_empty() {
                message += &format!("; its last words: {last_words}");
            }
            Err(HandlerError { verified: ran.verified, ..HandlerError::raised("ExitStatus", message) })
        }
    }
}

fn read(answer: &[u8], bytes_max: usize) -> Result<Value, HandlerError> {
    let bad = |why: String| {
        HandlerError::new(ErrorKind::BadReturn, format!("the handler's program has to write one JSON object to stdout: {why}"))
    };
    if answer.len() > bytes_max {
        return Err(bad(format!("it wrote more than {bytes_max} bytes")));
    }
    if answer.trim_ascii().is_empty() {
        return Err(bad("it wrote nothing".to_owned()));
    }
    serde_json::from_slice(answer).map_err(|error| bad(error.to_string()))
}
