//! What a worker says of its tasks, and what the ledger says of them meanwhile: to the end of an attempt, and to the acknowledgement of the
//! frame that told it.

use std::sync::Arc;
use std::time::Duration;

use longshore_model::job::Job;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::Failure;
use longshore_session::control::Register;
use longshore_session::{Binding, Envelope, codec};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{ASIDE_COST_UNITS, ASIDE_UNIT_BYTES, Aside, Attachment, Done, UNSTORED};
use crate::gateway::frames::{self, Task, Word};
use crate::gateway::packages::{self, Command};
use crate::gateway::work::{self, Ending, Key, Wanted};

impl Attachment {
    /// Whether a frame waits until what follows from it is stored; then it is acknowledged, and not before.
    pub(super) fn hold_back(&mut self, binding: Binding, text: &Utf8Bytes) -> bool {
        let is_current = self.line.as_ref().is_some_and(|(current, _)| *current == binding);
        if !is_current || !self.is_open() || !may_be_word(text) {
            return false;
        }
        let Ok(envelope) = codec::decode(text.as_bytes(), self.app.config.gateway.frame_bytes_max) else { return false };
        let is_its_own = envelope.sender.id == self.instance && envelope.tenant == self.app.config.gateway.tenant;
        let is_event = envelope.kind == packages::EVENT;
        if !(frames::is_word(&envelope) || is_event) || !is_its_own {
            return false;
        }
        if self.aside.contains(&envelope.id) {
            return true;
        }
        if is_event {
            return self.package_event(&envelope, binding, text);
        }
        let by_corr = |corr: &str| self.running.values().find(|running| running.is_called(corr)).map(|running| running.attempt.task);
        let (task, word) = match frames::word(&envelope, by_corr) {
            Ok(word) => word,
            Err(why) => {
                tracing::warn!(agent.id = %self.agent(), why, "a worker's word could not be read, and is dropped");
                return false;
            }
        };
        // What finds no room is not acknowledged, so it is said again.
        let Some(frame) = self.set_aside(binding, envelope.id, text) else { return true };
        self.said(task, word, frame)
    }

    fn set_aside(&self, binding: Binding, id: String, text: &Utf8Bytes) -> Option<Aside> {
        let units = u32::try_from(text.len() / ASIDE_UNIT_BYTES + ASIDE_COST_UNITS).unwrap_or(u32::MAX);
        match Arc::clone(&self.aside_room).try_acquire_many_owned(units) {
            Ok(room) => Some(Aside { binding, id, text: text.clone(), _room: room }),
            Err(_) => {
                tracing::debug!(agent.id = %self.agent(), "a worker says more than can be stored in time");
                None
            }
        }
    }

    /// What a worker says of its packages: the answer to the command that it is for, if there is one; true if its frame is kept until that is stored.
    fn package_event(&mut self, envelope: &Envelope, binding: Binding, text: &Utf8Bytes) -> bool {
        let Some(event) = packages::Event::read(envelope) else { return false };
        let asked = self.running.iter().filter(|(_, running)| !running.is_ending && running.is_asked());
        let Some((key, end)) = asked.filter_map(|(key, running)| Some((*key, event.ends(Command::of(&running.job.call)?)?))).next() else {
            return false;
        };
        tracing::info!(agent.id = %self.agent(), job.id = %key.0, package = event.name, outcome = ?end.outcome, "a worker's packages were changed as asked");
        let Some(frame) = self.set_aside(binding, envelope.id.clone(), text) else { return true };
        self.conclude(key, Ending::Answer { end, cancel_verified: None }, Some(frame));
        true
    }

    /// A worker that says nothing of its commands shows what came of them in what it registers.
    pub(super) fn packages_seen(&mut self, register: &Register) {
        if self.is_longshore {
            return;
        }
        let asked = self.running.iter().filter(|(_, running)| !running.is_ending && running.is_asked());
        let ended: Vec<_> = asked.filter_map(|(key, running)| Some((*key, Command::of(&running.job.call)?.seen_in(register)?))).collect();
        for (key, end) in ended {
            self.conclude(key, Ending::Answer { end, cancel_verified: None }, None);
        }
    }

