//! The handlers of installed packages, as [`longshore_exec::package`] keeps and runs them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use longshore_exec::package::host::{
    self, Call, ErrorKind, Feedback, FeedbackReceiver, HandlerError, HostSettings, Hosts, feedback_channel,
};
use longshore_exec::package::{
    HOOK_LIMIT, HookRule, InstallConfig, InstallRequest, Installer, PackageName, PackageVersion, Packages, Reach, Runner, Sha256Hex, Trust,
    words_of,
};
use longshore_exec::{Output, SupervisorCommand};
use longshore_session::Payload;
use longshore_session::control::{Manifest, Package, PackageStatus};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::handlers::{Door, Fault, FaultKind, Handlers, Install, Inventory, NextCall, NextError, Outcome, Prints, Status, Task};
use super::printed::Printed;
use super::settings::{ExecMode, PackageReach, Settings};

/// How long a host that has answered may keep the way open by which its handler spoke.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why handlers cannot be run at all.
#[derive(Debug, thiserror::Error)]
pub enum PackagesError {
    /// The packages directory.
    #[error("cannot use the packages directory")]
    Packages(#[from] longshore_exec::package::OpenError),
    /// The state or data directory.
    #[error("cannot prepare for handlers")]
    Hosts(#[from] longshore_exec::OpenError),
    /// A key.
    #[error("package_keys cannot be used")]
    Keys(#[from] longshore_exec::package::TrustError),
}

/// Keeps packages and runs their handlers, each in a host process of its package.
pub struct PackageHandlers {
    installer: Installer,
    runner: Runner,
}

impl PackageHandlers {
    /// Opens the packages directory and prepares for hosts. Blocks for milliseconds as a rule; needs a runtime.
    ///
    /// # Errors
    /// A directory that cannot be used, or a key that is none.
    pub fn open(settings: &Settings, instance: &str, supervisor: SupervisorCommand) -> Result<Self, PackagesError> {
        let packages = Packages::open(settings.packages_dir.clone().unwrap_or_else(|| "node-packages".into()))?;
        let mut install = InstallConfig::new(supervisor.clone());
        install.fetch.reach = match settings.package_reach {
            PackageReach::Public => Reach::Public,
            PackageReach::Private => Reach::Private,
            PackageReach::Loopback => Reach::Loopback,
        };
        install.fetch.authorities.extend(settings.tls_ca_file.clone());
        install.trust = Trust::new(&settings.package_keys)?;
        install.downgrade = settings.package_allow_downgrade;
        install.hooks = if settings.package_hooks { HookRule::Run { limit: HOOK_LIMIT } } else { HookRule::Never };
        install.python.program.clone_from(&settings.python_program);
        install.python.wheels.clone_from(&settings.package_wheels_dir);
        install.python.index.clone_from(&settings.package_index);
        let state_dir = settings.state_dir_of(instance).join("hosts");
        let mut host = HostSettings::new(supervisor, state_dir, settings.data_dir.clone(), settings.worker_name.clone());
        host.python = settings.python_program.clone().into();
        Ok(Self { runner: Runner::new(packages.clone(), Hosts::new(host)?), installer: Installer::new(packages, install) })
    }

    /// What runs the nodes, for who runs them as jobs too.
    pub(super) fn runner(&self) -> Runner {
        self.runner.clone()
    }

    /// Ends every host and waits until they are gone. Safe to repeat.
    pub async fn close(&self) {
        self.runner.close().await;
    }
}

#[async_trait]
impl Handlers for PackageHandlers {
    async fn run(&self, task: Task, door: Door, stop: CancellationToken) -> Result<Outcome, Fault> {
        let (feedback, mut said) = feedback_channel();
        let (next, mut calls) = mpsc::channel(4);
        // Held back for what the handler said last: its end must not wait for a place.
        let last = door.feedback.clone().reserve_owned().await.ok();
        let (name, version) = (task.package_name.clone(), task.package_version.clone());
        let output: Arc<dyn Output> = match door.prints {
            Prints::Said => feedback.clone(),
            Prints::Logged => Arc::new(Printed::of(&task)),
        };
        let speaks = host::Door { feedback: Some(feedback), next: Some(next), output: Some(output) };
        let work = self.runner.run(&name, &version, call_of(task), speaks, stop);
        let result = {
            let mut work = std::pin::pin!(work);
            let mut forward = std::pin::pin!(async {
                tokio::join!(forward_feedback(&mut said, &door.feedback), forward_calls(&mut calls, &door.next));
                std::future::pending::<()>().await;
            });
            tokio::select! {
                result = &mut work => result,
                () = &mut forward => return Err(failed("nobody listens to the handler any more".to_owned())),
            }
        };
        forward_rest(&mut said, &door.feedback, last).await;
        result.map(outcome_of).map_err(|error| fault_of(&error))
    }

    async fn install(&self, install: Install) -> Result<Payload, Payload> {
        let refused = |error: String| Payload::from_iter([("error".to_owned(), error.into())]);
        let name = install.name.parse::<PackageName>().map_err(|error| refused(error.to_string()))?;
        let version = install.version.parse::<PackageVersion>().map_err(|error| refused(error.to_string()))?;
        let sha256 = install.sha256.map(Sha256Hex::try_from).transpose().map_err(refused)?;
        let request = InstallRequest {
            name: Some(name.clone()),
            version: Some(version.clone()),
            url: Some(install.url),
            sha256,
            signature_url: None,
        };
        match self.installer.install(request, &CancellationToken::new()).await {
            Ok(report) => {
                self.runner.retire(&name, Some(&version));
                Ok(object(report.details()))
            }
            Err(error) => Err(object(error.details())),
        }
    }

    async fn uninstall(&self, name: String, version: Option<String>) -> Result<Payload, Payload> {
        let refused = |error: String| Payload::from_iter([("error".to_owned(), error.into())]);
        let parsed = name.parse::<PackageName>().map_err(|error| refused(error.to_string()))?;
        let parsed_version =
            version.as_deref().map(str::parse::<PackageVersion>).transpose().map_err(|error| refused(error.to_string()))?;
        let removed = self.installer.uninstall(&parsed, parsed_version.as_ref(), &CancellationToken::new()).await;
        self.runner.retire(&parsed, parsed_version.as_ref());
        match removed {
            Ok(report) => Ok(object(report.details())),
            Err(error) => Err(object(error.details())),
        }
    }

    fn inventory(&self) -> Option<Inventory> {
        let found = self.installer.packages().inventory();
        let found = found
            .inspect_err(|error| tracing::warn!(%error, "the packages directory cannot be read; what was there before counts"))
            .ok()?;
        let mut inventory = Inventory::default();
        for installed in found.installed {
            let (name, version) = (installed.name.to_string(), installed.version.to_string());
            inventory.packages.push(Package { name: name.clone(), version: version.clone(), status: PackageStatus::Installed });
            inventory.manifests.push(Manifest { name, version, manifest: object(installed.raw) });
        }
        for broken in found.broken {
            tracing::warn!(directory = %broken.directory.display(), why = broken.why, "a package cannot be used");
            if let (Some(name), Some(version)) = (broken.name, broken.version) {
                inventory.packages.push(Package { name, version, status: PackageStatus::Failed });
            }
        }
        Some(inventory)
    }

    fn metrics(&self) -> Payload {
        let (handles, bytes) = self.runner.hosts().resources();
        object(json!({ "resource_handles": handles, "resource_bytes": bytes, "warm_hosts": self.runner.hosts().warm_hosts() }))
    }
}

async fn forward_feedback(said: &mut FeedbackReceiver, out: &mpsc::Sender<Payload>) {
    // A place first: what is not taken yet goes on being put together.
    while let Ok(place) = out.reserve().await {
        let Some(feedback) = said.recv().await else { return };
        place.send(payload_of(feedback));
    }
}

/// Hands on what a handler said and printed last. Where nobody takes it, its end does not wait for that: what fits the last place goes, and the rest is
/// counted.
async fn forward_rest(said: &mut FeedbackReceiver, out: &mpsc::Sender<Payload>, last: Option<mpsc::OwnedPermit<Payload>>) {
    while let Some(mut feedback) = timeout(LAST_WORDS, said.recv()).await.ok().flatten() {
        match timeout(LAST_WORDS, out.reserve()).await {
            Ok(Ok(place)) => place.send(payload_of(feedback)),
            Ok(Err(_)) => return,
            Err(_) => {
                while let Some(Some(more)) = said.recv().now_or_never() {
                    feedback.dropped_chunks += more.dropped_chunks + more.chunks.len() as u64;
                }
                if let Some(place) = last {
                    drop(place.send(payload_of(feedback)));
                }
                return;
            }
        }
    }
}

async fn forward_calls(calls: &mut mpsc::Receiver<host::NextCall>, out: &mpsc::Sender<NextCall>) {
    let mut waiting = FuturesUnordered::new();
    loop {
        tokio::select! {
            call = calls.recv() => match call {
                Some(call) => waiting.push(forward_call(call, out)),
                None => break,
            },
            Some(()) = waiting.next() => {}
        }
    }
    while waiting.next().await.is_some() {}
}

async fn forward_call(call: host::NextCall, out: &mpsc::Sender<NextCall>) {
    let host::NextCall { request, reply: mut to_handler } = call;
    let (reply, answer) = oneshot::channel();
    let host::NextRequest { payload, host_ctx, middleware_ctx, timeout_ms } = request;
    if out.send(NextCall { payload, host_ctx, middleware_ctx, timeout_ms, reply }).await.is_err() {
        return;
    }
    tokio::select! {
        answer = answer => {
            if let Ok(answer) = answer {
                // A handler that waits no more needs none.
                let _ = to_handler.send(answer.map_err(|NextError { code, message, trace }| host::NextError { code, message, trace }));
            }
        }
        () = to_handler.closed() => {}
    }
}

fn call_of(task: Task) -> Call {
    Call {
        run_id: task.run_id,
        task_id: task.task_id,
        node_id: task.node_id,
        node_type: task.node_type,
        parameters: task.parameters,
        tenant: task.tenant,
        host_node_id: task.host_node_id,
        middleware_chain: task.middleware_chain,
        chain_index: task.chain_index,
        trace: None,
        metadata: task.metadata,
        resource_refs: task.resource_refs,
        exec_mode: match task.exec_mode {
            ExecMode::Auto => host::ExecMode::Auto,
            ExecMode::Inline => host::ExecMode::Inline,
            ExecMode::Thread => host::ExecMode::Thread,
        },
        timeout: task.timeout,
    }
}

/// The form of the frame: every chunk has an index, and what was left out is said where anything may be.
fn payload_of(feedback: Feedback) -> Payload {
    let dropped = feedback.dropped_chunks;
    let mut payload = object(serde_json::to_value(feedback).unwrap_or_default());
    payload.remove("dropped_chunks");
    if let Some(Value::Array(chunks)) = payload.get_mut("chunks") {
        for (index, chunk) in chunks.iter_mut().enumerate() {
            if let Value::Object(chunk) = chunk {
                chunk.entry("index").or_insert_with(|| index.into());
            }
        }
    }
    if dropped > 0
        && let Value::Object(metadata) = payload.entry("metadata").or_insert_with(|| json!({}))
    {
        metadata.insert("dropped_chunks".to_owned(), dropped.into());
    }
    payload
}

fn outcome_of(outcome: host::Outcome) -> Outcome {
    let status = match outcome.status {
        host::Status::Succeeded => Status::Succeeded,
        host::Status::Failed => Status::Failed,
        host::Status::Skipped => Status::Skipped,
        host::Status::Cancelled => Status::Cancelled,
    };
    let artifacts = outcome.artifacts.into_iter().filter_map(|artifact| serde_json::to_value(artifact).ok()).collect();
    Outcome { status, result: outcome.result, metadata: outcome.metadata, artifacts, duration: outcome.duration }
}

fn fault_of(error: &HandlerError) -> Fault {
    let kind = match error.kind {
        ErrorKind::NotLoaded | ErrorKind::Raised | ErrorKind::BadReturn | ErrorKind::HostDied | ErrorKind::HostUnavailable => {
            FaultKind::Failed
        }
        ErrorKind::ResourceMissing => FaultKind::ResourceMissing,
        ErrorKind::TimedOut => FaultKind::TimedOut,
        ErrorKind::Cancelled => FaultKind::Cancelled,
    };
    Fault { kind, message: words_of(error) }
}

fn failed(message: String) -> Fault {
    Fault { kind: FaultKind::Failed, message }
}

fn object(value: Value) -> Payload {
    match value {
        Value::Object(fields) => fields,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Payload::new(),
    }
}
