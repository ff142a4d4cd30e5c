//! The handler host of WebAssembly modules, a process of its own like every other: calls come in as frames, each is run by a thread in
//! a store of its own, and answers go out as frames.
//!
//! What a module may do is in [`wasi`], [`ours`] and [`files`], how long and how large it may become in [`engine`]. A call that loops is stopped
//! between two slices of fuel, so it costs nobody else anything. Should the engine itself fall over, this process does and not the worker.

mod engine;
mod files;
mod ours;
mod task;
mod wasi;

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use serde::Deserialize;
use serde_json::json;

use self::engine::{End, Guest};
use self::task::{Around, Running, Task};
use super::frame::{FromHost, ToHost, encode_from_host};

/// Calls that run at a time; others wait.
const WORKERS_MAX: usize = 32;
/// Calls beside them that wait for the answer to a `next()`, which may need a place here to be given; with more, they keep their own.
const ASIDE_MAX: usize = 256;
/// Bytes of the stack of a thread that runs a call. The engine has a stack of its own for what the module calls.
const STACK_BYTES: usize = 2 << 20;
/// Bytes of the first frame.
const HELLO_BYTES_MAX: usize = 1 << 20;

/// What a host is told first.
#[derive(Debug, Deserialize)]
struct Hello {
    module: PathBuf,
    frame_bytes_max: usize,
    /// Bytes that all calls may have together.
    memory_bytes_max: usize,
}

/// What is wanted, of which call, and its words; no kind for one that is not known.
type Order = (Option<ToHost>, u32, Vec<u8>);

/// What every thread of this process shares.
struct Host {
    hello: Hello,
    /// Loaded by the first call.
    guest: OnceLock<Result<Guest, String>>,
    out: Mutex<File>,
    memory: Arc<AtomicUsize>,
    queue: Mutex<Queue>,
    waiting: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(u32, Vec<u8>, Arc<Running>)>,
    /// Everything that is not answered yet.
    calls: BTreeMap<u32, Arc<Running>>,
    /// Threads that run calls, or wait for one.
    workers: usize,
    idle: usize,
    /// Threads that wait for the answer to a `next()`.
    aside: usize,
}

/// One call, as it sees this process.
struct Speaker {
    host: Arc<Host>,
    call: u32,
    /// Somebody wants what it prints.
    output: bool,
    has_stepped: Cell<bool>,
}

impl Around for Speaker {
    fn say(&self, kind: FromHost, words: &[u8]) {
        if self.output || kind != FromHost::Printed {
            self.host.send(kind, self.call, words);
        }
    }

    fn step_aside(&self) {
        self.has_stepped.set(self.host.step_aside());
    }

    fn step_back(&self) {
        if self.has_stepped.take() {
            self.host.step_back();
        }
    }
}

#[derive(Deserialize)]
struct Request {
    output: bool,
    target: Target,
    context: Context,
}

/// Which `next()` is answered.
#[derive(Deserialize)]
struct Numbered {
    number: u64,
}

#[derive(Deserialize)]
struct Target {
    handler: String,
}

#[derive(Deserialize)]
struct Context {
    data_dir: PathBuf,
}

/// Runs the host; what `longshore __wasm` does. Its stdin and stdout are the pipes to the worker.
#[must_use]
pub fn wasm_host_main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _nobody_reads_it = writeln!(io::stderr(), "longshore: the host of a module: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Why a module could not be run, if it could not. Reads and translates it; blocks.
pub(crate) fn unusable(path: &Path) -> Option<String> {
    Guest::load(path).err()
}

fn serve() -> io::Result<()> {
    if let Ok(mut score) = File::create("/proc/self/oom_score_adj") {
        // If memory runs out, this process goes and not the worker.
        let _only_a_preference = score.write_all(b"500");
    }
    // SAFETY: the call takes numbers only. A file that would become too large is an error of its call, not this process's end.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    // SAFETY: the call takes numbers only, and nothing else runs yet. Address space is bounded here, and an arena for each thread would take most
    // of it.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
    let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut orders = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let Some((Some(ToHost::Hello), _, payload)) = read_frame(&mut orders, HELLO_BYTES_MAX)? else {
        return Err(io::Error::other("the first frame is no greeting"));
    };
    let hello: Hello = serde_json::from_slice(&payload)?;
    let (frame_bytes_max, memory) = (hello.frame_bytes_max, Arc::new(AtomicUsize::new(hello.memory_bytes_max)));
    let host =
        Arc::new(Host { hello, guest: OnceLock::new(), out: Mutex::new(out), memory, queue: Mutex::default(), waiting: Condvar::new() });
    host.send(FromHost::Ready, 0, b"{}");
    while let Some((order, call, payload)) = read_frame(&mut orders, frame_bytes_max)? {
        match order {
            Some(ToHost::Call) => host.enqueue(call, payload),
            Some(ToHost::Stop) => host.stop(call),
            Some(ToHost::Pause) => host.with(call, |running| running.pause(true)),
            Some(ToHost::Resume) => host.with(call, |running| running.pause(false)),
            Some(ToHost::Quit) => break,
            Some(ToHost::Next) => {
                if let Ok(Numbered { number }) = serde_json::from_slice(&payload) {
                    host.with(call, |running| running.answer(number, payload));
                }
            }
            Some(ToHost::Hello) | None => {}
        }
    }
    Ok(())
}

/// The next frame; nothing at the end.
fn read_frame(from: &mut impl Read, bytes_max: usize) -> io::Result<Option<Order>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if !(5..=bytes_max.saturating_add(5)).contains(&length) {
        return Err(io::Error::other(format!("a frame of {length} bytes")));
    }
    let mut frame = vec![0; length];
    from.read_exact(&mut frame)?;
    let payload = frame.split_off(5);
    let call = u32::from_be_bytes([frame[1], frame[2], frame[3], frame[4]]);
    Ok(Some((ToHost::of_byte(frame[0]), call, payload)))
}

