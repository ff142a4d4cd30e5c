//! What the loop does with what is handed out: tasks are taken and begun, or refused; package commands are taken.

use std::sync::Arc;
use std::time::Duration;

use longshore_session::codec::decode;
use longshore_session::{Envelope, Payload};
use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::answer::{Of, of_end, of_error};
use super::frames::{Cancel, Dispatch, PackageCommand, code, kind};
use super::handlers::{Fault, FaultKind, Prints, Task};
use super::journal::{Entry, Key};
use super::next;
use super::perform::perform;
use super::queues::Queued;
use super::run::{Ended, Runner, Running};
use super::tasks::{Claims, Refused};
use super::{FRAME_BYTES_MAX, random_id};

/// A task that was taken and waits for its turn.
pub(super) struct ToBegin {
    pub(super) dispatch: Dispatch,
    pub(super) of: Of,
}

/// What waits in a queue.
#[derive(Debug)]
pub(super) enum Item {
    Task(Key),
    Command {
        kind: &'static str,
        command: PackageCommand,
        /// Counts commands of both kinds: what came first is done first.
        n: u64,
    },
}

impl Runner {
    /// Takes what the session has, as far as the queues take it.
    pub(super) fn route(&mut self) {
        while let Some(envelope) = self.next_delivery() {
            self.take(envelope);
        }
    }

    fn take(&mut self, envelope: Envelope) {
        tracing::trace!(kind = envelope.kind, id = envelope.id, "a frame was delivered");
        let command = match envelope.kind.as_str() {
            kind::DISPATCH => return self.offer(&envelope),
            // Of a Longshore alone: no other may have anything done to this host but by packages.
            kind::OPERATION if self.session.is_longshore() => return self.offer(&envelope),
            kind::CANCEL if self.session.is_longshore() => return self.cancel(&envelope),
            kind::NEXT_RESPONSE => return self.next_response(&envelope),
            // The names of the documents, and those of the existing scheduler.
            kind::INSTALL | "package.install" => kind::INSTALL,
            kind::UNINSTALL | "package.uninstall" => kind::UNINSTALL,
            _ => return tracing::debug!(kind = envelope.kind, "passed over a frame of an unknown kind"),
        };
        match PackageCommand::deserialize(Value::Object(envelope.payload.clone())) {
            Ok(_) if !self.takes(command) => {
                self.refuse_command(command, &envelope.payload, "this worker does not take such commands: payload_types leaves them out")
            }
            Ok(_) if self.is_ending() => self.refuse_command(command, &envelope.payload, "the worker takes no more work"),
            Ok(read) => {
                self.n_commands += 1;
                let item = Item::Command { kind: command, command: read, n: self.n_commands };
                let now = self.now().at;
                if let Queued::Dropped(item) = self.queues.put(command, item, now) {
                    self.overloaded(item);
                }
            }
            Err(error) => self.refuse_command(command, &envelope.payload, &error.to_string()),
        }
    }

    /// A task was sent. Whatever becomes of it, somebody is told, but for a repeat of what is here.
    fn offer(&mut self, envelope: &Envelope) {
        let dispatch = match Dispatch::read(envelope) {
            Ok(dispatch) => dispatch,
            Err(problem) => {
                let message = format!("the dispatch cannot be read: {problem}");
                return self.refuse_unread(&of_payload(envelope), code::INVALID, &message);
            }
        };
        let of = Of::dispatch(&dispatch, &envelope.id, envelope.seq);
        let key = key_of(&dispatch, envelope);
        if self.tasks.is_held(&key) {
            tracing::debug!(task = key.task, "a task came again while it is here");
            return;
        }
        match self.journal.get(&key).map(|entry| (entry.answer.clone(), entry.is_settled)) {
            Some((Some(answer), false)) if self.is_over(&answer) => return,
            Some((Some(answer), true)) => return self.answer_again(&key, &answer, &of),
            Some(_) | None => {}
        }
        if !self.takes(kind::DISPATCH) {
            return self.refuse(&key, &of, code::UNSUPPORTED, "this worker takes no tasks: payload_types leaves them out", Payload::new());
        }
        if self.is_ending() {
            return self.give_back(&key, &of);
        }
        let now = self.now().at;
        let claims = Claims {
            node_type: dispatch.node_type.clone(),
            exclusive: dispatch.exclusive_key().map(str::to_owned),
            handler: (dispatch.package_name.clone(), dispatch.package_version.clone(), dispatch.node_type.clone()),
        };
        match self.tasks.admit(key.clone(), claims, now) {
            Ok(()) => {}
            Err(Refused::Known) => return,
            Err(Refused::Exclusive) => {
                let message = "another task runs under its concurrency key";
                return self.refuse(&key, &of, code::CONCURRENCY, message, Payload::new());
            }
            Err(Refused::Cooldown(left)) => return self.refuse_cooldown(&key, &of, left),
        }
        self.journal.note(key.clone(), Entry { node: of.node.clone(), answer: None, is_settled: false });
        self.to_begin.insert(key.clone(), ToBegin { dispatch, of });
        if let Queued::Dropped(item) = self.queues.put(kind::DISPATCH, Item::Task(key), now) {
            self.overloaded(item);
        }
    }

