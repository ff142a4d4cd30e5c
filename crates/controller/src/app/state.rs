//! What every request and every background task shares.

use std::ops::Deref;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use jiff::Timestamp;
use longshore_model::JobId;
use longshore_store::{Error as StoreError, JobRecord, Store};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::artifacts::SEARCHES_MAX;
use crate::Config;
use crate::audit::Recorder;
use crate::fleet::Fleet;
use crate::gateway::Gateway;
use crate::hub::Hub;
use crate::index::Index;
use crate::letters::Letters;
use crate::metrics::Metrics;
use crate::strangers::Strangers;
use crate::token::Keyring;
use crate::wait::Waiters;

/// The controller's shared state. Cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: Config,
    /// The keys of tokens, ready to check with.
    pub(crate) keyring: Keyring,
    pub(crate) store: Store,
    pub(crate) hub: Hub,
    pub(crate) waiters: Waiters,
    /// Held shared from a submission's look at its bundle to its place in the index, and alone while a delete decides whether the
    /// bundle is still needed.
    pub(crate) bundles: tokio::sync::RwLock<()>,
    /// The places of those who look for one file in an archive.
    pub(crate) searches: Arc<Semaphore>,
    /// The room for large results in memory, in KiB.
    pub(crate) large_results: Arc<Semaphore>,
    /// Where finished calls leave their records.
    pub(crate) audit: Recorder,
    /// What is counted.
    pub(crate) metrics: Metrics,
    /// Through whom they go first.
    pub(crate) strangers: Strangers,
    /// Workers that attach to this controller.
    pub(crate) gateway: Gateway,
    /// Set when the controller ends: streams and waits end with it.
    pub(crate) drain: CancellationToken,
    /// The tasks behind streaming responses.
    pub(crate) streams: TaskTracker,
    index: RwLock<Index>,
    fleet: RwLock<Fleet>,
    letters: RwLock<Letters>,
}

impl App {
    pub(crate) fn new(config: Config, store: Store) -> Self {
        let keyring = Keyring::new(Some(&config.signing_key), &config.verify_keys);
        Self(Arc::new(Inner {
            keyring: keyring.expect("the keys have ids of their own: whoever made the configuration has checked that"),
            config,
            store,
            hub: Hub::default(),
            waiters: Waiters::default(),
            bundles: tokio::sync::RwLock::default(),
            searches: Arc::new(Semaphore::new(SEARCHES_MAX)),
            large_results: Arc::new(Semaphore::new(super::results::IN_MEMORY_KIB_MAX)),
            audit: Recorder::default(),
            metrics: Metrics::default(),
            strangers: Strangers::default(),
            gateway: Gateway::default(),
            drain: CancellationToken::new(),
            streams: TaskTracker::new(),
            index: RwLock::default(),
            fleet: RwLock::default(),
            letters: RwLock::default(),
        }))
    }
}

impl Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Inner {
    /// The stores' clock; what is below is handed the time.
    pub(crate) fn now(&self) -> Timestamp {
        self.store.clock.now()
    }

    /// Reads a job from the ledger. One that is gone, deleted elsewhere or dropped by its age, leaves the index too: deletions are told
    /// as hints, which may be missed.
    pub(crate) async fn load(&self, id: JobId) -> Result<Option<JobRecord>, StoreError> {
        let record = self.store.ledger.load(id).await?;
        if record.is_none() && self.index().get(id).is_some() {
            self.index_mut().delete(id);
            self.waiters.wake(id);
        }
        Ok(record)
    }

    pub(crate) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().expect("no holder of this lock panics")
    }

    pub(crate) fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().expect("no holder of this lock panics")
    }

    pub(crate) fn fleet(&self) -> RwLockReadGuard<'_, Fleet> {
        self.fleet.read().expect("no holder of this lock panics")
    }

    pub(crate) fn fleet_mut(&self) -> RwLockWriteGuard<'_, Fleet> {
        self.fleet.write().expect("no holder of this lock panics")
    }

    /// Who needs the index as well takes that first.
    pub(crate) fn letters(&self) -> RwLockReadGuard<'_, Letters> {
        self.letters.read().expect("no holder of this lock panics")
    }

    pub(crate) fn letters_mut(&self) -> RwLockWriteGuard<'_, Letters> {
        self.letters.write().expect("no holder of this lock panics")
    }
}
