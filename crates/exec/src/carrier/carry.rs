//! The carrier's side: does the job, writes down what comes of it, and listens to whichever agent there is.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use longshore_model::job::Job;
use longshore_model::operation::Call;
use longshore_model::wire::log::LogStream;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::Outcome;
use longshore_model::wire::secret::Secret;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::directory::{ARCHIVE, Directory};
use super::errand::{CarrierOrder, Ended, Errand};
use super::record::Writer;
use crate::executor::{Host, Task};
use crate::finished::Finished;
use crate::machine::Machine;
use crate::process::{Launcher, Stops};
use crate::{Output, SupervisorCommand, workspace};

/// Between signs of life.
pub(super) const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(1);

/// Carries one job to its end, told by `line`. The agent's socket is stdin; `heard` is what came over it after the line. The only thread of its
/// process when it is called.
pub(crate) fn carry(line: &[u8], heard: Vec<u8>) -> io::Result<()> {
    let errand: Errand = serde_json::from_slice(line)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let carried = runtime.block_on(carry_on(errand, heard));
    // What still reads a socket or a file of nobody's ends with the process.
    runtime.shutdown_background();
    carried
}

async fn carry_on(errand: Errand, heard: Vec<u8>) -> io::Result<()> {
    // Its end is the agent's to decide. Handled rather than ignored: what is ignored is ignored by the steps, too.
    let _held = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::quit()].map(unheard);
    let (parent, name) = (errand.directory.parent(), errand.directory.file_name());
    let directory = parent.zip(name).map(|(parent, name)| Directory::open(parent, name)).ok_or(io::ErrorKind::InvalidInput)??;
    let lines = Lines::new();
    let stops = Stops { cancel: CancellationToken::new(), abandon: CancellationToken::new(), deadline: Instant::now() };
    let mut talk = JoinSet::new();
    let finished = match begin(&directory, &errand, heard, (&lines, &stops), &mut talk) {
        Ok(output) => perform(errand, Arc::new(Spool { writer: Mutex::new(output), lines: lines.clone() }), stops.clone()).await,
        Err(error) => Finished::host_fault(format!("could not use the job's own directory: {error}")),
    };
    let finished = match (stops.abandon.is_cancelled(), *lines.n_open.borrow()) {
        // Nobody came, and whoever comes now finds the work given to somebody else.
        (true, 0) => return directory.remove(),
        (true, _) => unless_abandoned(finished),
        (false, _) => finished,
    };
    directory.write_ended(&kept(&directory, finished))?;
    talk.abort_all();
    Ok(())
}

/// Opens what the job and its agents meet at.
fn begin(
    directory: &Directory,
    errand: &Errand,
    heard: Vec<u8>,
    (lines, stops): (&Lines, &Stops),
    talk: &mut JoinSet<()>,
) -> io::Result<Writer> {
    talk.spawn(lines.join(agent_at_stdin()?, heard, stops.clone()));
    let (listener, output) = (directory.listen()?, directory.write_output()?);
    listener.set_nonblocking(true)?;
    talk.spawn(accept(tokio::net::UnixListener::from_std(listener)?, lines.clone(), stops.clone()));
    talk.spawn(show_life(lines.clone()));
    talk.spawn(give_up_alone(lines.n_open.subscribe(), Duration::from_millis(errand.patience_ms), stops.clone()));
    Ok(output)
}

/// For an agent that came when the job was being given up already: nobody has asked for a cancel, so it must not look like one.
fn unless_abandoned(finished: Finished) -> Finished {
    if finished.outcome != Outcome::Cancelled {
        return finished;
    }
    let verified = finished.cancel_verified == Some(true);
    Finished { transient: verified, ..Finished::host_fault("was ended by its own process, as no agent had come for it in time") }
}

/// The last word on `finished`, whose archive is where the next agent looks for it.
fn kept(directory: &Directory, finished: Finished) -> Ended {
    let (ended, archive) = Ended::of(finished);
    match archive.map(|archive| std::fs::rename(archive.keep(), directory.path().join(ARCHIVE))) {
        None | Some(Ok(())) => ended,
        Some(Err(error)) => Ended::of(Finished::host_fault(format!("could not keep what the job brought back: {error}"))).0,
    }
}

