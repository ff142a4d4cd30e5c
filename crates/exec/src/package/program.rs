//! Runs the few programs that an install may need, through the process door: a time-out, no input, an environment of their own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use longshore_model::unit::Span;
use longshore_model::wire::log::LogStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::executor::{Output, PATH_DEFAULT, inherited};
use crate::process::{Fault, Launcher, Program, Sink, Stop, Stops};

const OUTPUT_BYTES_MAX: u64 = 1024 * 1024;
/// How much of what a failing program said is told.
const SAID_BYTES_MAX: usize = 2048;

/// Why a program did not do what it was started for.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It could not be started, or was lost.
    #[error("run {program:?}: {reason}")]
    NotRun {
        /// Which.
        program: String,
        /// Why.
        reason: String,
    },
    /// It failed.
    #[error("run {program:?}: it ended with {status}: {said}")]
    Failed {
        /// Which.
        program: String,
        /// Its status.
        status: String,
        /// The end of what it said.
        said: String,
    },
    /// Its time was up.
    #[error("run {program:?}: it ran longer than {limit}")]
    TimedOut {
        /// Which.
        program: String,
        /// What it had.
        limit: Span,
    },
    /// The caller asked for the end.
    #[error("run {program:?}: stopped")]
    Stopped {
        /// Which.
        program: String,
    },
}

/// A program of an install.
pub(super) struct Run<'a> {
    pub(super) words: Vec<String>,
    pub(super) cwd: &'a Path,
    /// Its home: what it keeps there goes with the install.
    pub(super) home: &'a Path,
    pub(super) variables: &'a [(&'a str, String)],
    pub(super) limit: Duration,
}

struct Nobody;

impl Output for Nobody {
    fn write(&self, _step: u32, _stream: LogStream, _bytes: &[u8]) {}
}

/// Runs a program to its end.
pub(super) async fn run(launcher: &Launcher, run: Run<'_>, stop: &CancellationToken) -> Result<(), ProgramError> {
    let program = run.words.first().cloned().unwrap_or_default();
    let path = inherited("PATH").unwrap_or_else(|| PATH_DEFAULT.to_owned());
    let home = run.home.display().to_string();
    let mut env: BTreeMap<String, String> =
        [("PATH", path), ("HOME", home), ("LANG", "C.UTF-8".to_owned())].map(|(name, value)| (name.to_owned(), value)).into();
    env.extend(run.variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    let stops = Stops { cancel: stop.clone(), abandon: CancellationToken::new(), deadline: Instant::now() + run.limit };
    let mut sink = Sink::keeping(Arc::new(Nobody), OUTPUT_BYTES_MAX);
    let spec = Program { words: run.words, cwd: run.cwd.display().to_string(), env };
    let ran = launcher.run(spec, &mut sink, &stops).await.map_err(|fault| not_run(&program, &fault))?;
    let captured = sink.finish().await;
    match (ran.stop, ran.exit.and_then(|exit| exit.code)) {
        (Some(Stop::Cancelled | Stop::Abandoned), _) => Err(ProgramError::Stopped { program }),
        (Some(Stop::TimedOut), _) => Err(ProgramError::TimedOut { program, limit: Span(run.limit) }),
        (None, Some(0)) => Ok(()),
        (None, code) => {
            let said = if captured.stderr.trim().is_empty() { &captured.stdout } else { &captured.stderr };
            let status = code.map_or_else(|| "a signal".to_owned(), |code| format!("status {code}"));
            Err(ProgramError::Failed { program, status, said: end_of(said) })
        }
    }
}

fn not_run(program: &str, fault: &Fault) -> ProgramError {
    ProgramError::NotRun { program: program.to_owned(), reason: longshore_model::wire::problem::chain(fault) }
}

/// The end of what a program said, on one line and without what a terminal would obey.
fn end_of(said: &str) -> String {
    let said = said.trim();
    let from = said.ceil_char_boundary(said.len().saturating_sub(SAID_BYTES_MAX));
    said[from..].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
