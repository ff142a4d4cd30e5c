//! Readers of event streams: they break off, come back to any controller, and go on after the last thing they were told.

use std::sync::Arc;
use std::time::Duration;

use longshore_controller::StreamFrame;
use longshore_model::JobId;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::rest::TimelineEntry;
use longshore_store::Position;
use tokio::time::{Instant, sleep, timeout_at};

use crate::controllers::{Controllers, Reply};
use crate::history::{Reading, Told};
use crate::plant::Bug;
use crate::rng::Rng;
use crate::world::{Actor, World};

/// Somebody who follows one job, or all.
pub(crate) struct Reader {
    pub(crate) world: Arc<World>,
    pub(crate) controllers: Controllers,
    pub(crate) rng: Rng,
    pub(crate) of: Option<JobId>,
    /// When it loses patience.
    pub(crate) until: Instant,
}

impl Reader {
    /// Reads until it is told that there is nothing more, or loses patience.
    pub(crate) async fn read(mut self) {
        let idx = {
            let mut history = self.world.history();
            history.readings.push(Reading { of: self.of, ..Reading::default() });
            history.readings.len() - 1
        };
        // All jobs are told from the beginning.
        let mut seen = self.of.is_none().then(Position::default);
        while Instant::now() < self.until {
            let (of, from) = (self.of, self.cursor(seen));
            let reply = self.controllers.ask(move |controller, caller| async move {
                match of {
                    Some(job) => controller.job_events(&caller, job, from).await,
                    None => controller.events(&caller, from),
                }
            });
            let mut frames = match reply.await {
                Reply::Done(frames) => frames,
                Reply::Refused(ErrorCode::NotFound) => return,
                Reply::Refused(_) | Reply::Unknown => {
                    sleep(Duration::from_millis(self.rng.between(200, 2000))).await;
                    continue;
                }
            };
            let breaks_off = Instant::now() + Duration::from_millis(self.rng.between(100, 20_000));
            while let Ok(Some(frame)) = timeout_at(breaks_off, frames.recv()).await {
                seen = frame.place().or(seen);
                if self.told(idx, &frame) {
                    return;
                }
            }
            self.world.note(Actor::Client, || format!("reader {idx} breaks off at {seen:?}"));
        }
    }

    /// Where it asks to go on.
    fn cursor(&self, seen: Option<Position>) -> Option<Position> {
        match self.world.bug {
            Some(Bug::CursorForgotten) => seen.map(|_| Position::default()),
            Some(Bug::CursorRunsAhead) => seen.map(|seen| Position { queue: seen.queue + 2, ..seen }),
            _ => seen,
        }
    }

    /// Notes what it was told. Gives whether that was the end.
    fn told(&self, idx: usize, frame: &StreamFrame) -> bool {
        let mut history = self.world.history();
        let reading = &mut history.readings[idx];
        match frame.event {
            Some("end") => reading.has_ended = true,
            Some("gap") => reading.has_gap = true,
            // One that was too slow comes back and finds what it missed.
            Some(_) => {}
            None => {
                let entry: TimelineEntry = serde_json::from_str(&frame.data).expect("a controller sends what it can read");
                let TimelineEntry { job, execution, event, attempt, .. } = entry;
                reading.told.push(Told { job, execution, event, attempt });
            }
        }
        reading.has_ended
    }
}