async fn perform(errand: Errand, output: Arc<dyn Output>, stops: Stops) -> Finished {
    let began = Instant::now();
    let invalid = |what: String| Finished::failed(ErrorCode::Internal, format!("the job's own process was told {what}"));
    let Some(state_dir) = errand.directory.to_str().map(str::to_owned) else { return invalid("a directory that is not UTF-8".into()) };
    let mut job = match Job::try_from(errand.definition) {
        Ok(job) => job,
        Err(error) => return invalid(format!("no definition: {error}")),
    };
    if let Some(secrets) = job.call.secrets_mut() {
        *secrets = errand.secrets.into_iter().map(|(name, value)| (name, Secret::Plain(value))).collect();
    }
    let (execution, attempt, fence, hostname) = (errand.execution, errand.attempt, errand.fence, errand.hostname);
    let task = Task { job, execution, attempt, fence, hostname, bundle: errand.bundle };
    let supervisor = SupervisorCommand { program: errand.supervisor, args: errand.supervisor_args };
    let host = Host {
        launcher: Launcher { supervisor, kill_grace: Duration::from_millis(errand.kill_grace_ms), state_dir, nursery: None },
        workspaces: errand.directory.clone(),
        jobs_dir: errand.jobs_dir,
        temporary: errand.directory,
        home: errand.home,
        machine: Machine::default(),
        settings: tokio::sync::Mutex::default(),
        path: errand.path,
        patience: Duration::ZERO,
        drive_patience: Duration::from_millis(errand.drive_patience_ms),
        packages: std::sync::OnceLock::new(),
        installer: std::sync::OnceLock::new(),
    };
    let stops = Stops { deadline: began + task.job.timeout, ..stops };
    let Call::WorkspaceRun { run, args: _ } = &task.job.call else { return invalid("another operation".into()) };
    let finished = workspace::run(&host, &task, run, output, &stops).await;
    Finished { duration: began.elapsed(), ..finished }
}

fn unheard(kind: SignalKind) -> Option<Signal> {
    signal(kind).ok()
}

fn agent_at_stdin() -> io::Result<UnixStream> {
    let socket = std::os::unix::net::UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

/// The agents that listen: one as a rule, none after it was killed.
#[derive(Clone)]
struct Lines {
    writers: Arc<Mutex<Vec<(u64, OwnedWriteHalf)>>>,
    n_open: watch::Sender<usize>,
}

impl Lines {
    fn new() -> Self {
        Self { writers: Arc::default(), n_open: watch::Sender::new(0) }
    }

    /// Takes an agent among those that listen; what it gives hears the agent out, until it is gone.
    /// `heard` is what it has said before.
    fn join(&self, agent: UnixStream, heard: Vec<u8>, stops: Stops) -> impl Future<Output = ()> + Send + 'static {
        let (reader, writer) = agent.into_split();
        let number = {
            let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
            let number = writers.last().map_or(0, |(last, _)| last + 1);
            writers.push((number, writer));
            number
        };
        self.n_open.send_modify(|n_open| *n_open += 1);
        let lines = self.clone();
        async move {
            follow_orders(io::Cursor::new(heard).chain(reader), stops).await;
            lines.writers.lock().unwrap_or_else(PoisonError::into_inner).retain(|(other, _)| *other != number);
            lines.n_open.send_modify(|n_open| *n_open -= 1);
        }
    }

    /// Tells every agent that there may be something to read. One that has not read the last such word needs no other.
    fn nudge(&self) {
        let writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, writer) in writers.iter() {
            let _full_or_gone = writer.try_write(b".");
        }
    }
}

async fn follow_orders(reader: impl AsyncRead + Unpin, stops: Stops) {
    let mut orders = BufReader::new(reader).lines();
    while let Ok(Some(line)) = orders.next_line().await {
        match serde_json::from_str(&line) {
            Ok(CarrierOrder::Cancel) => stops.cancel.cancel(),
            Ok(CarrierOrder::Abandon) => stops.abandon.cancel(),
            // A newer agent's word: it can still cancel and abandon.
            Err(_) => {}
        }
    }
}

async fn accept(listener: tokio::net::UnixListener, lines: Lines, stops: Stops) {
    let mut heard = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((agent, _)) => drop(heard.spawn(lines.join(agent, Vec::new(), stops.clone()))),
                // Too many files are open, say: whoever connected waits.
                Err(_) => tokio::time::sleep(SIGN_OF_LIFE_EVERY).await,
            },
            Some(_) = heard.join_next() => {}
        }
    }
}

async fn show_life(lines: Lines) {
    let mut every = tokio::time::interval(SIGN_OF_LIFE_EVERY);
    loop {
        every.tick().await;
        lines.nudge();
    }
}

/// Abandons the job when nobody has listened for as long as `patience`.
async fn give_up_alone(mut n_open: watch::Receiver<usize>, patience: Duration, stops: Stops) {
    loop {
        until(&mut n_open, |n_open| n_open == 0).await;
        if tokio::time::timeout(patience, until(&mut n_open, |n_open| n_open > 0)).await.is_err() {
            return stops.abandon.cancel();
        }
    }
}

async fn until(n_open: &mut watch::Receiver<usize>, holds: impl Fn(usize) -> bool) {
    // Fails only without a sender, which this process has to its end.
    let _ = n_open.wait_for(|n_open| holds(*n_open)).await;
}

/// Output on its way to the file.
struct Spool {
    writer: Mutex<Writer>,
    lines: Lines,
}

impl Output for Spool {
    fn write(&self, step: u32, stream: LogStream, bytes: &[u8]) {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).append(step, stream, bytes);
        self.lines.nudge();
    }
}