    /// Takes a worker's word on a task; true if its frame is kept until that is stored.
    pub(super) fn said(&mut self, task: Task, word: Word, frame: Aside) -> bool {
        let key = (task.job, task.execution);
        match self.running.get_mut(&key).filter(|running| running.attempt.task == task) {
            Some(running) if running.is_ending => {
                // The word of a repeat; the first one's is being stored.
                self.aside.insert(frame.id.clone());
                running.also.push(frame);
                true
            }
            Some(running) => match word {
                Word::RunsAlready if running.is_in_doubt => {
                    running.is_in_doubt = false;
                    false
                }
                // Another attempt of the same, that was given up here: when it is over, this one can begin.
                Word::RunsAlready => {
                    running.is_absent = true;
                    running.say_again_at(Instant::now() + Duration::from_secs(2));
                    false
                }
                Word::NotNow(wait, why) => {
                    tracing::debug!(job.id = %task.job, why, "a worker did not take a task yet");
                    running.is_absent = true;
                    if running.cancelled_by.is_some() {
                        let ending = Ending::given_up(interrupted(&self.identity.hostname, &why), true);
                        self.conclude(key, ending, Some(frame));
                        return true;
                    }
                    running.say_again_at(Instant::now() + wait);
                    false
                }
                Word::HandedBack(why) => {
                    let ending = Ending::given_up(interrupted(&self.identity.hostname, &why), true);
                    self.conclude(key, ending, Some(frame));
                    true
                }
                Word::Ended(told) => {
                    let ending = Ending::of(&running.job, task.attempt, told, &running.version);
                    self.conclude(key, ending, Some(frame));
                    true
                }
            },
            None => {
                let ending: Box<dyn FnOnce(&Job) -> Ending + Send> = match word {
                    Word::RunsAlready | Word::NotNow(..) => return false,
                    Word::HandedBack(why) => {
                        let failure = interrupted(&self.identity.hostname, &why);
                        Box::new(move |_| Ending::given_up(failure, true))
                    }
                    Word::Ended(told) => Box::new(move |job| Ending::of(job, task.attempt, told, "")),
                };
                self.aside.insert(frame.id.clone());
                let (app, proxy) = (self.app.clone(), self.proxy());
                self.spawn(Done::Settled { key: None, frame: None, is_stored: false }, async move {
                    let is_stored = match work::look_up(&app, &proxy, task).await {
                        Some(Some((job, attempt))) => work::conclude(&app, &proxy, &job, attempt, ending(&job)).await,
                        Some(None) => true,
                        None => false,
                    };
                    Done::Settled { key: None, frame: Some(frame), is_stored }
                });
                true
            }
        }
    }

    pub(super) fn conclude(&mut self, key: Key, ending: Ending, frame: Option<Aside>) {
        let proxy = self.proxy();
        let Some(running) = self.running.get_mut(&key) else { return };
        running.is_ending = true;
        if let Some(frame) = &frame {
            self.aside.insert(frame.id.clone());
        }
        let (app, job, attempt) = (self.app.clone(), running.job.clone(), running.attempt);
        let (log, lease, fence) = (running.log.take(), running.lease.take(), running.fence.take());
        // What could not be stored is said again by its worker, and taken up then; or after a while, if there was nothing to say.
        self.spawn(Done::Settled { key: Some(key), frame: None, is_stored: false }, async move {
            // Output first, so that whoever sees the end has seen everything before it.
            if let Some(log) = log {
                log.close().await;
            }
            let is_stored = work::conclude(&app, &proxy, &job, attempt, ending).await;
            if let Some(lease) = lease.filter(|_| is_stored)
                && let Err(error) = work::settle(&app, attempt.task, &*lease).await
            {
                tracing::debug!(%error, "an inbox entry stays until it is looked at again");
            }
            if let Some(fence) = fence.filter(|_| is_stored) {
                fence.end(&job).await;
            }
            Done::Settled { key: Some(key), frame, is_stored }
        });
    }

