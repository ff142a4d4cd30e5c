//! The agent's end of the conversation with a supervisor: follows a program from its start to the end of its output.

use std::time::Duration;

use longshore_model::limits::LOG_RECORD_BYTES_MAX;
use longshore_model::wire::log::LogStream;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{ChildStderr, ChildStdout};
use tokio::time::{Instant, sleep_until, timeout};

use super::super::capture::Sink;
use super::super::protocol::{Order, Report, StartFault};
use super::super::stops::{Stop, Stops};
use super::super::tree::{KILL_BOUND, Marked, end_marked};
use super::keeper::{Keeper, Started};
use super::{Exit, Fault, Ran};

/// How long a supervisor may take to start the program.
const START_BOUND: Duration = Duration::from_secs(30);
/// How long a supervisor may take beyond what its own bounds add up to.
const ANSWER_BOUND: Duration = Duration::from_secs(5);
/// How long output may still come when every process is known to be gone.
const DRAIN_BOUND: Duration = Duration::from_secs(5);

/// What is known of a program, and of the supervisor that has it.
pub(super) struct Conversation {
    keeper: Keeper,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    socket: Option<UnixStream>,
    mark: String,
    kill_grace: Duration,
    began: Instant,
    started: bool,
    exit: Option<Exit>,
    ended: Option<Instant>,
    done: Option<bool>,
    stop: Option<Stop>,
    uncontained: Option<i32>,
}

enum News {
    Output(LogStream, usize),
    Report(Option<Report>),
    Stop(Stop),
    GiveUp,
}

impl Conversation {
    pub(super) fn new(Started { keeper, stdout, stderr }: Started, socket: UnixStream, mark: String, kill_grace: Duration) -> Self {
        let began = Instant::now();
        Self {
            keeper,
            stdout,
            stderr,
            socket: Some(socket),
            mark,
            kill_grace,
            began,
            started: false,
            exit: None,
            ended: None,
            done: None,
            stop: None,
            uncontained: None,
        }
    }

