//! The agent's side: starts a carrier, or finds an earlier agent's, and follows it to the end of its job.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Socket;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use longshore_model::operation::WorkspaceRun;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout, timeout_at};

use super::carry::SIGN_OF_LIFE_EVERY;
use super::directory::{Directory, Whose, clear};
use super::errand::{CarrierOrder, Errand};
use super::record::Reader;
use crate::Output;
use crate::executor::{Host, Resumable, Task};
use crate::finished::Finished;
use crate::process::{CARRIER_VARIABLE, Stop, Stops, hand_over, random_text};
use crate::secrets::opened;

/// Signs of life that may be missing before a carrier is woken, in case its job has stopped it.
const MISSING_UNTIL_WOKEN: u32 = 5;
/// And before it is given up.
const MISSING_MAX: u32 = 60;
/// How long a carrier may take to begin.
const START_BOUND: Duration = Duration::from_secs(30);
/// How long a carrier that has said its last word may take to exit.
const EXIT_BOUND: Duration = Duration::from_secs(5);
/// How long output that was written already may take to be passed on; the rest is passed on without waiting for room.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(30);

/// A job that an earlier agent left, with its carrier or with its carrier's last word.
#[derive(Debug)]
pub(crate) struct Left {
    whose: Whose,
    directory: Directory,
    /// Connected, so that the carrier's patience is not used up meanwhile. Absent if it has ended.
    socket: Option<Socket>,
}

impl Left {
    /// What is in this directory of an earlier agent, if it can be gone on with.
    pub(crate) fn find(workspaces: &std::path::Path, name: &std::ffi::OsStr) -> Option<Self> {
        let directory = Directory::open(workspaces, name).ok()?;
        let whose = directory.whose()?;
        // Connected first: one that ends in between has left its last word by then.
        let socket = directory.connect().ok();
        (socket.is_some() || directory.ended().is_some()).then_some(Self { whose, directory, socket })
    }

    /// What it is known by.
    pub(crate) fn whose(&self) -> Resumable {
        let Whose { job, execution, attempt, .. } = self.whose;
        Resumable { job, execution, attempt, runs: self.socket.is_some() }
    }
}

/// Performs a workspace job in a process of its own.
pub(crate) async fn run(host: &Host, task: &Task, run: &WorkspaceRun, output: Arc<dyn Output>, stops: &Stops) -> Finished {
    let secrets = match opened(&run.secrets) {
        Ok(secrets) => secrets,
        Err(finished) => return *finished,
    };
    let whose = Whose::new(task.job.id, task.execution, task.attempt);
    let name = format!("{}.{}.{}.{}", task.job.id, task.execution, task.attempt, random_text());
    let directory = match Directory::create(&host.workspaces, &name, &whose) {
        Ok(directory) => directory,
        Err(error) => return Finished::host_fault(format!("could not make a workspace: {error}")),
    };
    let errand = serde_json::to_vec(&Errand::new(host, task, secrets, &directory)).expect("a definition is JSON");
    let (child, socket) = match start(host, &directory) {
        Ok(started) => started,
        Err(error) => {
            let program = host.launcher.supervisor.program.display();
            let message = format!("could not start the job's own process {program:?}: {error}");
            return Follow::of(directory, None).cleared(Finished::host_fault(message)).await;
        }
    };
    Follow::of(directory, Some(child)).until_its_end(Some((socket, errand)), output, stops).await
}

/// Goes on with a job of an earlier agent: passes on its output from the beginning, and gives how it ends.
pub(crate) async fn adopt(left: Left, output: Arc<dyn Output>, stops: &Stops) -> Finished {
    let Left { directory, socket, .. } = left;
    let socket = socket.and_then(|socket| {
        socket.set_nonblocking(true).ok()?;
        Some((UnixStream::from_std(socket).ok()?, Vec::new()))
    });
    Follow::of(directory, None).until_its_end(socket, output, stops).await
}

