//! Which hosts are warm, and when a new one may be started.
//!
//! One host for each package as it is installed and each program of it; they hold their package, so that it stays while they run.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};
use serde_json::json;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::TaskTracker;

use super::WASM_HOST;
use super::call::{ErrorKind, HandlerError};
use super::codec::Codec;
use super::death::Ending;
use super::frame::ToHost;
use super::process;
use super::resources::Resources;
use super::settings::HostSettings;
use super::start::{self, Start, stdin_pipe};
use super::target::Runtime;
use super::warm::{Bounds, Warm};
use crate::package::Installed;
use crate::process::{Launcher, Program};

/// How long a host has to live for its death to count as the first in a row again.
const SOUND_AFTER: Duration = Duration::from_secs(60);

/// Bytes that the calls of one host of a module may have together; half of its address space if that is less.
const WASM_BYTES_MAX: u64 = 2 << 30;

/// What every host may use.
#[derive(Debug)]
pub(crate) struct Grounds {
    pub(crate) settings: HostSettings,
    pub(crate) launcher: Launcher,
    pub(crate) environment: std::collections::BTreeMap<String, String>,
    pub(crate) resources: Arc<Resources>,
    pub(crate) tasks: TaskTracker,
}

/// The warm hosts.
#[derive(Debug)]
pub(crate) struct Pool {
    entries: Mutex<HashMap<Key, Arc<Entry>>>,
    places: Arc<Semaphore>,
    /// A host has become idle or has ended.
    freed: Arc<Notify>,
}

/// The same package installed again lies elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) directory: PathBuf,
    pub(crate) runtime: Runtime,
}

#[derive(Debug)]
struct Entry {
    label: String,
    warm: Mutex<Option<Arc<Warm>>>,
    deaths: Mutex<Deaths>,
    /// Held by whoever starts its host.
    starting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Deaths {
    in_a_row: u32,
    not_before: Option<Instant>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    pub(crate) fn new(hosts_max: usize) -> Self {
        let places = Arc::new(Semaphore::new(hosts_max.clamp(1, Semaphore::MAX_PERMITS)));
        Self { entries: Mutex::default(), places, freed: Arc::default() }
    }

    /// A host that takes calls: the warm one, or a new one. Waits for a place and for the back-off. Cancel-safe.
    ///
    /// # Errors
    /// It could not be started.
    pub(crate) async fn host(&self, grounds: &Arc<Grounds>, installed: &Installed, key: &Key) -> Result<Arc<Warm>, HandlerError> {
        let entry = self.entry(key, installed);
        loop {
            if let Some(warm) = entry.open() {
                return Ok(warm);
            }
            let _alone = entry.starting.lock().await;
            if let Some(warm) = entry.open() {
                return Ok(warm);
            }
            // A caller that left while its host started leaves that to the next one.
            let begun = held(&entry.warm).clone().filter(|warm| warm.is_starting());
            let warm = match begun {
                Some(warm) => warm,
                None => {
                    let not_before = held(&entry.deaths).not_before;
                    if let Some(not_before) = not_before {
                        sleep_until(not_before).await;
                    }
                    let place = self.place().await;
                    let warm = begin(grounds, installed, key, &entry, place, &self.freed)?;
                    *held(&entry.warm) = Some(Arc::clone(&warm));
                    warm
                }
            };
            tokio::select! {
                () = warm.ready.cancelled() => {}
                () = warm.kill.cancelled() => {}
            }
            if warm.is_open() {
                return Ok(warm);
            }
            if let Some(error) = warm.stillborn().await {
                return Err(error);
            }
            // It was let go before it took a call, as its package was installed anew: that is no reason to fail this one.
        }
    }

    fn entry(&self, key: &Key, installed: &Installed) -> Arc<Entry> {
        let mut entries = held(&self.entries);
        if let Some(entry) = entries.get(key) {
            return Arc::clone(entry);
        }
        // What is neither warm nor waited for is forgotten here, so that uninstalled packages leave nothing.
        entries.retain(|_, entry| {
            Arc::strong_count(entry) > 1
                || held(&entry.warm).is_some()
                || held(&entry.deaths).not_before.is_some_and(|at| at > Instant::now())
        });
        let entry = Arc::new(Entry {
            label: format!("{}@{}", installed.name, installed.version),
            warm: Mutex::default(),
            deaths: Mutex::default(),
            starting: tokio::sync::Mutex::default(),
        });
        entries.insert(key.clone(), Arc::clone(&entry));
        entry
    }

    /// A place among the warm hosts; the one that was idle longest makes room.
    async fn place(&self) -> OwnedSemaphorePermit {
        loop {
            if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
                return place;
            }
            let freed = self.freed.notified();
            let idle = held(&self.entries).values().filter_map(|entry| held(&entry.warm).clone()).collect::<Vec<_>>();
            let oldest = idle.into_iter().filter_map(|warm| Some((warm.idle_since()?, warm))).min_by_key(|(since, _)| *since);
            match oldest {
                // One at a time: it has its grace to leave, and the place is free when it has.
                Some((_, warm)) => {
                    warm.retire();
                    tokio::select! {
                        () = warm.ended() => {}
                        () = freed => {}
                    }
                }
                // Idleness is looked at again now and then, as nobody tells of it.
                None => drop(timeout(Duration::from_millis(50), freed).await),
            }
        }
    }