impl Host {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, kind: FromHost, call: u32, payload: &[u8]) {
        let frame = encode_from_host(kind, call, payload);
        let sent = self.out.lock().unwrap_or_else(PoisonError::into_inner).write_all(&frame);
        if sent.is_err() {
            // Nobody is there any more whom anything could be told.
            std::process::exit(0);
        }
    }

    fn failed(&self, call: u32, kind: &str, type_name: &str, message: &str) {
        let payload = json!({ "kind": kind, "type": type_name, "message": message });
        self.send(FromHost::Failed, call, payload.to_string().as_bytes());
    }

    fn with(&self, call: u32, act: impl FnOnce(&Running)) {
        if let Some(running) = self.queue().calls.get(&call) {
            act(running);
        }
    }

    fn enqueue(self: &Arc<Self>, call: u32, payload: Vec<u8>) {
        let running = Arc::<Running>::default();
        let mut queue = self.queue();
        queue.calls.insert(call, Arc::clone(&running));
        queue.waiting.push_back((call, payload, running));
        match self.staff(&mut queue) {
            Err(error) if queue.workers + queue.aside == 0 => {
                queue.waiting.clear();
                queue.calls.remove(&call);
                drop(queue);
                return self.failed(call, "raised", "OutOfThreads", &format!("no thread could be started: {error}"));
            }
            // Those there are do it, one after the other.
            Ok(()) | Err(_) => {}
        }
        drop(queue);
        self.waiting.notify_one();
    }

    /// Another thread, if a call waits for one and there may be more.
    fn staff(self: &Arc<Self>, queue: &mut Queue) -> io::Result<()> {
        if queue.idle >= queue.waiting.len() || queue.workers >= WORKERS_MAX {
            return Ok(());
        }
        let host = Arc::clone(self);
        let thread = std::thread::Builder::new().name("call".to_owned()).stack_size(STACK_BYTES);
        let _ends_by_itself = thread.spawn(move || host.work())?;
        queue.workers += 1;
        Ok(())
    }

    /// The thread that asks waits for others; false if too many do already.
    fn step_aside(self: &Arc<Self>) -> bool {
        let mut queue = self.queue();
        if queue.aside >= ASIDE_MAX {
            return false;
        }
        (queue.aside, queue.workers) = (queue.aside + 1, queue.workers - 1);
        // Without another thread what waits is done when this one has its answer.
        let _as_many_as_there_can_be = self.staff(&mut queue);
        true
    }

    fn step_back(&self) {
        let mut queue = self.queue();
        (queue.aside, queue.workers) = (queue.aside - 1, queue.workers + 1);
    }

    fn stop(&self, call: u32) {
        self.send(FromHost::Stopping, call, b"");
        let mut queue = self.queue();
        let Some(running) = queue.calls.get(&call) else { return };
        running.stop();
        let before = queue.waiting.len();
        queue.waiting.retain(|(waiting, ..)| *waiting != call);
        if queue.waiting.len() < before {
            queue.calls.remove(&call);
            drop(queue);
            self.failed(call, "cancelled", "", "");
        }
    }

    /// Takes calls, for ever or until there are enough others.
    fn work(self: &Arc<Self>) {
        loop {
            let mut queue = self.queue();
            if queue.workers > WORKERS_MAX {
                queue.workers -= 1;
                return;
            }
            let (call, payload, running) = loop {
                if let Some(next) = queue.waiting.pop_front() {
                    break next;
                }
                queue.idle += 1;
                queue = self.waiting.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
            };
            drop(queue);
            // A call that panics, as only a fault of the engine could make it, must not take its thread's place with it.
            let performed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.perform(call, payload, &running)));
            self.queue().calls.remove(&call);
            if performed.is_err() {
                self.failed(call, "raised", "EngineFault", "the engine that runs the module failed");
            }
        }
    }

    fn perform(self: &Arc<Self>, call: u32, payload: Vec<u8>, running: &Arc<Running>) {
        let Ok(request) = serde_json::from_slice::<Request>(&payload) else {
            return self.failed(call, "raised", "", "the task cannot be read");
        };
        let guest = match self.guest.get_or_init(|| Guest::load(&self.hello.module)) {
            Ok(guest) => guest,
            Err(why) => return self.failed(call, "not_loaded", "", &format!("the module {:?} {why}", self.hello.module)),
        };
        let began = Instant::now();
        let speaker = Speaker { host: Arc::clone(self), call, output: request.output, has_stepped: Cell::new(false) };
        let args = vec![self.hello.module.to_string_lossy().into_owned(), request.target.handler];
        let output_bytes_max = self.hello.frame_bytes_max.saturating_sub(64);
        let task = Task::new(Arc::clone(running), Arc::clone(&self.memory), args, payload, output_bytes_max, Box::new(speaker));
        let end = task.and_then(|task| task.with_data(&request.context.data_dir)).map(|task| guest.run(task));
        match end {
            Ok(End::Returned(value)) => {
                let mut body = format!("{{\"ms\":{},\"value\":", began.elapsed().as_millis()).into_bytes();
                body.extend_from_slice(&value);
                body.push(b'}');
                self.send(FromHost::Returned, call, &body);
            }
            Ok(End::Failed { kind, type_name, message }) => self.failed(call, kind, type_name, &message),
            Err(why) => self.failed(call, "raised", "OutOfMemory", &why),
        }
    }
}
