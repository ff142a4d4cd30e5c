//! What the loop does with what running tasks say: feedback, and calls of `next()` with their answers.

use std::time::Duration;

use longshore_session::{Envelope, Message, Payload};
use serde::Deserialize;
use serde_json::Value;

use super::frames::{NextRequest, NextResponse, kind, object};
use super::handlers::NextCall;
use super::journal::Key;
use super::perform::FromTask;
use super::run::{Runner, Said};
use super::{next, random_id};

impl Runner {
    pub(super) fn heard(&mut self, word: FromTask) {
        match word {
            FromTask::Feedback(key, payload) => self.feedback(&key, payload),
            FromTask::Next(key, call) => self.next_call(&key, call),
        }
    }

    pub(super) fn feedback(&mut self, key: &Key, mut payload: Payload) {
        let Some(running) = self.running.get(key) else { return };
        payload.insert("run_id".to_owned(), key.run.clone().into());
        payload.insert("task_id".to_owned(), key.task.clone().into());
        let message = Message { corr: Some(key.task.clone()), seq: running.of.seq, ..Message::new(kind::FEEDBACK, payload) };
        self.say(message, None);
    }

    pub(super) fn next_call(&mut self, key: &Key, call: NextCall) {
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

    pub(super) fn next_response(&mut self, envelope: &Envelope) {
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

    pub(super) fn next_answered(&mut self, request: &str, answer: next::Answer) {
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
}