/// Ends a job of an earlier agent that is no longer this agent's. Blocks. True if every process is known to be gone.
pub(crate) fn discard(left: &Left) -> bool {
    clear(&left.directory)
}

fn start(host: &Host, directory: &Directory) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = Socket::pair()?;
    hand_over(&ours, None)?;
    ours.set_nonblocking(true)?;
    let child = Command::new(&host.launcher.supervisor.program)
        .args(&host.launcher.supervisor.args)
        .env_clear()
        .env(CARRIER_VARIABLE, format!("{}@{}", random_text(), directory.path().display()))
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok((child, UnixStream::from_std(ours)?))
}

struct Follow {
    directory: Arc<Directory>,
    child: Option<Child>,
    pid: Option<Pid>,
}

impl Follow {
    fn of(directory: Directory, child: Option<Child>) -> Self {
        let pid = child.as_ref().and_then(|child| Pid::from_raw(i32::try_from(child.id()?).ok()?));
        Self { directory: Arc::new(directory), child, pid }
    }

    async fn until_its_end(mut self, socket: Option<(UnixStream, Vec<u8>)>, output: Arc<dyn Output>, stops: &Stops) -> Finished {
        let mut reader = None;
        if let Some((mut socket, mut errand)) = socket {
            if self.pid.is_none() {
                self.pid = socket_peercred(&socket).ok().map(|credentials| credentials.pid);
            }
            if !errand.is_empty() {
                errand.push(b'\n');
                // One that does not take it has ended, which is noticed by reading.
                let _noticed_by_reading = timeout(START_BOUND, socket.write_all(&errand)).await;
            }
            let news = Notify::new();
            tokio::select! {
                biased;
                () = self.listen(socket, &news, stops) => {}
                () = pass_on(&self.directory, &mut reader, &*output, &news) => {}
            }
        }
        if let Some(child) = &mut self.child
            && timeout(EXIT_BOUND, child.wait()).await.is_err()
        {
            let _gone_already = child.start_kill();
        }
        self.pass_on_the_rest(&mut reader, &*output, stops).await;
        self.conclude(stops).await
    }

    /// Listens until the carrier is gone, and passes orders on to it. One that shows no life is ended.
    async fn listen(&self, socket: UnixStream, news: &Notify, stops: &Stops) {
        let (mut reader, mut writer) = socket.into_split();
        let mut every = tokio::time::interval(SIGN_OF_LIFE_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut missing, mut ordered) = (0, None);
        let mut signs = [0; 256];
        loop {
            let order = tokio::select! {
                n = reader.read(&mut signs) => match n {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {
                        missing = 0;
                        news.notify_one();
                        continue;
                    }
                },
                () = stops.abandon.cancelled(), if ordered != Some(CarrierOrder::Abandon) => CarrierOrder::Abandon,
                () = stops.cancel.cancelled(), if ordered.is_none() => CarrierOrder::Cancel,
                _ = every.tick() => {
                    missing += 1;
                    if missing > MISSING_UNTIL_WOKEN {
                        self.signal(Signal::CONT);
                    }
                    if missing > MISSING_MAX {
                        tracing::warn!(workspace = %self.directory.path().display(), "a job's own process shows no life, and is ended");
                        self.signal(Signal::KILL);
                        return;
                    }
                    continue;
                }
            };
            ordered = Some(order);
            self.signal(Signal::CONT);
            let mut line = serde_json::to_vec(&order).expect("a word is JSON");
            line.push(b'\n');
            let _noticed_by_reading = timeout(EXIT_BOUND, writer.write_all(&line)).await;
        }
    }

    fn signal(&self, signal: Signal) {
        // Only while its socket is open, so that the number is still its own.
        let _gone_already = self.pid.map(|pid| kill_process(pid, signal));
    }

