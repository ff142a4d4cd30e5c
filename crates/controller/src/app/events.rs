//! Streams of what happens: of one job from its beginning to its end, and of all jobs from now on.

use std::collections::BTreeSet;

use longshore_model::access::Caller;
use longshore_model::{ExecutionId, JobId};
use longshore_store::{JobRecord, Position};
use serde_json::json;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::sync::mpsc;

use super::stream::{Frame, Gone, Sink, produce};
use super::{App, Error, Place, fold, lines, permit};
use crate::hub::{EventId, Item, Source};

/// Everything that happened and happens to one job after `seen`; ends with `end`.
pub(crate) async fn of_job(app: &App, caller: &Caller, id: JobId, seen: Option<Position>) -> Result<mpsc::Receiver<Frame>, Error> {
    permit(caller, "job:read")?;
    // Subscribed before the ledger is read: what is written in between is told twice here and once to the reader.
    let live = app.hub.subscribe(None).live;
    let record = app.load(id).await?.ok_or_else(|| Error::no_job(id))?;
    Ok(produce(app, |app, sink| async move {
        let seen = seen.unwrap_or_default();
        let mut teller = Teller { app, id, seen, told: BTreeSet::new(), position: seen, sink };
        teller.tell_record(&record).await?;
        if fold(&record).is_settled() {
            return teller.end(&record).await;
        }
        teller.tell_live(live).await
    }))
}

/// Everything that happens to any job, after `seen` or from now on.
pub(crate) fn of_all(app: &App, caller: &Caller, seen: Option<Position>) -> Result<mpsc::Receiver<Frame>, Error> {
    permit(caller, "job:read")?;
    // What the index is built from is the past, and would be told as if it happened now.
    if !app.index().is_caught_up() {
        return Err(Error::Indexing);
    }
    let mut subscription = app.hub.subscribe(seen);
    let seen = seen.unwrap_or_default();
    // Where the reader resumes never goes back: another controller may have told it more of one of the sequences.
    let frame = move |item: &Item| Frame::new(EventId(further(item.position, seen)), &item.entry);
    Ok(produce(app, move |_, sink| async move {
        if subscription.has_gap {
            let first = subscription.missed.first().map(|item| EventId(item.position).to_string());
            sink.send(Frame::named("gap", &json!({ "first": first }))).await?;
        }
        for item in subscription.missed {
            sink.send(frame(&item)).await?;
        }
        loop {
            match subscription.live.recv().await {
                Ok(item) if item.is_after(seen) => sink.send(frame(&item)).await?,
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => return sink.send(lagged(missed)).await,
                Err(RecvError::Closed) => return Ok(()),
            }
        }
    }))
}

fn further(one: Position, other: Position) -> Position {
    Position { queue: one.queue.max(other.queue), responses: one.responses.max(other.responses) }
}

fn lagged(missed: u64) -> Frame {
    Frame::named("lagged", &json!({ "missed": missed }))
}

/// Tells one job's lines, each once.
struct Teller {
    app: App,
    id: JobId,
    seen: Position,
    told: BTreeSet<Place>,
    position: Position,
    sink: Sink<Frame>,
}

impl Teller {
    /// Tells what a record has and the reader does not.
    async fn tell_record(&mut self, record: &JobRecord) -> Result<(), Gone> {
        for line in lines(record, self.app.now()) {
            let is_known = match line.place {
                Place::Queue(revision) => {
                    self.position.queue = self.position.queue.max(revision);
                    revision <= self.seen.queue
                }
                // Not in a record that can be read.
                Place::Deletion => false,
                Place::Answer(execution) => {
                    // Unknown until the feed has told it; the reader may be told again then, if it resumes just now.
                    let place = self.app.index().get(self.id).and_then(|entry| entry.answered_at(execution));
                    self.position.responses = self.position.responses.max(place.unwrap_or_default());
                    place.is_some_and(|place| place <= self.seen.responses)
                }
            };
            if self.told.insert(line.place) && !is_known {
                self.sink.send(Frame::new(EventId(self.position), &line.entry)).await?;
            }
        }
        Ok(())
    }

    async fn tell_live(mut self, mut live: Receiver<std::sync::Arc<Item>>) -> Result<(), Gone> {
        loop {
            let item = match live.recv().await {
                Ok(item) if item.entry.job == self.id => item,
                Ok(_) => continue,
                // The others' events went by too fast. Nothing of this job is lost: the ledger has it.
                Err(RecvError::Lagged(_)) => {
                    live = self.app.hub.subscribe(None).live;
                    match self.catch_up().await? {
                        Some(record) if !fold(&record).is_settled() => continue,
                        Some(record) => return self.end(&record).await,
                        None => return Ok(()),
                    }
                }
                Err(RecvError::Closed) => return Ok(()),
            };
            self.position = further(self.position, item.position);
            let place = match item.source {
                Source::Queue => Place::Queue(item.position.queue),
                Source::Responses => Place::Answer(item.entry.execution.unwrap_or(ExecutionId::Any)),
                Source::Deletion => Place::Deletion,
            };
            if self.told.insert(place) {
                self.sink.send(Frame::new(EventId(self.position), &item.entry)).await?;
            }
            if item.is_settled {
                return self.settle().await;
            }
        }
    }

    /// The two sequences are told apart: what came before the last answer may not have been told yet, but the ledger has it.
    async fn settle(mut self) -> Result<(), Gone> {
        match self.catch_up().await? {
            Some(record) => self.end(&record).await,
            None => Ok(()),
        }
    }