    /// Follows the supervisor from its spec to the end of its output.
    pub(super) async fn follow(&mut self, mut spec: Vec<u8>, sink: &mut Sink, stops: &Stops) -> Result<Option<(StartFault, i32)>, Fault> {
        let socket = self.socket.take().expect("a conversation is followed once");
        let (reader, mut writer) = socket.into_split();
        let mut reports = BufReader::new(reader).lines();
        let (mut stdout, mut stderr) = (self.stdout.take(), self.stderr.take());
        let (mut out_buffer, mut err_buffer) = (vec![0; LOG_RECORD_BYTES_MAX], vec![0; LOG_RECORD_BYTES_MAX]);
        let mut give_up = Some(Instant::now() + START_BOUND);
        let (mut talking, mut not_started) = (true, None);
        let stopped = stops.first();
        tokio::pin!(stopped);

        spec.push(b'\n');
        if !matches!(timeout(START_BOUND, writer.write_all(&spec)).await, Ok(Ok(()))) {
            return Err(self.lost().await);
        }
        while talking || stdout.is_some() || stderr.is_some() {
            let may_stop = self.stop.is_none() && self.exit.is_none() && talking;
            let news = tokio::select! {
                n = read(&mut stdout, &mut out_buffer) => News::Output(LogStream::Stdout, n),
                n = read(&mut stderr, &mut err_buffer) => News::Output(LogStream::Stderr, n),
                line = reports.next_line(), if talking => {
                    News::Report(line.ok().flatten().and_then(|line| serde_json::from_str(&line).ok()))
                }
                stop = &mut stopped, if may_stop => News::Stop(stop),
                () = sleep_until(give_up.unwrap_or_else(Instant::now)), if give_up.is_some() => News::GiveUp,
            };
            match news {
                News::Output(LogStream::Stdout, 0) => stdout = None,
                News::Output(LogStream::Stderr, 0) => stderr = None,
                News::Output(LogStream::Stderr, n) => sink.take(LogStream::Stderr, &err_buffer[..n]).await,
                News::Output(LogStream::Stdout | LogStream::System, n) => sink.take(LogStream::Stdout, &out_buffer[..n]).await,
                News::Report(Some(Report::Started { pid: _ })) => {
                    self.started = true;
                    give_up = give_up.filter(|_| self.stop.is_some());
                }
                News::Report(Some(Report::Uncontained { errno })) => self.uncontained = Some(errno),
                News::Report(Some(Report::NotStarted { at, errno })) => not_started = Some((at, errno)),
                News::Report(Some(Report::Exited { code, signal })) => {
                    self.exit = Some(Exit { code, signal });
                    self.ended = Some(Instant::now());
                    give_up.get_or_insert_with(|| Instant::now() + KILL_BOUND + ANSWER_BOUND);
                }
                News::Report(Some(Report::Done { verified })) => {
                    self.done = Some(verified);
                    talking = false;
                    give_up = Some(Instant::now() + DRAIN_BOUND);
                }
                News::Report(None) if self.stop.is_some() => {
                    self.end_by_force().await;
                    self.done = Some(false);
                    break;
                }
                News::Report(None) => return Err(self.lost().await),
                News::Stop(stop) => {
                    self.stop = Some(stop);
                    let grace = match stop {
                        Stop::Abandoned => Duration::ZERO,
                        Stop::Cancelled | Stop::TimedOut => self.kill_grace,
                    };
                    give_up = Some(Instant::now() + grace + KILL_BOUND + ANSWER_BOUND);
                    let order = Order::Kill { grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX) };
                    let mut line = serde_json::to_vec(&order).expect("a number is JSON");
                    line.push(b'\n');
                    // A job may have stopped its supervisor.
                    self.keeper.wake();
                    // A supervisor that does not take it is one that has ended or hangs; both are noticed by reading.
                    let _noticed_by_reading = timeout(ANSWER_BOUND, writer.write_all(&line)).await;
                }
                News::GiveUp if self.done.is_some() => {
                    // Somebody still holds a pipe, so somebody is still alive: a descriptor passed outside the tree, say.
                    self.done = Some(false);
                    break;
                }
                News::GiveUp if !self.started => {
                    self.end_by_force().await;
                    return Err(Fault::SupervisorHangs);
                }
                News::GiveUp => {
                    // What carries the mark is gone, but what does not cannot be known.
                    self.end_by_force().await;
                    self.done = Some(false);
                    break;
                }
            }
        }
        // It exits right after its last word; reaping it is all that is left.
        let _reaped = timeout(ANSWER_BOUND, self.keeper.reap()).await;
        Ok(not_started)
    }

    async fn lost(&mut self) -> Fault {
        Fault::SupervisorDied { verified: self.end_by_force().await }
    }

    /// For a supervisor that is gone or hangs: ends it, and whatever carries the tree's mark.
    async fn end_by_force(&mut self) -> bool {
        // However long its end takes: it is in the kernel's hands then.
        let _later = timeout(ANSWER_BOUND, self.keeper.kill()).await;
        let mark = self.mark.clone();
        tokio::task::spawn_blocking(move || end_marked(Marked::Tree(&mark))).await.unwrap_or(false)
    }

    pub(super) fn ran(&self) -> Ran {
        Ran {
            exit: self.exit,
            stop: self.stop,
            verified: self.done == Some(true),
            elapsed: self.ended.unwrap_or_else(Instant::now) - self.began,
            uncontained: self.uncontained,
        }
    }
}

/// Reads once; 0 at the end and on errors. Never ready without a pipe. Cancel-safe.
async fn read<R: AsyncRead + Unpin>(pipe: &mut Option<R>, buffer: &mut [u8]) -> usize {
    match pipe {
        Some(pipe) => pipe.read(buffer).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}