    /// Somebody wants a task ended. It is answered in any case: as given up, or with the end that it had.
    fn cancel(&mut self, envelope: &Envelope) {
        let Ok(Cancel { run_id, task_id }) = Cancel::deserialize(Value::Object(envelope.payload.clone())) else {
            return tracing::warn!("a cancel names no task");
        };
        let of = Of { run: run_id.clone(), task: task_id.clone(), seq: envelope.seq, ..Of::default() };
        let key = Key { run: run_id, task: task_id, seq: envelope.seq, dispatch: None };
        if let Some(running) = self.running.get(&key) {
            tracing::info!(run = key.run, task = key.task, "a task is to be ended");
            return running.stop.cancel();
        }
        let now = self.now().at;
        self.queues.take(kind::DISPATCH, now, |item| matches!(item, Item::Task(waiting) if *waiting == key));
        self.tasks.release(&key);
        let waiting = self.to_begin.remove(&key);
        match self.journal.get(&key).and_then(|entry| entry.answer.clone().map(|answer| (answer, entry.is_settled))) {
            // It is on its way.
            Some((_, false)) => {}
            Some((answer, true)) => self.answer_again(&key, &answer, &of),
            None => {
                let of = waiting.map_or(of, |waiting| waiting.of);
                self.answer(&key, &of, of_error(&of, code::CANCELLED, "it was ended before it began", Payload::new(), random_id()));
            }
        }
    }

    /// The session had no room for it.
    pub(super) fn dropped(&mut self, envelope: &Envelope) {
        match envelope.kind.as_str() {
            kind::DISPATCH | kind::OPERATION => {
                let held = Dispatch::read(envelope)
                    .map(|dispatch| (key_of(&dispatch, envelope), Of::dispatch(&dispatch, &envelope.id, envelope.seq)));
                match held {
                    Ok((key, _)) if self.tasks.is_held(&key) => {}
                    // Asked once more after it was done, it has its answer.
                    Ok((key, of)) => {
                        match self.journal.get(&key).and_then(|entry| entry.answer.clone().map(|answer| (answer, entry.is_settled))) {
                            Some((answer, false)) if self.is_over(&answer) => {}
                            Some((answer, true)) => self.answer_again(&key, &answer, &of),
                            Some(_) | None => self.refuse(&key, &of, code::OVERLOADED, "the worker has no room for it", Payload::new()),
                        }
                    }
                    Err(_) => self.refuse_unread(&of_payload(envelope), code::OVERLOADED, "the worker has no room for it"),
                }
            }
            kind::INSTALL | "package.install" => self.refuse_command(kind::INSTALL, &envelope.payload, "the worker has no room for it"),
            kind::UNINSTALL | "package.uninstall" => {
                self.refuse_command(kind::UNINSTALL, &envelope.payload, "the worker has no room for it")
            }
            kind::NEXT_RESPONSE => {
                let answer = Err(next::error("next_unavailable", "the worker had no room for the answer"));
                if let Some(request) = envelope.payload.get("requestId").and_then(Value::as_str) {
                    self.next_answered(request, answer);
                }
            }
            _ => {}
        }
    }

    /// A queue had no room for it, or for what came after it.
    fn overloaded(&mut self, item: Item) {
        match item {
            Item::Task(key) => {
                self.tasks.release(&key);
                if let Some(ToBegin { of, .. }) = self.to_begin.remove(&key) {
                    self.refuse(&key, &of, code::OVERLOADED, "the worker has no room for it", Payload::new());
                }
            }
            Item::Command { kind, command, .. } => {
                let payload =
                    Payload::from_iter([("name".to_owned(), command.name.into()), ("version".to_owned(), command.version.into())]);
                self.refuse_command(kind, &payload, "the worker has no room for it");
            }
        }
    }

    /// A frame that was let into the session and waits there: it is acknowledged, so it is noted before that leaves.
    pub(super) fn note_waiting(&mut self, bytes: &[u8]) {
        let Ok(envelope) = decode(bytes, FRAME_BYTES_MAX) else { return };
        let is_task = envelope.kind == kind::DISPATCH || (envelope.kind == kind::OPERATION && self.session.is_longshore());
        // It may have been taken already, before what waits.
        if !is_task || !self.session.holds(&envelope.id) {
            return;
        }
        if let Ok(dispatch) = Dispatch::read(&envelope) {
            let key = key_of(&dispatch, &envelope);
            if self.journal.get(&key).is_none() {
                self.journal.note(key, Entry { node: dispatch.node_id, answer: None, is_settled: false });
            }
        }
    }