    /// Passes on what was written by the end.
    async fn pass_on_the_rest(&self, reader: &mut Option<Reader>, output: &dyn Output, stops: &Stops) {
        let Some(reader) = output_of(&self.directory, reader) else { return };
        let until = Instant::now() + OUTPUT_PATIENCE;
        while let Some(record) = reader.peek() {
            // A full queue drops, and shows a gap: better than an end that nobody hears of.
            let _room_or_none = stops.abandon.run_until_cancelled(timeout_at(until, output.ready())).await;
            output.write(record.step, record.stream, &record.bytes);
            reader.pass(&record);
        }
    }

    async fn conclude(self, stops: &Stops) -> Finished {
        let directory = Arc::clone(&self.directory);
        let Some(ended) = blocking(move || directory.ended()).await.flatten() else {
            return self.lost(stops).await;
        };
        let directory = self.directory;
        let archive = directory.archive(&ended);
        if archive.is_none() {
            blocking(move || {
                if let Err(error) = directory.remove() {
                    tracing::warn!(%error, workspace = %directory.path().display(), "a workspace could not be removed");
                }
            })
            .await;
        }
        ended.finished(archive)
    }

    /// For a carrier that is gone without a last word.
    async fn lost(self, stops: &Stops) -> Finished {
        let directory = self.directory;
        let verified = blocking(move || clear(&directory)).await.unwrap_or(false);
        match stops.now() {
            Some(Stop::Cancelled | Stop::Abandoned) => Finished::cancelled(verified),
            Some(Stop::TimedOut) | None => {
                let message = "could not follow the job: its own process ended before it";
                // With survivors about, another attempt could meet them: it is not for the retry policy to start one.
                Finished { transient: verified, ..Finished::host_fault(message) }
            }
        }
    }

    async fn cleared(self, finished: Finished) -> Finished {
        let directory = self.directory;
        blocking(move || clear(&directory)).await;
        finished
    }
}

/// Passes output on as it comes; for ever.
async fn pass_on(directory: &Directory, reader: &mut Option<Reader>, output: &dyn Output, news: &Notify) {
    loop {
        if let Some(reader) = output_of(directory, reader) {
            while let Some(record) = reader.peek() {
                output.ready().await;
                output.write(record.step, record.stream, &record.bytes);
                reader.pass(&record);
                // A step that floods is never caught up with, and orders have to get through nevertheless.
                tokio::task::yield_now().await;
            }
        }
        news.notified().await;
    }
}

fn output_of<'a>(directory: &Directory, reader: &'a mut Option<Reader>) -> Option<&'a mut Reader> {
    if reader.is_none() {
        *reader = directory.read_output();
    }
    reader.as_mut()
}

/// Runs file work off the runtime's threads; `None` if it panicked, which is a fault of ours.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    spawn_blocking(work).await.inspect_err(|error| tracing::error!(%error, "file work of a workspace failed")).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Poll;

    use longshore_model::wire::log::LogStream;
    use longshore_model::{ExecutionId, JobId};

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Output for Counter {
        fn write(&self, _step: u32, _stream: LogStream, _bytes: &[u8]) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn orders_get_through_to_a_job_that_prints_faster_than_it_is_read() {
        const RECORDS: usize = 1000;
        let dir = tempfile::tempdir().unwrap();
        let whose = Whose::new(JobId::from_bits(1), ExecutionId::Any, 1);
        let directory = Directory::create(dir.path(), "job", &whose).unwrap();
        let mut writer = directory.write_output().unwrap();
        (0..RECORDS).for_each(|_| writer.append(0, LogStream::Stdout, b"x"));
        let (mut reader, output, news) = (None, Counter::default(), Notify::new());
        let mut passing = std::pin::pin!(pass_on(&directory, &mut reader, &output, &news));
        let mut n_looks = 0;
        while output.0.load(Ordering::Relaxed) < RECORDS {
            assert!(std::future::poll_fn(|cx| Poll::Ready(passing.as_mut().poll(cx))).await.is_pending());
            n_looks += 1;
        }
        assert!(n_looks > RECORDS / 10, "{n_looks}");
    }
}