    /// Tells what the ledger has and the reader does not. `None` when the story is over or cannot be told on: a deleted job ends here,
    /// and without `end` the reader comes back and resumes.
    async fn catch_up(&mut self) -> Result<Option<JobRecord>, Gone> {
        match self.app.load(self.id).await {
            Ok(Some(record)) => {
                self.tell_record(&record).await?;
                Ok(Some(record))
            }
            Ok(None) => {
                self.sink.send(Frame::named("end", &json!({ "status": null }))).await?;
                Ok(None)
            }
            Err(error) => {
                tracing::warn!(job.id = %self.id, error = %super::chain(&error), "an event stream was cut short");
                Ok(None)
            }
        }
    }

    async fn end(self, record: &JobRecord) -> Result<(), Gone> {
        let status = fold(record).status(record.definition.not_before, self.app.now());
        self.sink.send(Frame::named("end", &json!({ "status": status }))).await
    }
}

#[cfg(test)]
mod tests {
    use longshore_model::JobStatus;
    use longshore_model::wire::rest::TimelineEntry;
    use longshore_store::{RegistryEvent, memory};

    use super::*;
    use crate::{Config, SigningKey, timeline};

    fn item(app: &App, queue: u64) -> Item {
        let entry = TimelineEntry { status: Some(JobStatus::Pending), ..timeline::deleted(JobId::from_bits(1), app.now()) };
        Item { position: Position { queue, responses: 0 }, source: Source::Queue, entry, is_settled: false }
    }

    fn app() -> App {
        let app = App::new(Config::new(SigningKey::new(Vec::new())), memory::open(memory::MemoryOptions::default()));
        app.index_mut().caught_up();
        app
    }

    #[tokio::test]
    async fn nobody_follows_all_jobs_while_the_past_is_being_read() {
        let app = App::new(Config::new(SigningKey::new(Vec::new())), memory::open(memory::MemoryOptions::default()));
        let caller = Caller::new("ada", &longshore_model::access::Roles::default(), &["read".to_owned()], None, None).unwrap();
        assert!(matches!(of_all(&app, &caller, None), Err(Error::Indexing)));
        app.index_mut().caught_up();
        assert!(of_all(&app, &caller, None).is_ok());
    }

    #[tokio::test]
    async fn what_a_reader_saw_elsewhere_is_not_told_again_and_its_place_does_not_go_back() {
        let app = app();
        let caller = Caller::new("ada", &longshore_model::access::Roles::default(), &["read".to_owned()], None, None).unwrap();
        let mut frames = of_all(&app, &caller, Some(Position { queue: 3, responses: 9 })).unwrap();
        for queue in 1..=4 {
            app.hub.publish(item(&app, queue));
        }
        assert_eq!(frames.recv().await.unwrap().id.as_deref(), Some("4.9"));
    }

    #[tokio::test]
    async fn a_reader_that_is_too_slow_is_told_so_and_cut_off() {
        let app = app();
        let caller = Caller::new("ada", &longshore_model::access::Roles::default(), &["read".to_owned()], None, None).unwrap();
        let mut frames = of_all(&app, &caller, None).unwrap();
        for queue in 1..=5000 {
            app.hub.publish(item(&app, queue));
        }
        let mut told = Vec::new();
        while let Some(frame) = frames.recv().await {
            told.push(frame);
        }
        assert_eq!(told.last().and_then(|frame| frame.event), Some("lagged"));
        // It comes back and finds everything in the ring.
        let mut again = of_all(&app, &caller, Some(Position::default())).unwrap();
        for queue in 1..=5000 {
            assert_eq!(again.recv().await.unwrap().id, Some(format!("{queue}.0")));
        }
    }

    #[tokio::test]
    async fn a_jobs_stream_goes_on_when_the_others_are_too_fast_for_it() {
        let app = app();
        let caller = Caller::new("ada", &longshore_model::access::Roles::default(), &["admin".to_owned()], None, None).unwrap();
        app.fleet_mut().take(RegistryEvent::Beat(crate::fleet::tests::heartbeat(1, "web-01")));
        app.fleet_mut().take(RegistryEvent::Current);
        let request = serde_json::from_value(json!({"operation": "node.hostname.get"})).unwrap();
        let id = super::super::submit::submit(&app, &caller, request).await.unwrap().record.definition.id;
        let mut frames = of_job(&app, &caller, id, None).await.unwrap();
        super::super::cancel::cancel(&app, &caller, id).await.unwrap();
        // Without a pause, so that the stream's task sees none of them before it is too late.
        for queue in 1..=5000 {
            app.hub.publish(item(&app, queue));
        }
        let mut told = Vec::new();
        while let Some(frame) = frames.recv().await {
            let data: serde_json::Value = serde_json::from_str(&frame.data).unwrap();
            told.push(frame.event.map_or_else(|| data["event"].as_str().unwrap_or_default().to_owned(), str::to_owned));
        }
        assert_eq!(told, ["submitted", "cancelled", "answered", "end"]);
    }

    #[tokio::test]
    async fn a_reader_that_was_away_too_long_is_told_of_the_gap() {
        let app = app();
        let caller = Caller::new("ada", &longshore_model::access::Roles::default(), &["read".to_owned()], None, None).unwrap();
        for queue in 1..=10_500 {
            app.hub.publish(item(&app, queue));
        }
        let mut frames = of_all(&app, &caller, Some(Position { queue: 7, responses: 0 })).unwrap();
        let gap = frames.recv().await.unwrap();
        assert_eq!((gap.event, gap.data.as_str()), (Some("gap"), r#"{"first":"501.0"}"#));
        assert_eq!(frames.recv().await.unwrap().id.as_deref(), Some("501.0"));
    }
}
