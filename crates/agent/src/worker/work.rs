//! What the loop does with tasks and package commands: takes them, begins them, and answers.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use longshore_session::codec::decode;
use longshore_session::{Envelope, Message, Payload};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::answer::{Of, is_cancelled, is_final, of_end, of_error};
use super::frames::{Cancel, Dispatch, NextRequest, NextResponse, PackageCommand, code, kind, object};
use super::handlers::{Fault, FaultKind, Install, Inventory, NextCall, Task};
use super::journal::{Entry, Kept, Key};
use super::next;
use super::perform::{FromTask, limited, perform};
use super::queues::Queued;
use super::run::{Ended, Runner, Running, Said};
use super::tasks::{Claims, Refused};
use super::{FRAME_BYTES_MAX, random_id, with_inventory};

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

    /// It was done before. The same answer goes to the dispatch that asks now.
    fn answer_again(&mut self, key: &Key, answer: &Kept, of: &Of) {
        tracing::debug!(task = key.task, "a task that has ended came again and is answered as before");
        let corr = if answer.kind == kind::RESULT { of.dispatch.clone() } else { of.task.clone() };
        let message = Message { id: Some(random_id()), corr: Some(corr), ..answer.message() };
        self.say(message, None);
    }

    fn refuse_cooldown(&mut self, key: &Key, of: &Of, left: Duration) {
        let ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
        let message = format!("its handler has failed too often in a row and is left alone for another {ms} ms");
        self.refuse(key, of, code::COOLDOWN, &message, Payload::from_iter([("retry_after_ms".to_owned(), ms.into())]));
    }

    /// Tells that a task is not done. That is kept until the other end has it, and no longer.
    fn refuse(&mut self, key: &Key, of: &Of, code: &str, message: &str, more: Payload) {
        tracing::info!(task = of.task, code, "a task was refused");
        self.answer(key, of, of_error(of, code, message, more, random_id()));
    }

    /// Somebody else is to do it. Said after a while: the existing scheduler hands it out again at once, to this worker if it has no other.
    fn give_back(&mut self, key: &Key, of: &Of) {
        tracing::info!(task = of.task, "a task is given back");
        let kept = of_error(of, code::CANCELLED, "the worker takes no more work", Payload::new(), random_id());
        let message = kept.message();
        self.journal.note(key.clone(), Entry { node: of.node.clone(), answer: Some(kept), is_settled: false });
        self.say_later(message, Said::Answer(key.clone()));
    }

    /// Tells that something is not done that nobody can tell from another, so that nothing is kept of it.
    fn refuse_unread(&mut self, of: &Of, code: &str, message: &str) {
        tracing::info!(task = of.task, code, "a task was refused");
        self.say(of_error(of, code, message, Payload::new(), random_id()).message(), None);
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

    /// The package command that came first.
    fn next_command(&mut self, now: Duration) -> Option<Item> {
        let place = |kind: &str| match self.queues.first(kind) {
            Some(Item::Command { n, .. }) => *n,
            Some(Item::Task(_)) | None => u64::MAX,
        };
        let first = if place(kind::UNINSTALL) < place(kind::INSTALL) { kind::UNINSTALL } else { kind::INSTALL };
        self.queues.take(first, now, |_| true)
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
        self.work.spawn(async move {
            let end = perform(handlers, key.clone(), task, stop, out).await;
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

    /// Notes an answer, then says it.
    fn answer(&mut self, key: &Key, of: &Of, kept: Kept) {
        let message = kept.message();
        self.journal.note(key.clone(), Entry { node: of.node.clone(), answer: Some(kept), is_settled: false });
        self.say(message, Some(Said::Answer(key.clone())));
    }

    /// Whether a task comes no more once it was answered so. A scheduler sends again under the same name what was given back; a Longshore never
    /// does: there it is another attempt, and this one is over.
    fn is_over(&self, answer: &Kept) -> bool {
        is_final(answer) || (self.session.is_longshore() && is_cancelled(answer))
    }

    /// The other end has the answer of that id. A task that was not done may be here again by now, or have ended with another.
    pub(super) fn settled(&mut self, key: &Key, id: &str) {
        let answer = self.journal.get(key).and_then(|entry| entry.answer.as_ref()).filter(|answer| answer.id == id);
        match answer.map(|answer| self.is_over(answer)) {
            Some(true) => self.journal.settle(key),
            Some(false) => self.journal.forget(key),
            None => {}
        }
    }

    /// It can never be sent: its task has failed by that, and no other is harmed.
    pub(super) fn unfit(&mut self, message: &Message, said: Option<Said>, problem: &str) {
        tracing::warn!(kind = message.kind, problem, "a message cannot be sent");
        match said {
            Some(Said::Answer(key)) => {
                let text = |name: &str| message.payload.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
                let node = self.journal.get(&key).map(|entry| entry.node.clone()).unwrap_or_default();
                let of = Of { run: key.run.clone(), task: key.task.clone(), node, dispatch: text("dispatch"), seq: message.seq };
                let message = format!("the handler's result cannot be sent: {problem}");
                let kept = of_error(&of, code::FAILURE, &message, Payload::new(), random_id());
                self.answer(&key, &of, kept);
            }
            Some(Said::Next(request)) => self.next_answered(&request, Err(next::error("next_unavailable", problem))),
            None => {}
        }
    }

    /// What an earlier process left: tasks that ran are reported as given up, answers nobody acknowledged are said again.
    pub(super) fn report_left_behind(&mut self) {
        for (key, entry) in self.journal.unsettled() {
            match entry.answer {
                Some(answer) => self.say(answer.message(), Some(Said::Answer(key))),
                None => {
                    tracing::warn!(run = key.run, task = key.task, "a task did not survive the worker's last end and is given back");
                    let of = Of { run: key.run.clone(), task: key.task.clone(), node: entry.node, dispatch: String::new(), seq: key.seq };
                    let kept = of_error(&of, code::CANCELLED, "the worker was ended while it had this task", Payload::new(), random_id());
                    self.answer(&key, &of, kept);
                }
            }
        }
    }

    /// Nothing new begins: what waits goes back, so that others do it.
    pub(super) fn give_back_waiting(&mut self) {
        for item in self.queues.take_all(kind::DISPATCH) {
            let Item::Task(key) = item else { continue };
            self.tasks.release(&key);
            if let Some(ToBegin { of, .. }) = self.to_begin.remove(&key) {
                let kept = of_error(&of, code::CANCELLED, "the worker takes no more work", Payload::new(), random_id());
                self.answer(&key, &of, kept);
            }
        }
        for (queue, reason) in [(kind::INSTALL, "the worker takes no more work"), (kind::UNINSTALL, "the worker takes no more work")] {
            for item in self.queues.take_all(queue) {
                if let Item::Command { kind, command, .. } = item {
                    self.refuse_command(kind, &object_of(&command), reason);
                }
            }
        }
    }

    pub(super) fn heard(&mut self, word: FromTask) {
        match word {
            FromTask::Feedback(key, payload) => self.feedback(&key, payload),
            FromTask::Next(key, call) => self.next_call(&key, call),
        }
    }

    fn feedback(&mut self, key: &Key, mut payload: Payload) {
        let Some(running) = self.running.get(key) else { return };
        payload.insert("run_id".to_owned(), key.run.clone().into());
        payload.insert("task_id".to_owned(), key.task.clone().into());
        let message = Message { corr: Some(key.task.clone()), seq: running.of.seq, ..Message::new(kind::FEEDBACK, payload) };
        self.say(message, None);
    }

    fn next_call(&mut self, key: &Key, call: NextCall) {
        let NextCall { payload, host_ctx, middleware_ctx, timeout_ms, reply } = call;
        let Some(running) = self.running.get(key) else { return };
        let Some(chain_index) = running.chain_index else {
            let _ = reply.send(Err(next::error("next_no_chain", "this task is no middleware: it has no chain to call the next of")));
            return;
        };
        let request = NextRequest {
            request_id: random_id(),
            run_id: key.run.clone(),
            node_id: running.of.node.clone(),
            middleware_id: running.of.node.clone(),
            chain_index: Some(chain_index),
            host_ctx,
            middleware_ctx,
            payload,
            timeout_ms: timeout_ms.filter(|ms| *ms > 0),
        };
        let until = request.timeout_ms.map(|ms| self.now().at.saturating_add(Duration::from_millis(ms)));
        let message = Message {
            corr: Some(key.task.clone()),
            seq: running.of.seq,
            wants_ack: true,
            ..Message::new(kind::NEXT_REQUEST, object(&request))
        };
        self.tasks.enter_next(key);
        self.waits.add(request.request_id.clone(), key.clone(), reply, until);
        self.say(message, Some(Said::Next(request.request_id)));
    }

    fn next_response(&mut self, envelope: &Envelope) {
        let request = envelope.payload.get("requestId").and_then(Value::as_str).or(envelope.corr.as_deref()).unwrap_or_default();
        match NextResponse::deserialize(Value::Object(envelope.payload.clone())) {
            Ok(response) => {
                let answer = match response.error {
                    None => Ok(response.result.unwrap_or_default()),
                    Some(error) => {
                        let text = |name: &str, default: &str| error.get(name).and_then(Value::as_str).unwrap_or(default).to_owned();
                        Err(super::NextError {
                            code: text("code", "next_failed"),
                            message: text("message", "the next element failed"),
                            trace: response.trace,
                        })
                    }
                };
                self.next_answered(&response.request_id, answer);
            }
            // The words of the error may hold some of the answer: they are for the handler, not for the log.
            Err(error) => {
                tracing::warn!(request, "an answer to next() cannot be read");
                self.next_answered(request, Err(next::error("next_failed", &format!("the answer cannot be read: {error}"))));
            }
        }
    }

    fn next_answered(&mut self, request: &str, answer: next::Answer) {
        match self.waits.answer(request, answer) {
            Some(key) => self.tasks.leave_next(&key),
            None => tracing::debug!(request, "an answer to next() came for nobody"),
        }
    }

    pub(super) fn expire_waits(&mut self) {
        for request in self.waits.expired(self.now().at) {
            self.next_answered(&request, Err(next::error("next_timeout", "the next element did not answer in time")));
        }
    }

    /// A new session: answers to requests that the other end had may be lost with the old one.
    pub(super) fn cancel_lost_waits(&mut self) {
        for request in self.waits.arrived() {
            self.next_answered(&request, Err(next::error("next_cancelled", "the connection broke while the next element was waited for")));
        }
    }

    fn begin_command(&mut self, item: Item) {
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
            let inventory = tokio::task::spawn_blocking(move || looking.inventory()).await.ok();
            Ended::Command { kind, name, version, result, inventory }
        });
    }

    fn command_ended(
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

    fn refuse_command(&mut self, command: &str, payload: &Payload, error: &str) {
        let text = |name: &str, default: &str| {
            payload.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).unwrap_or(default).to_owned()
        };
        let details = Payload::from_iter([("action".to_owned(), action(command).into()), ("error".to_owned(), error.into())]);
        self.package_event(&text("name", "?"), &text("version", "*"), "failed", details);
    }

    fn package_event(&mut self, name: &str, version: &str, status: &str, details: Payload) {
        let payload = json!({ "name": name, "version": version, "status": status, "details": details });
        let Value::Object(payload) = payload else { return };
        self.say(Message { wants_ack: true, ..Message::new(kind::EVENT, payload) }, None);
    }

    /// Says what is installed now, if that is something else than what was said before.
    fn refresh(&mut self, inventory: &Inventory) {
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

    pub(super) fn has_drifted(&self) -> bool {
        let now = with_inventory(self.register.clone(), &self.handlers.inventory());
        now.packages != self.register.packages
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

fn object_of(command: &PackageCommand) -> Payload {
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
