//! Handler hosts: packages of the existing worker's form, what they rely on, and what they must not be able to do.

mod author;
mod bench;
mod life;
mod misbehave;
mod program;

use std::path::{Path, PathBuf};
use std::time::Duration;

use longshore_exec::SupervisorCommand;
use longshore_exec::package::host::{Call, Door, ErrorKind, HandlerError, HostSettings, Hosts, Outcome};
use longshore_exec::package::{Installed, Manifest};
use serde_json::{Map, Value};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::PATIENCE;

/// Hosts in a temporary directory.
pub(crate) struct Stand {
    pub(crate) dir: TempDir,
    pub(crate) hosts: Hosts,
}

impl Stand {
    pub(crate) fn new() -> Self {
        Self::with(|_| ())
    }

    pub(crate) fn with(change: impl FnOnce(&mut HostSettings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(dir.path());
        change(&mut settings);
        Self { hosts: Hosts::new(settings).unwrap(), dir }
    }

    /// For handlers that do stop, on machines of any speed.
    pub(crate) fn patient() -> Self {
        Self::with(|settings| settings.stop_grace = PATIENCE)
    }

    pub(crate) async fn run(&self, package: &Installed, node_type: &str, parameters: Value) -> Result<Outcome, HandlerError> {
        self.run_call(package, call(node_type, parameters), Door::default()).await
    }

    pub(crate) async fn run_call(&self, package: &Installed, call: Call, door: Door) -> Result<Outcome, HandlerError> {
        let name = call.node_type.clone();
        let running = self.hosts.run(package, call, door, CancellationToken::new());
        tokio::time::timeout(PATIENCE, running).await.unwrap_or_else(|_| panic!("{name} ends"))
    }

    /// What a handler gave, that has to end well.
    pub(crate) async fn result(&self, package: &Installed, node_type: &str, parameters: Value) -> Value {
        let outcome = self.run(package, node_type, parameters).await.unwrap_or_else(|error| panic!("{node_type}: {error:?}"));
        Value::Object(outcome.result)
    }

    pub(crate) async fn fault(&self, package: &Installed, node_type: &str, parameters: Value) -> (ErrorKind, String) {
        let error = self.run(package, node_type, parameters).await.expect_err(node_type);
        assert!(error.verified, "{error:?}");
        (error.kind, error.message)
    }

    pub(crate) fn data(&self, task_id: &str, file: &str) -> PathBuf {
        self.dir.path().join("data/run").join(task_id).join(file)
    }
}

pub(crate) fn settings(dir: &Path) -> HostSettings {
    let supervisor = SupervisorCommand { program: env!("CARGO_BIN_EXE_longshore-supervise").into(), args: Vec::new() };
    let settings = HostSettings::new(supervisor, dir.join("state"), dir.join("data"), "worker-1".to_owned());
    HostSettings { stop_grace: Duration::from_millis(300), restart_base: Duration::from_millis(1), ..settings }
}

pub(crate) fn package(name: &str) -> Installed {
    at(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/packages").join(name))
}

pub(crate) fn at(directory: &Path) -> Installed {
    let (manifest, raw) = Manifest::parse(&std::fs::read(directory.join("manifest.json")).unwrap()).unwrap();
    let (name, version) = (manifest.name.clone(), manifest.version.clone());
    Installed { name, version, directory: directory.canonicalize().unwrap(), manifest, raw, python: None }
}

pub(crate) fn call(node_type: &str, parameters: Value) -> Call {
    Call {
        run_id: "run".to_owned(),
        task_id: node_type.to_owned(),
        node_id: "node".to_owned(),
        node_type: node_type.to_owned(),
        parameters: object(parameters),
        tenant: "tenant".to_owned(),
        ..Call::default()
    }
}

pub(crate) fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}
