//! What the loop answers for tasks: results, errors, refusals and what is given back. Each is noted before it is said, and kept until it is acknowledged.

use std::time::Duration;

use longshore_session::{Message, Payload};
use serde_json::Value;

use super::answer::{Of, is_cancelled, is_final, of_error};
use super::frames::{code, kind};
use super::journal::{Entry, Kept, Key};
use super::package_commands::object_of;
use super::run::{Runner, Said};
use super::work::{Item, ToBegin};
use super::{next, random_id};

impl Runner {
    /// It was done before. The same answer goes to the dispatch that asks now.
    pub(super) fn answer_again(&mut self, key: &Key, answer: &Kept, of: &Of) {
        tracing::debug!(task = key.task, "a task that has ended came again and is answered as before");
        let corr = if answer.kind == kind::RESULT { of.dispatch.clone() } else { of.task.clone() };
        let message = Message { id: Some(random_id()), corr: Some(corr), ..answer.message() };
        self.say(message, None);
    }

    pub(super) fn refuse_cooldown(&mut self, key: &Key, of: &Of, left: Duration) {
        let ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
        let message = format!("its handler has failed too often in a row and is left alone for another {ms} ms");
        self.refuse(key, of, code::COOLDOWN, &message, Payload::from_iter([("retry_after_ms".to_owned(), ms.into())]));
    }

    /// Tells that a task is not done. That is kept until the other end has it, and no longer.
    pub(super) fn refuse(&mut self, key: &Key, of: &Of, code: &str, message: &str, more: Payload) {
        tracing::info!(task = of.task, code, "a task was refused");
        self.answer(key, of, of_error(of, code, message, more, random_id()));
    }

    /// Somebody else is to do it. Said after a while: the existing scheduler hands it out again at once, to this worker if it has no other.
    pub(super) fn give_back(&mut self, key: &Key, of: &Of) {
        tracing::info!(task = of.task, "a task is given back");
        let kept = of_error(of, code::CANCELLED, "the worker takes no more work", Payload::new(), random_id());
        let message = kept.message();
        self.journal.note(key.clone(), Entry { node: of.node.clone(), answer: Some(kept), is_settled: false });
        self.say_later(message, Said::Answer(key.clone()));
    }

    /// Tells that something is not done that nobody can tell from another, so that nothing is kept of it.
    pub(super) fn refuse_unread(&mut self, of: &Of, code: &str, message: &str) {
        tracing::info!(task = of.task, code, "a task was refused");
        self.say(of_error(of, code, message, Payload::new(), random_id()).message(), None);
    }

    /// Notes an answer, then says it.
    pub(super) fn answer(&mut self, key: &Key, of: &Of, kept: Kept) {
        let message = kept.message();
        self.journal.note(key.clone(), Entry { node: of.node.clone(), answer: Some(kept), is_settled: false });
        self.say(message, Some(Said::Answer(key.clone())));
    }

    /// Whether a task comes no more once it was answered so. A scheduler sends again under the same name what was given back; a Longshore never
    /// does: there it is another attempt, and this one is over.
    pub(super) fn is_over(&self, answer: &Kept) -> bool {
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
}
