//! What a call and whoever takes its words say to each other while it runs: feedback, output, `next()`.
//!
//! All of it comes from a handler, so each of it is bounded here: who says more than fits is paused, cut or refused.

use std::sync::Arc;

use longshore_model::limits::LOG_RECORD_BYTES_MAX;
use longshore_model::wire::log::LogStream;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::call::{NextCall, NextError, NextRequest};
use super::feedback::{Feedback, Room};
use super::frame::ToHost;
use super::warm::Warm;

/// Calls of `next()` of one task that have no answer yet.
const ASKING_MAX: usize = 256;
/// What stands where output was cut.
const CUT: &[u8] = b"\n[longshore] more output than is kept: the rest is cut, the handler goes on\n";

impl Warm {
    /// Takes feedback of a call.
    pub(super) fn feedback(self: &Arc<Self>, call: u32, payload: &[u8]) {
        let Ok(feedback) = serde_json::from_slice::<Feedback>(payload) else {
            tracing::debug!(package = %self.label, "a handler host sent feedback that is none");
            return;
        };
        let mut state = self.state();
        let Some(slot) = state.calls.get_mut(&call) else { return };
        let Some(sender) = slot.feedback.clone() else { return };
        if sender.push(feedback.sound()) == Room::Enough || slot.paused {
            return;
        }
        slot.paused = true;
        let over = slot.over.clone();
        self.write(&mut state, ToHost::Pause, call, b"");
        drop(state);
        let warm = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::select! {
                () = sender.room() => {}
                () = over.cancelled() => return,
            }
            let mut state = warm.state();
            if let Some(slot) = state.calls.get_mut(&call) {
                slot.paused = false;
                warm.write(&mut state, ToHost::Resume, call, b"");
            }
        });
    }

    /// Takes what a call has printed.
    pub(super) fn printed(&self, call: u32, payload: &[u8]) {
        #[derive(Deserialize)]
        struct Printed {
            stream: LogStream,
            text: String,
        }
        let mut state = self.state();
        let Some(slot) = state.calls.get_mut(&call) else { return };
        let (Some(output), Some(left)) = (slot.output.clone(), slot.output_left) else { return };
        let Ok(Printed { stream, text }) = serde_json::from_slice(payload) else {
            tracing::debug!(package = %self.label, "a handler host printed what is no text");
            return;
        };
        let fits = text.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        slot.output_left = (fits == text.len()).then_some(left - fits as u64);
        drop(state);
        text.as_bytes()[..fits].chunks(LOG_RECORD_BYTES_MAX).for_each(|piece| output.write(0, stream, piece));
        if fits < text.len() {
            output.write(0, stream, CUT);
        }
    }

    /// Takes a `next()` of a call, and sends the answer when there is one.
    pub(super) fn next(self: &Arc<Self>, call: u32, payload: &[u8]) {
        #[derive(Deserialize)]
        struct Asked {
            number: u64,
            request: Value,
        }
        let Ok(Asked { number, request }) = serde_json::from_slice(payload) else {
            tracing::debug!(package = %self.label, "a handler host sent a next() without a number");
            return;
        };
        let begun = self.begin_next(call, request);
        let warm = Arc::clone(self);
        match begun {
            // Who is no call is sent nothing, or anybody could have us send without end.
            None => {}
            Some(Err(error)) => self.reply(call, number, Err(error)),
            Some(Ok((sender, request, over))) => drop(self.tasks.spawn(async move {
                let answer = tokio::select! {
                    answer = ask(sender, request) => answer,
                    () = over.cancelled() => return,
                };
                warm.reply(call, number, answer);
            })),
        }
    }

    #[expect(clippy::type_complexity, reason = "it is taken apart where it is asked for")]
    fn begin_next(&self, call: u32, request: Value) -> Option<Result<(mpsc::Sender<NextCall>, NextRequest, CancellationToken), NextError>> {
        let mut state = self.state();
        let slot = state.calls.get_mut(&call)?;
        // Counted also when it is refused: the answer to it takes room as well, and is counted off with it.
        slot.asking += 1;
        let request = match serde_json::from_value(request) {
            Ok(request) => request,
            Err(error) => return Some(Err(NextError::new("next_invalid", &format!("the request of next() is none: {error}")))),
        };
        let Some(sender) = slot.next.clone() else {
            return Some(Err(NextError::new("next_unavailable", "nobody here can run the next element of the chain")));
        };
        if slot.asking > ASKING_MAX {
            let message = format!("the task has {ASKING_MAX} calls of next() that have no answer yet");
            return Some(Err(NextError::new("next_unavailable", &message)));
        }
        Some(Ok((sender, request, slot.over.clone())))
    }

    fn reply(&self, call: u32, number: u64, answer: Result<Map<String, Value>, NextError>) {
        let mut state = self.state();
        let Some(slot) = state.calls.get_mut(&call) else { return };
        slot.asking -= 1;
        let reply = match answer {
            Ok(result) => json!({ "number": number, "result": result }),
            Err(error) => json!({ "number": number, "error": error }),
        };
        self.write(&mut state, ToHost::Next, call, reply.to_string().as_bytes());
    }
}

async fn ask(sender: mpsc::Sender<NextCall>, request: NextRequest) -> Result<Map<String, Value>, NextError> {
    let (reply, answer) = oneshot::channel();
    let unavailable = |_| NextError::new("next_unavailable", "nobody runs the next element of the chain any more");
    // Consumed, so that whoever takes the calls sees when there can be no more.
    let room = sender.reserve_owned().await.map_err(unavailable)?;
    drop(room.send(NextCall { request, reply }));
    answer.await.unwrap_or_else(|_| Err(NextError::new("next_cancelled", "the wait for the next element was given up")))
}