    /// Lets the hosts of a package go, once their calls are over; all hosts without a name.
    pub(crate) fn retire(&self, label: Option<&str>) {
        let entries = held(&self.entries).values().cloned().collect::<Vec<_>>();
        for entry in entries.into_iter().filter(|entry| label.is_none_or(|label| entry.label == label)) {
            if let Some(warm) = held(&entry.warm).take() {
                warm.retire();
            }
        }
    }

    /// How many hosts there are.
    pub(crate) fn warm(&self) -> usize {
        held(&self.entries).values().filter(|entry| held(&entry.warm).as_ref().is_some_and(|warm| warm.is_open())).count()
    }
}

impl Entry {
    fn open(&self) -> Option<Arc<Warm>> {
        held(&self.warm).clone().filter(|warm| warm.is_open())
    }

    fn ended(&self, warm: &Arc<Warm>, lived: Duration, ending: &Ending, settings: &HostSettings) {
        held(&self.warm).take_if(|current| Arc::ptr_eq(current, warm));
        let mut deaths = held(&self.deaths);
        if ending.wanted {
            *deaths = Deaths::default();
            return;
        }
        if ending.served || lived >= SOUND_AFTER {
            deaths.in_a_row = 0;
        }
        let wait = settings.restart_base.saturating_mul(1 << deaths.in_a_row.min(16)).min(settings.restart_max);
        deaths.in_a_row = deaths.in_a_row.saturating_add(1);
        let wait = jittered(wait);
        deaths.not_before = Some(Instant::now() + wait);
        drop(deaths);
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        tracing::warn!(package = %self.label, wait_ms, "a handler host ended; the next one starts after a wait");
    }
}

/// Between four and six fifths of it.
fn jittered(wait: Duration) -> Duration {
    let mut byte = [0_u8; 1];
    let _any_will_do = getrandom(&mut byte, GetRandomFlags::NONBLOCK);
    wait.mul_f64(0.8 + 0.4 * f64::from(byte[0]) / 255.0)
}

