//! Controllers: the real use cases and reconcilers, killed and started again, and the way to them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore_controller::{Config, Headless, Refusal, SigningKey};
use longshore_model::access::{Caller, Roles};
use longshore_model::wire::problem::ErrorCode;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::broker;
use crate::world::{Actor, LEASE, World};

/// Every controller.
#[derive(Clone)]
pub(crate) struct Controllers {
    world: Arc<World>,
    running: Arc<Mutex<Vec<Option<Process>>>>,
    pub(crate) caller: Caller,
}

struct Process {
    controller: Headless,
    /// The controller itself, and the calls that it answers.
    tasks: JoinSet<()>,
}

/// What became of a call.
#[derive(Debug)]
pub(crate) enum Reply<T> {
    Done(T),
    Refused(ErrorCode),
    /// There was no answer, or one that leaves the outcome open: it may have had its effect.
    Unknown,
}

impl Controllers {
    pub(crate) fn new(world: &Arc<World>, n: usize) -> Self {
        let caller = Caller::new("ada", &Roles::default(), &["admin".to_owned()], None, None).expect("the role exists");
        Self { world: world.clone(), running: Arc::new(Mutex::new((0..n).map(|_| None).collect())), caller }
    }

    pub(crate) fn n(&self) -> usize {
        self.running.lock().expect("no holder of this lock panics").len()
    }

    /// Starts a controller, if it does not run.
    pub(crate) fn start(&self, n: usize) {
        let mut running = self.running.lock().expect("no holder of this lock panics");
        if running[n].is_some() {
            return;
        }
        let me = Actor::Controller(n);
        self.world.note(me, || "starts".to_owned());
        let config = Config { lease: LEASE, ..Config::new(SigningKey::new(Vec::new())) };
        let controller = Headless::new(config, broker::store(&self.world, me, self.world.clock.clone()));
        let mut tasks = JoinSet::new();
        let serving = controller.clone();
        tasks.spawn(async move { serving.run(CancellationToken::new()).await });
        running[n] = Some(Process { controller, tasks });
    }

    /// Kills a controller with everything it is at.
    pub(crate) fn kill(&self, n: usize) {
        if self.running.lock().expect("no holder of this lock panics")[n].take().is_some() {
            self.world.note(Actor::Controller(n), || "is killed".to_owned());
        }
    }

    /// The controller, if it runs and can answer everything.
    pub(crate) fn ready(&self, n: usize) -> Option<Headless> {
        let running = self.running.lock().expect("no holder of this lock panics");
        running[n].as_ref().map(|process| process.controller.clone()).filter(Headless::is_ready)
    }

    /// Asks one of them, chosen by chance, something.
    pub(crate) async fn ask<T, F>(&self, what: impl FnOnce(Headless, Caller) -> F) -> Reply<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Refusal>> + Send + 'static,
    {
        let n = usize::try_from(self.world.rng().below(self.n() as u64)).unwrap_or(0);
        // An answer that is lost on its way says nothing to whoever waits for it.
        let is_lost = self.world.rng().chance(self.world.weather().unknown);
        let answer = {
            let mut running = self.running.lock().expect("no holder of this lock panics");
            let Some(process) = &mut running[n] else { return Reply::Unknown };
            let asked = what(process.controller.clone(), self.caller.clone());
            let (told, answer) = oneshot::channel();
            while process.tasks.try_join_next().is_some() {}
            process.tasks.spawn(async move {
                let _ = told.send(asked.await);
            });
            answer
        };
        match tokio::time::timeout(Duration::from_secs(60), answer).await {
            Ok(Ok(_)) if is_lost => Reply::Unknown,
            Ok(Ok(Ok(done))) => Reply::Done(done),
            Ok(Ok(Err(refusal))) if refusal.code == ErrorCode::Unavailable => Reply::Unknown,
            Ok(Ok(Err(refusal))) => Reply::Refused(refusal.code),
            Ok(Err(_)) | Err(_) => Reply::Unknown,
        }
    }
}