    /// A message of the worker, in order.
    pub(super) fn deliver(&mut self, envelope: &Envelope) {
        match envelope.kind.as_str() {
            "biz.exec.feedback" => match frames::feedback(envelope) {
                Ok(feedback) => {
                    let key = (feedback.task.job, feedback.task.execution);
                    let running = self.running.get_mut(&key).filter(|running| running.attempt.task == feedback.task && !running.is_ending);
                    if let Some(running) = running {
                        let (app, agent) = (&self.app, self.identity.agent);
                        feedback.pieces.iter().for_each(|piece| running.log(app, agent).write(piece));
                    }
                }
                Err(why) => tracing::debug!(agent.id = %self.agent(), why, "feedback could not be read"),
            },
            "biz.exec.next.request" => {
                if let Some(answer) = frames::no_next(envelope)
                    && let Err(error) = self.session.send(answer, self.now())
                {
                    tracing::debug!(%error, "a middleware is not answered");
                }
            }
            // Handled before they were acknowledged.
            "biz.exec.result" | "biz.exec.error" => {}
            "biz.pkg.event" => tracing::info!(agent.id = %self.agent(), event = ?envelope.payload, "a worker's packages changed"),
            other => tracing::debug!(agent.id = %self.agent(), kind = other, "a frame of a kind that means nothing here"),
        }
    }

    pub(super) fn settled(&mut self, key: Option<Key>, frame: Option<Aside>, is_stored: bool) {
        if frame.is_none() && !is_stored {
            // Its frame went with a fault of ours, or there was none: whatever is said again is looked at again.
            self.aside.clear();
        }
        let mut frames: Vec<Aside> = frame.into_iter().collect();
        if let Some(key) = key
            && let Some(running) = self.running.remove(&key)
        {
            frames.extend(running.also);
            if !is_stored {
                self.later.insert(key, Instant::now() + UNSTORED);
            }
        }
        for Aside { binding, id, text, _room } in frames {
            // What could not be stored is not acknowledged: it is said again, to whoever can.
            if self.aside.remove(&id) && is_stored {
                self.receive(binding, &text);
            }
        }
        self.inbox_due = Instant::now();
    }

    pub(super) fn looked(&mut self, task: Task, wanted: Wanted) {
        let key = (task.job, task.execution);
        let Some(running) = self.running.get_mut(&key).filter(|running| running.attempt.task == task && !running.is_ending) else { return };
        match wanted {
            Wanted::GoesOn => {}
            Wanted::Over => {
                // Answered elsewhere, deleted, or given up: its worker's word means nothing any more.
                self.tell_to_end(task);
                let end = work::cancelled("the ledger");
                self.conclude(key, Ending::Answer { end, cancel_verified: None }, None);
            }
            Wanted::CancelledBy(by) if running.cancelled_by.is_none() => {
                running.cancel(&by, Instant::now() + self.app.config.gateway.cancel_within);
                if running.is_absent {
                    let ending = Ending::given_up(interrupted(&self.identity.hostname, "it did not have it yet"), true);
                    self.conclude(key, ending, None);
                } else if self.is_longshore {
                    self.tell_to_end(task);
                } else {
                    // The existing worker cannot be told.
                    let ending = Ending::Answer { end: work::cancelled(&by), cancel_verified: Some(false) };
                    self.conclude(key, ending, None);
                }
            }
            Wanted::CancelledBy(_) => {}
        }
    }

    /// Asks a Longshore to end a task.
    pub(super) fn tell_to_end(&mut self, task: Task) {
        if self.is_longshore
            && let Err(error) = self.session.send(frames::cancel(task), self.now())
        {
            tracing::debug!(%error, "a cancel is not said");
        }
    }

    pub(super) fn look_at(&mut self, task: Task) {
        let app = self.app.clone();
        self.spawn(Done::Looked(task, Wanted::GoesOn), async move { Done::Looked(task, work::wanted(&app, task).await) });
    }
}

/// Whether a frame may end a task: quickly, since most are others. A text with escapes may say anything.
fn may_be_word(text: &str) -> bool {
    text.contains("biz.exec.") || text.contains(packages::EVENT) || text.contains("\\u")
}

pub(super) fn interrupted(hostname: &str, why: &str) -> Failure {
    Failure { code: ErrorCode::Interrupted, message: format!("the worker on {hostname} gave it up: {why}") }
}
