//! `longshore worker`: a worker of a scheduler, and one node of a package by itself.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use longshore_agent::worker::settings::{LogLevel, Settings, TransportKind};
use longshore_agent::worker::{self, Door, Handlers, Operations, Outcome, PackageHandlers, Prints, Task};
use longshore_exec::SupervisorCommand;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::shutdown::{Signals, Tokens};
use super::worker_settings::WorkerFlags;
use super::{job_keys, logging};
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;

/// The worker's identity, beside where it is started, as the existing worker has it.
const IDENTITY: &str = "./var/worker_instance_id";

/// Run a worker of a scheduler, or one of its nodes by itself.
#[derive(Debug, Subcommand)]
pub(crate) enum Worker {
    /// Connect to a scheduler and run what it sends.
    Start(Start),
    /// Run one node of an installed package here, without a scheduler.
    RunNode(RunNode),
}

/// Connect to a scheduler and run what it sends. Settings come from flags, `--config` or the usual files, `ASTRA_WORKER_*` variables and `.env`.
#[derive(Debug, Args)]
pub(crate) struct Start {
    #[command(flatten)]
    flags: WorkerFlags,
}

/// Run one node of an installed package here, without a scheduler, and print what it gives.
#[derive(Debug, Args)]
pub(crate) struct RunNode {
    /// The package, as NAME@VERSION.
    package: String,
    /// The node's type.
    node: String,
    /// What the handler is given: a JSON object.
    #[arg(long, default_value = "{}", value_name = "JSON")]
    params: String,
    #[command(flatten)]
    flags: WorkerFlags,
}

impl Worker {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        match self {
            Self::Start(start) => start.perform(app).await,
            Self::RunNode(node) => node.perform(app).await,
        }
    }
}

impl Start {
    async fn perform(self, app: &App) -> Result<Exit, Failure> {
        let loaded = self.flags.load(app)?;
        let settings = loaded.settings;
        logging::begin(level(settings.log_level));
        for warning in loaded.warnings {
            tracing::warn!("{warning}");
        }
        let mut signals = Signals::catch()?;
        let failed = |error: worker::Error| Failure::new(Exit::Failed, "the worker cannot start").caused_by(&error);
        let instance = match settings.worker_instance_id.clone() {
            Some(instance) => instance,
            None => worker::lasting_identity(Path::new(IDENTITY)).map_err(failed)?,
        };
        let packages = Arc::new(open(&settings, &instance)?);
        let operations = operations(&settings, &instance, Arc::clone(&packages))?;
        let handlers = match &operations {
            Some(operations) => Arc::clone(operations) as Arc<dyn Handlers>,
            None => Arc::clone(&packages) as Arc<dyn Handlers>,
        };
        let name = settings.worker_name.clone();
        let hostname = longshore_exec::host_name();
        let worker = worker::Worker::new(settings, instance.clone(), hostname, handlers).map_err(failed)?;
        super::start::tell(app, &json!({ "worker": name, "instance": instance }), || format!("worker {name} ({instance}) is started"))?;
        let tokens = Tokens::default();
        let mut work = std::pin::pin!(worker.run(tokens.drain.clone(), tokens.stop.clone()));
        let mut exit = Exit::Done;
        let ended = tokio::select! {
            ended = &mut work => ended,
            _ = signals.next() => {
                tokens.drain.cancel();
                // How long what runs may take is among the worker's own settings.
                tokio::select! {
                    ended = &mut work => ended,
                    second = signals.next() => {
                        exit = second;
                        tokens.stop.cancel();
                        work.await
                    }
                }
            }
        };
        packages.close().await;
        if let Some(operations) = operations {
            operations.close().await;
        }
        ended.map_err(|error| match &error {
            worker::Error::Refused(_) => Failure::new(Exit::NotAllowed, "the worker ended")
                .caused_by(&error)
                .hint("reconnect_abort_on_auth_error and reconnect_abort_on_protocol_error say whether it goes on trying"),
            worker::Error::Dialer(_)
            | worker::Error::Journal(_)
            | worker::Error::File { .. }
            | worker::Error::TooMuch(_)
            | worker::Error::Random(_) => Failure::new(Exit::Failed, "the worker ended").caused_by(&error),
        })?;
        Ok(exit)
    }
}

