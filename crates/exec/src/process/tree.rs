//! Which processes belong to a tree, by `/proc`, and signals to them.
//!
//! A process is signalled through a descriptor that was opened before its parent was checked once more, so a process identifier
//! that was used again between looking and killing is never hit.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::groups;
use rustix::event::{PollFd, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, getpid, kill_process, pidfd_open, pidfd_send_signal};

/// The variable every program of ours carries: random text, `@`, the state directory of the agent that started it.
pub(crate) const TREE_VARIABLE: &str = "LONGSHORE_TREE";
/// The same for supervisors, which end by themselves and must not be killed before their trees.
pub(crate) const SUPERVISOR_VARIABLE: &str = "LONGSHORE_SUPERVISOR";
/// The same for the processes that carry a job, which are killed first: their supervisors end by themselves then.
pub(crate) const CARRIER_VARIABLE: &str = "LONGSHORE_CARRIER";

/// How long killing may take before it is given up as not verified.
pub(crate) const KILL_BOUND: Duration = Duration::from_secs(10);
const RESCAN: Duration = Duration::from_millis(20);

/// One living process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    parent: i32,
}

/// Every process below `root`, which is not among them.
pub(crate) fn descendants(root: Pid) -> Vec<Process> {
    let all = processes();
    below(&all, [root.as_raw_nonzero().get()].into())
}

/// Sends `signal` if `process` is still the one that was seen. Failures mean that it is gone or not ours to signal.
pub(crate) fn send(process: Process, signal: Signal) {
    let handle = pidfd_open(process.pid, PidfdFlags::empty());
    // A parent that died meanwhile changes this too; the next round sees the process with its new parent.
    if parent_of(process.pid.as_raw_nonzero().get()) != Some(process.parent) {
        return;
    }
    let _gone_already = match handle {
        Ok(handle) => pidfd_send_signal(&handle, signal),
        // Sandboxes that do not have the call; then a moment remains in which the number could be used again.
        Err(Errno::NOSYS | Errno::PERM) => kill_process(process.pid, signal),
        Err(gone) => Err(gone),
    };
}

/// Which trees [`end_marked`] ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Marked<'a> {
    /// The one with this mark.
    Tree(&'a str),
    /// All that an agent with this state directory started.
    Agent(&'a str),
}

/// Kills what carries the mark and what is below it, supervised or not. For when the supervisor itself was killed.
///
/// Blocks until none is left, at most [`KILL_BOUND`]. True if none is left. A process that hid its environment *and* left its
/// tree is not found; that takes killing the supervisor first.
pub(crate) fn end_marked(marked: Marked<'_>) -> bool {
    let end_groups = || match marked {
        Marked::Agent(state_dir) => groups::end_left(state_dir),
        Marked::Tree(_) => {}
    };
    end_groups();
    let is_gone = end_carrying(marked);
    // Whoever was alive until now may have made another.
    end_groups();
    is_gone
}

fn end_carrying(marked: Marked<'_>) -> bool {
    let deadline = Instant::now() + KILL_BOUND;
    let me = getpid().as_raw_nonzero().get();
    let belongs = |value: &str| match marked {
        Marked::Tree(mark) => value == mark,
        Marked::Agent(state_dir) => value.split_once('@').is_some_and(|(_, dir)| dir == state_dir),
    };
    let mut supervisors_had_their_time = matches!(marked, Marked::Tree(_));
    loop {
        let all = processes();
        let carrying = |variable: &str| {
            let found = all.iter().filter(|process| variable_of(process.pid, variable).is_some_and(|value| belongs(&value)));
            found.map(|process| process.pid.as_raw_nonzero().get()).filter(|pid| *pid != me).collect::<HashSet<_>>()
        };
        let carriers = carrying(CARRIER_VARIABLE);
        let roots = carrying(TREE_VARIABLE);
        let supervisors = carrying(SUPERVISOR_VARIABLE);
        if carriers.is_empty() && roots.is_empty() && (supervisors.is_empty() || supervisors_had_their_time) {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        let gone_first = all.iter().filter(|process| carriers.contains(&process.pid.as_raw_nonzero().get()));
        gone_first.for_each(|process| send(*process, Signal::KILL));
        // A job may have stopped its supervisor.
        let stopped = all.iter().filter(|process| supervisors.contains(&process.pid.as_raw_nonzero().get()));
        stopped.for_each(|process| send(*process, Signal::CONT));
        // Supervisors whose agent died are killing already, and better than we can from outside.
        if supervisors.is_empty() || supervisors_had_their_time {
            let mut doomed = below(&all, roots.clone());
            doomed.extend(all.iter().filter(|process| roots.contains(&process.pid.as_raw_nonzero().get())));
            doomed.into_iter().filter(|process| process.pid.as_raw_nonzero().get() != me).for_each(|process| send(process, Signal::KILL));
        }
        supervisors_had_their_time |= deadline.saturating_duration_since(Instant::now()) < KILL_BOUND / 2;
        pause(&mut [], RESCAN);
    }
}

/// Waits until a descriptor is ready or the time has passed; a signal may end it early.
pub(crate) fn pause(fds: &mut [PollFd<'_>], at_most: Duration) {
    let timeout = Timespec { tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(i64::MAX), tv_nsec: at_most.subsec_nanos().into() };
    let _ready_or_interrupted = poll(fds, Some(&timeout));
}

/// The parent of a process, which may be one that has ended and is not reaped; or one that only looks so, as its first thread has.
fn parent_of(pid: i32) -> Option<i32> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, parentheses and line ends included. State and parent follow it.
    let after_name = text.iter().rposition(|byte| *byte == b')')? + 1;
    std::str::from_utf8(&text[after_name..]).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    numbers.filter_map(|number| Some(Process { pid: Pid::from_raw(number)?, parent: parent_of(number)? })).collect()
}

fn below(all: &[Process], roots: HashSet<i32>) -> Vec<Process> {
    let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
    for process in all {
        children.entry(process.parent).or_default().push(*process);
    }
    let mut found = Vec::new();
    let mut open: Vec<i32> = roots.into_iter().collect();
    while let Some(parent) = open.pop() {
        // Taken out, so that a table that changed while it was read cannot make a loop.
        for child in children.remove(&parent).unwrap_or_default() {
            open.push(child.pid.as_raw_nonzero().get());
            found.push(child);
        }
    }
    found
}

fn variable_of(pid: Pid, variable: &str) -> Option<String> {
    let environment = fs::read(Path::new("/proc").join(pid.as_raw_nonzero().to_string()).join("environ")).ok()?;
    let mut entries = environment.split(|byte| *byte == 0);
    entries.find_map(|entry| Some(std::str::from_utf8(entry).ok()?.strip_prefix(variable)?.strip_prefix('=')?.to_owned()))
}
