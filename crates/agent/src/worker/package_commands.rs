//! What the loop does with package commands: one at a time, in the order in which they came, and each is answered with an event.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use longshore_session::{Message, Payload};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::frames::{PackageCommand, kind};
use super::handlers::{Install, Inventory};
use super::perform::limited;
use super::run::{Ended, Runner};
use super::with_inventory;
use super::work::Item;

impl Runner {
    /// The package command that came first.
    pub(super) fn next_command(&mut self, now: Duration) -> Option<Item> {
        let place = |kind: &str| match self.queues.first(kind) {
            Some(Item::Command { n, .. }) => *n,
            Some(Item::Task(_)) | None => u64::MAX,
        };
        let first = if place(kind::UNINSTALL) < place(kind::INSTALL) { kind::UNINSTALL } else { kind::INSTALL };
        self.queues.take(first, now, |_| true)
    }

    pub(super) fn begin_command(&mut self, item: Item) {
        let Item::Command { kind, command, .. } = item else { return };
        let address = match (kind, &command.version, &command.url) {
            (kind::INSTALL, Some(version), Some(url)) => Some((version.clone(), url.clone())),
            (kind::INSTALL, ..) => {
                return self.refuse_command(kind, &object_of(&command), "a package to install needs a version and a url");
            }
            _ => None,
        };
        self.tasks.command_began();
        let stop = CancellationToken::new();
        self.stop_command = Some(stop.clone());
        let (handlers, limit) = (Arc::clone(&self.handlers), self.settings.timeout());
        let base = self.settings.scheduler_rest_base_url.clone();
        self.work.spawn(async move {
            let name = command.name.clone();
            let version = command.version.clone().unwrap_or_else(|| "*".to_owned());
            let work = async {
                match address {
                    Some((version, url)) => {
                        let url = absolute(&base, &url);
                        handlers.install(Install { name: command.name, version, url, sha256: command.sha256 }).await
                    }
                    None => handlers.uninstall(command.name, command.version).await,
                }
            };
            let failed = |error: String| Err(Payload::from_iter([("error".to_owned(), error.into())]));
            let result = tokio::select! {
                done = AssertUnwindSafe(work).catch_unwind() => {
                    done.unwrap_or_else(|_| failed("the worker met a fault of its own while it did this".to_owned()))
                }
                () = limited(limit) => {
                    let ms = limit.unwrap_or_default().as_millis();
                    failed(format!("it took longer than the {ms} ms that dispatch_timeout_seconds allows"))
                }
                () = stop.cancelled() => failed("the worker ended before it was done".to_owned()),
            };
            let looking = Arc::clone(&handlers);
            // What cannot be looked at is taken to be as it was.
            let inventory = tokio::task::spawn_blocking(move || looking.inventory()).await.ok().flatten();
            Ended::Command { kind, name, version, result, inventory }
        });
    }

    pub(super) fn command_ended(
        &mut self,
        command: &'static str,
        name: &str,
        version: &str,
        result: Result<Payload, Payload>,
        inventory: Option<&Inventory>,
    ) {
        self.tasks.command_ended();
        self.stop_command = None;
        if let Some(inventory) = inventory {
            self.refresh(inventory);
        }
        // There is no word for a package that was removed: the details say it, and so does what is registered.
        let (status, mut details) = match result {
            Ok(details) => ("installed", details),
            Err(details) => ("failed", details),
        };
        tracing::info!(name, version, command, status, "a package command has ended");
        details.entry("action").or_insert_with(|| action(command).into());
        self.package_event(name, version, status, details);
    }

    pub(super) fn refuse_command(&mut self, command: &str, payload: &Payload, error: &str) {
        let text = |name: &str, default: &str| {
            payload.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).unwrap_or(default).to_owned()
        };
        let details = Payload::from_iter([("action".to_owned(), action(command).into()), ("error".to_owned(), error.into())]);
        self.package_event(&text("name", "?"), &text("version", "*"), "failed", details);
    }

    pub(super) fn package_event(&mut self, name: &str, version: &str, status: &str, details: Payload) {
        let payload = json!({ "name": name, "version": version, "status": status, "details": details });
        let Value::Object(payload) = payload else { return };
        self.say(Message { wants_ack: true, ..Message::new(kind::EVENT, payload) }, None);
    }

    /// Says what is installed now, if that is something else than what was said before.
    pub(super) fn refresh(&mut self, inventory: &Inventory) {
        self.told_of_packages();
        let register = with_inventory(self.register.clone(), inventory);
        if register == self.register {
            return;
        }
        let now = self.now();
        match self.session.update(register.clone(), now) {
            Ok(()) => self.register = register,
            Err(error) => {
                tracing::warn!(%error, "what is installed is more than the scheduler reads; the manifests are left out");
                let short = longshore_session::control::Register { manifests: None, ..register };
                match self.session.update(short.clone(), now) {
                    Ok(()) => self.register = short,
                    Err(error) => tracing::error!(%error, "what is installed cannot be said"),
                }
            }
        }
    }

    /// Whether other packages are there than those that were said.
    pub(super) fn differs(&self, inventory: &Inventory) -> bool {
        self.register.packages.as_ref() != Some(&inventory.packages)
    }
}

pub(super) fn object_of(command: &PackageCommand) -> Payload {
    Payload::from_iter([
        ("name".to_owned(), command.name.clone().into()),
        ("version".to_owned(), command.version.clone().map_or(Value::Null, Value::String)),
    ])
}

fn action(command: &str) -> &'static str {
    if command == kind::INSTALL { "install" } else { "uninstall" }
}

/// An address without a scheme is one at the scheduler.
fn absolute(base: &str, url: &str) -> String {
    if url.contains("://") { url.to_owned() } else { format!("{}/{}", base.trim_end_matches('/'), url.trim_start_matches('/')) }
}