/// Starts a host, which from then on looks after itself.
fn begin(
    grounds: &Arc<Grounds>,
    installed: &Installed,
    key: &Key,
    entry: &Arc<Entry>,
    place: OwnedSemaphorePermit,
    freed: &Arc<Notify>,
) -> Result<Arc<Warm>, HandlerError> {
    let settings = &grounds.settings;
    let unavailable =
        |why: String| HandlerError::new(ErrorKind::HostUnavailable, format!("no handler host for {} could be started: {why}", entry.label));
    let lease = installed.hold().map_err(|error| unavailable(error.to_string()))?;
    let (stdin, sender) = stdin_pipe().map_err(|error| unavailable(format!("a pipe could not be made: {error}")))?;
    let (codec, words) = match &key.runtime {
        Runtime::Python => {
            let python = installed.python.as_ref().unwrap_or(&settings.python);
            let python = python.to_str().ok_or_else(|| unavailable("the interpreter's path is not UTF-8".to_owned()))?;
            let flags = ["-I", "-B", "-X", "utf8", "-c", include_str!("python/boot.py")].map(str::to_owned);
            (Codec::Frames, [vec![python.to_owned()], flags.to_vec()].concat())
        }
        Runtime::Process { command, protocol: _ } => (Codec::Lines, process::words(command, &key.directory).map_err(unavailable)?),
        Runtime::Wasm { .. } => {
            let program = settings.supervisor.program.to_str().ok_or_else(|| unavailable("the program's path is not UTF-8".to_owned()))?;
            (Codec::Frames, vec![program.to_owned(), WASM_HOST.to_owned()])
        }
    };
    let cwd = key.directory.to_str().ok_or_else(|| unavailable("the package's path is not UTF-8".to_owned()))?.to_owned();
    let program = Program { words, cwd: cwd.clone(), env: grounds.environment.clone() };
    let bounds = Bounds {
        output_bytes_max: settings.output_bytes_max,
        stop_grace: settings.stop_grace,
        patience: settings.patience,
        idle: settings.idle,
        start_max: settings.start_max,
    };
    let warm = Arc::new(Warm::new(entry.label.clone(), codec, bounds, sender, Arc::clone(&grounds.resources), grounds.tasks.clone()));
    match &key.runtime {
        Runtime::Python => {
            let hello = json!({
                "modules": MODULES,
                "name": installed.name.as_str(),
                "version": installed.version.as_str(),
                "directory": cwd,
                "worker_name": settings.worker_name,
                "data_dir": settings.data_dir.to_string_lossy(),
                "frame_bytes_max": settings.frame_bytes_max,
            });
            warm.send(ToHost::Hello, 0, hello.to_string().as_bytes());
        }
        Runtime::Wasm { module } => {
            let hello = json!({
                "module": key.directory.join(module).to_string_lossy(),
                "frame_bytes_max": settings.frame_bytes_max,
                "memory_bytes_max": settings.memory_bytes_max.map_or(WASM_BYTES_MAX, |bytes| (bytes / 2).min(WASM_BYTES_MAX)),
            });
            warm.send(ToHost::Hello, 0, hello.to_string().as_bytes());
        }
        Runtime::Process { .. } => warm.assume_ready(),
    }
    let launcher = grounds.launcher.clone();
    let hint = match &key.runtime {
        Runtime::Python => "install Python 3.9 or newer on this host, or say in the settings where it is",
        Runtime::Wasm { .. } => "it is this program itself: was it removed or replaced?",
        Runtime::Process { .. } => "the package has to bring it, or this host",
    };
    let start = Start { launcher, program, limits: settings.limits(), stdin, frame_bytes_max: settings.frame_bytes_max, hint };
    let (started, entry, freed, grounds_of_it) = (Arc::clone(&warm), Arc::clone(entry), Arc::clone(freed), Arc::clone(grounds));
    grounds.tasks.spawn(async move {
        let began = Instant::now();
        let ending = start::run(start, Arc::clone(&started)).await;
        entry.ended(&started, began.elapsed(), &ending, &grounds_of_it.settings);
        started.buried(ending);
        drop((lease, place));
        freed.notify_waiters();
    });
    Ok(warm)
}

/// The host's own program, in the order in which its parts need each other.
const MODULES: &[(&str, &str)] = &[
    ("longshore_host", ""),
    ("longshore_host.encode", include_str!("python/encode.py")),
    ("longshore_host.feedback", include_str!("python/feedback.py")),
    ("longshore_host.context", include_str!("python/context.py")),
    ("longshore_host.resources", include_str!("python/resources.py")),
    ("longshore_host.prints", include_str!("python/prints.py")),
    ("longshore_host.shims", include_str!("python/shims.py")),
    ("longshore_host.load", include_str!("python/load.py")),
    ("longshore_host.main", include_str!("python/main.py")),
];