impl RunNode {
    async fn perform(self, app: &App) -> Result<Exit, Failure> {
        let usage = |what: &str| Failure::new(Exit::Usage, what.to_owned());
        let Some((name, version)) = self.package.rsplit_once('@').filter(|(name, version)| !name.is_empty() && !version.is_empty()) else {
            return Err(usage("the package must be NAME@VERSION"));
        };
        let parameters: Map<String, Value> =
            serde_json::from_str(&self.params).map_err(|error| usage("--params must be a JSON object").caused_by(&error))?;
        let loaded = self.flags.load(app)?;
        for warning in &loaded.warnings {
            app.out.say(warning);
        }
        let mut settings = loaded.settings;
        // A worker that runs here has its own.
        let scratch =
            tempfile::tempdir().map_err(|error| Failure::new(Exit::Failed, "no temporary directory can be made").caused_by(&error))?;
        settings.state_dir = Some(scratch.path().join("state"));
        settings.data_dir = scratch.path().join("data");
        let handlers = open(&settings, "run-node")?;
        let (feedback, mut said) = mpsc::channel(2);
        let (next, _calls) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let mut signals = Signals::catch()?;
        let task = Task {
            run_id: "run-node".to_owned(),
            task_id: self.node.clone(),
            node_id: self.node.clone(),
            node_type: self.node.clone(),
            package_name: name.to_owned(),
            package_version: version.to_owned(),
            parameters,
            tenant: settings.tenant.clone(),
            host_node_id: None,
            middleware_chain: None,
            chain_index: None,
            metadata: Map::new(),
            resource_refs: Vec::new(),
            exec_mode: settings.exec_mode_default,
            timeout: Some(settings.dispatch_timeout_seconds).filter(|seconds| *seconds > 0.0).map(Duration::from_secs_f64),
        };
        let result = {
            let mut work = std::pin::pin!(handlers.run(task, Door { feedback, next, prints: Prints::Said }, stop.clone()));
            loop {
                tokio::select! {
                    result = &mut work => break result,
                    Some(words) = said.recv() => app.out.say(Value::Object(words)),
                    _ = signals.next() => stop.cancel(),
                }
            }
        };
        handlers.close().await;
        let Outcome { status, result, metadata, artifacts, duration } =
            result.map_err(|fault| Failure::new(Exit::JobFailed, format!("{} failed", self.node)).caused_by(&fault))?;
        let document = json!({
            "status": format!("{status:?}").to_lowercase(), "result": result, "metadata": metadata, "artifacts": artifacts,
            "duration_ms": u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        });
        app.out.lines(crate::output::to_json(&document))?;
        Ok(if status == worker::Status::Failed { Exit::JobFailed } else { Exit::Done })
    }
}

fn open(settings: &Settings, instance: &str) -> Result<PackageHandlers, Failure> {
    PackageHandlers::open(settings, instance, supervisor()?).map_err(|error| {
        Failure::new(Exit::Failed, "packages cannot be run here")
            .caused_by(&error)
            .hint("packages_dir, data_dir and state_dir name the directories; another worker with the same instance id has to end first")
    })
}

/// Who performs operations for a controller; nobody, if the settings say so or there is no controller.
fn operations(settings: &Settings, instance: &str, packages: Arc<PackageHandlers>) -> Result<Option<Arc<Operations>>, Failure> {
    if !settings.host_operations || settings.transport == TransportKind::Dummy {
        return Ok(None);
    }
    let keys = job_keys::of_worker(settings.job_opening_keys_file.as_deref(), settings.job_trusted_keys_file.as_deref())?;
    let opened = Operations::open(settings, instance, supervisor()?, keys, packages);
    opened.map(|operations| Some(Arc::new(operations))).map_err(|error| {
        Failure::new(Exit::Failed, "operations cannot be performed here")
            .caused_by(&error)
            .hint("another worker with the same instance id has to end first; with host_operations=false none are performed")
    })
}

fn supervisor() -> Result<SupervisorCommand, Failure> {
    let program =
        std::env::current_exe().map_err(|error| Failure::new(Exit::Failed, "this program cannot find itself").caused_by(&error))?;
    Ok(SupervisorCommand { program, args: vec!["__supervise".into()] })
}

fn level(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warning => "warn",
        LogLevel::Error | LogLevel::Critical => "error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn operations_are_performed_unless_the_settings_say_no() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| Some(dir.path().join(name));
        let performed = |settings: Settings| {
            let settings = Settings { packages_dir: path("packages"), state_dir: path("state"), ..settings };
            let packages = Arc::new(open(&settings, "w").unwrap());
            operations(&settings, "w", packages).unwrap().is_some()
        };
        assert!(performed(Settings::default()));
        assert!(!performed(Settings { host_operations: false, ..Settings::default() }));
        assert!(
            !performed(Settings { transport: TransportKind::Dummy, ..Settings::default() }),
            "without a controller there is nobody to ask"
        );
    }
}