    /// Begins what may begin; whether anything did.
    pub(super) fn begin_more(&mut self) -> bool {
        let mut has_begun = false;
        while let Some(key) = self.tasks.resume() {
            self.waits.hand_over(&key);
            has_begun = true;
        }
        let now = self.now().at;
        if self.tasks.n_commands() == 0
            && self.tasks.has_any_slot()
            && let Some(item) = self.next_command(now)
        {
            self.begin_command(item);
            has_begun = true;
        }
        // Asked first: what waits is many, and a flood asks for each of its frames.
        if !self.tasks.has_any_slot() {
            return has_begun;
        }
        let Self { queues, tasks, .. } = self;
        let next = queues.take(kind::DISPATCH, now, |item| match item {
            Item::Task(key) => tasks.may_begin(key),
            Item::Command { .. } => false,
        });
        if let Some(Item::Task(key)) = next {
            self.begin(key, now);
            has_begun = true;
        }
        has_begun
    }

    fn begin(&mut self, key: Key, now: Duration) {
        let Some(ToBegin { dispatch, of }) = self.to_begin.remove(&key) else { return self.tasks.release(&key) };
        if let Err(left) = self.tasks.begin(&key, now) {
            return self.refuse_cooldown(&key, &of, left);
        }
        let stop = CancellationToken::new();
        let own = dispatch.timeout_ms().ok().flatten().map(Duration::from_millis);
        let task = Task {
            metadata: dispatch.metadata(),
            run_id: dispatch.run_id,
            task_id: dispatch.task_id,
            node_id: dispatch.node_id,
            node_type: dispatch.node_type,
            package_name: dispatch.package_name,
            package_version: dispatch.package_version,
            parameters: dispatch.parameters,
            tenant: self.settings.tenant.clone(),
            host_node_id: dispatch.host_node_id,
            middleware_chain: dispatch.middleware_chain,
            chain_index: dispatch.chain_index,
            resource_refs: dispatch.resource_refs.unwrap_or_default(),
            exec_mode: self.settings.exec_mode_default,
            timeout: [own, self.settings.timeout()].into_iter().flatten().min(),
        };
        tracing::debug!(run = key.run, task = key.task, node_type = task.node_type, "a task begins");
        self.running.insert(
            key.clone(),
            Running { stop: stop.clone(), of, chain_index: task.chain_index.filter(|_| task.middleware_chain.is_some()) },
        );
        let (handlers, out) = (Arc::clone(&self.handlers), self.to_runner.clone());
        let prints = if self.session.is_longshore() { Prints::Said } else { Prints::Logged };
        self.work.spawn(async move {
            let end = perform(handlers, key.clone(), task, prints, stop, out).await;
            Ended::Task(key, end)
        });
    }

    pub(super) fn ended(&mut self, ended: Ended) {
        match ended {
            Ended::Task(key, end) => {
                self.hear_all();
                for words in end.last_words {
                    self.feedback(&key, words);
                }
                self.task_ended(&key, end.result);
            }
            Ended::Command { kind, name, version, result, inventory } => {
                self.command_ended(kind, &name, &version, result, inventory.as_ref())
            }
        }
    }

    fn task_ended(&mut self, key: &Key, result: Result<super::Outcome, Fault>) {
        let has_failed = result.as_ref().is_err_and(|fault| matches!(fault.kind, FaultKind::Failed | FaultKind::TimedOut));
        let is_given_up = result.as_ref().is_err_and(|fault| fault.kind == FaultKind::Cancelled);
        if !is_given_up {
            self.tasks.tell(key, has_failed, self.now().at);
        }
        self.tasks.release(key);
        self.waits.forget(key);
        let Some(Running { of, .. }) = self.running.remove(key) else { return };
        tracing::debug!(run = key.run, task = key.task, has_failed, "a task has ended");
        self.answer(key, &of, of_end(&of, result, random_id()));
    }
}

fn key_of(dispatch: &Dispatch, envelope: &Envelope) -> Key {
    let id = envelope.seq.is_none().then(|| envelope.id.clone());
    Key { run: dispatch.run_id.clone(), task: dispatch.task_id.clone(), seq: envelope.seq, dispatch: id }
}

/// What can be told of a dispatch that cannot be read.
fn of_payload(envelope: &Envelope) -> Of {
    let text = |name: &str| envelope.payload.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let task = Some(text("task_id")).filter(|task| !task.is_empty()).or_else(|| envelope.corr.clone());
    Of { run: text("run_id"), task: task.unwrap_or_default(), node: text("node_id"), dispatch: envelope.id.clone(), seq: envelope.seq }
}
