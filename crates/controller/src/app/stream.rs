//! The tasks behind streaming responses: one producer a response, a bounded channel between, an end when the reader or the
//! controller goes.

use std::future::Future;

use longshore_store::Position;
use serde::Serialize;
use tokio::sync::mpsc;

use super::App;
use crate::hub::EventId;

/// Frames that may wait for a reader before its producer waits too.
const FRAMES_WAITING: usize = 64;

/// One server-sent event, whatever writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What a reader that comes back names.
    pub id: Option<String>,
    /// `None` for the ordinary ones.
    pub event: Option<&'static str>,
    /// JSON.
    pub data: String,
}

impl Frame {
    pub(crate) fn new(id: impl ToString, data: &impl Serialize) -> Self {
        let data = serde_json::to_string(data).expect("API types have string keys only");
        Self { id: Some(id.to_string()), event: None, data }
    }

    /// Where a reader that was told this goes on, if it is an event of jobs.
    #[must_use]
    pub fn place(&self) -> Option<Position> {
        self.id.as_deref()?.parse().ok().map(|EventId(place)| place)
    }

    pub(crate) fn named(event: &'static str, data: &serde_json::Value) -> Self {
        Self { id: None, event: Some(event), data: data.to_string() }
    }
}

/// The reader has gone.
pub(crate) struct Gone;

/// Where a producer puts what it makes.
pub(crate) struct Sink<T>(mpsc::Sender<T>);

impl<T> Sink<T> {
    /// Waits for room.
    pub(crate) async fn send(&self, item: T) -> Result<(), Gone> {
        self.0.send(item).await.map_err(|_| Gone)
    }
}

/// Starts a producer. It is dropped when the reader goes or the controller drains.
pub(crate) fn produce<T, F>(app: &App, producer: impl FnOnce(App, Sink<T>) -> F) -> mpsc::Receiver<T>
where
    T: Send + 'static,
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (tx, rx) = mpsc::channel(FRAMES_WAITING);
    let reader = tx.clone();
    let work = producer(app.clone(), Sink(tx));
    let drain = app.drain.clone();
    app.streams.spawn(async move {
        tokio::select! {
            _ = work => {}
            () = reader.closed() => {}
            () = drain.cancelled() => {}
        }
    });
    rx
}
