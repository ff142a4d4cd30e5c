//! What an agent stands on: a host that does the work, and notes that outlive the agent's process. Doors, so that a simulation can stand
//! behind them; [`ThisHost`] and [`Journal`] are what is there otherwise.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use longshore_exec::{Executor, Finished, Machine, Output, Resumable, Strain, Task};
use longshore_model::wire::agent::{Process, WorkerPackage};
use longshore_model::wire::facts::Facts;
use tokio_util::sync::CancellationToken;

use crate::dispatcher::Key;
use crate::journal::{Entry, Journal};

/// Does the work, and says what it is.
#[async_trait]
pub trait Host: Send + Sync {
    /// Performs one attempt; every fault is a [`Finished`]. Ends soon after `cancel`; dropping the future ends the work and tells nothing.
    async fn run(&self, task: Task, output: Arc<dyn Output>, cancel: CancellationToken) -> Finished;

    /// What an earlier process of the agent left running, or ended with nobody to tell it to.
    fn resumable(&self) -> Vec<Resumable> {
        Vec::new()
    }

    /// Goes on with what was left, like [`Self::run`], with its output from the beginning; `None` if there is nothing of it.
    async fn resume(&self, left: Resumable, output: Arc<dyn Output>, cancel: CancellationToken) -> Option<Finished> {
        let _ = (left, output, cancel);
        None
    }

    /// Ends what was left and removes all of it; true if it is known to be gone. Safe to repeat.
    async fn discard(&self, left: Resumable) -> bool {
        let _ = left;
        true
    }

    /// What is known of it, by the name that it goes by. Takes milliseconds.
    async fn facts(&self, hostname: &str) -> Facts;

    /// What of it is in use. Takes milliseconds.
    async fn strain(&self) -> Strain;

    /// The packages whose nodes it runs, as they are installed now. Takes milliseconds, and more where many have changed.
    async fn packages(&self) -> Vec<WorkerPackage> {
        Vec::new()
    }

    /// Tells the agent's process from every other, and from those on other hosts and in other directories.
    fn process(&self) -> Process;

    /// Waits until nothing is performed or tidied up any more. Safe to repeat.
    async fn close(&self);
}

/// Keeps what an agent has in hand for its next process.
pub trait Notes: Send + Sync {
    /// Notes an execution, replacing what was noted of it; true if it is noted. The notes make recovery quick, not possible: whoever does not rely on
    /// what was noted before need not look.
    fn note(&self, key: Key, entry: &Entry) -> bool;

    /// Forgets an execution. Safe to repeat.
    fn forget(&self, key: Key);

    /// What an earlier process had in hand.
    fn left_behind(&self) -> Vec<(Key, Entry)>;
}

/// The host that this process runs on.
pub(crate) struct ThisHost {
    executor: Executor,
    machine: Machine,
    process: Process,
}

impl ThisHost {
    /// For a process that has the lock on `state_dir`.
    pub(crate) fn new(executor: Executor, machine: Machine, state_dir: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).ok();
        let own = || format!("{}-{}", std::process::id(), Timestamp::now().as_nanosecond());
        let id = read("/proc/sys/kernel/random/uuid").unwrap_or_else(own);
        let boot = read("/proc/sys/kernel/random/boot_id").unwrap_or_else(own);
        let inode = std::fs::metadata(state_dir).map_or_else(|_| own(), |found| format!("{:x}-{:x}", found.dev(), found.ino()));
        Self { executor, machine, process: Process { id, place: format!("{boot}-{inode}") } }
    }

    /// Asks the machine on a thread that may block. What fails to answer is not known.
    async fn ask<T: Default + Send + 'static>(&self, question: impl FnOnce(&Machine) -> T + Send + 'static) -> T {
        let machine = self.machine.clone();
        tokio::task::spawn_blocking(move || question(&machine)).await.unwrap_or_default()
    }
}

#[async_trait]
impl Host for ThisHost {
    async fn run(&self, task: Task, output: Arc<dyn Output>, cancel: CancellationToken) -> Finished {
        self.executor.run(task, output, cancel).await
    }

    fn resumable(&self) -> Vec<Resumable> {
        self.executor.resumable()
    }

    async fn resume(&self, left: Resumable, output: Arc<dyn Output>, cancel: CancellationToken) -> Option<Finished> {
        self.executor.resume(left, output, cancel).await
    }

    async fn discard(&self, left: Resumable) -> bool {
        let executor = self.executor.clone();
        tokio::task::spawn_blocking(move || executor.discard(left)).await.unwrap_or(false)
    }

    async fn facts(&self, hostname: &str) -> Facts {
        let hostname = hostname.to_owned();
        self.ask(move |machine| machine.facts(&hostname)).await
    }

    async fn strain(&self) -> Strain {
        self.ask(Machine::strain).await
    }

    async fn packages(&self) -> Vec<WorkerPackage> {
        self.executor.packages().await.to_vec()
    }

    fn process(&self) -> Process {
        self.process.clone()
    }

    async fn close(&self) {
        self.executor.close().await;
    }
}

impl Notes for Journal {
    fn note(&self, key: Key, entry: &Entry) -> bool {
        Journal::note(self, key, entry)
    }

    fn forget(&self, key: Key) {
        Journal::forget(self, key);
    }

    fn left_behind(&self) -> Vec<(Key, Entry)> {
        Journal::left_behind(self)
    }
}
