//! Server-sent events: frames from a use case, as axum writes them.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use tokio::sync::mpsc;

use super::problem::Failed;
use crate::app::stream::Frame;

/// A comment goes out when nothing else did for this long, so that proxies and readers know the stream lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// One event of a stream of changes.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "it is described and never made: events are written as text")]
pub(crate) struct TimelineEvent {
    /// For `Last-Event-ID`: goes on after this one.
    id: Option<String>,
    /// `message` for a change; else `gap`, `lagged` or `end`.
    event: Option<String>,
    /// JSON: for a change a `TimelineEntry`; `first` is the first one that is known after a `gap`, `missed` how many a reader who `lagged`
    /// did not get, `status` how the job stands at the `end`.
    #[schema(content_media_type = "application/json")]
    data: String,
}

/// One event of a stream of output.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "it is described and never made: events are written as text")]
pub(crate) struct LogEvent {
    /// For `Last-Event-ID`: goes on after this one.
    id: Option<String>,
    /// `message` for output, `end` when there is no more.
    event: Option<String>,
    /// JSON: for output a `LogView`, at the end an empty object.
    #[schema(content_media_type = "application/json")]
    data: String,
}

/// What a use case produces, as a stream.
pub(super) fn stream<T: Send + 'static>(mut frames: mpsc::Receiver<T>) -> impl Stream<Item = T> + Send + 'static {
    futures::stream::poll_fn(move |cx| frames.poll_recv(cx))
}

/// Answers with frames.
pub(super) fn respond(frames: impl Stream<Item = Frame> + Send + 'static) -> Response {
    use futures::StreamExt as _;
    let events = frames.map(|frame| {
        let mut event = Event::default().data(frame.data);
        if let Some(id) = frame.id {
            event = event.id(id);
        }
        if let Some(name) = frame.event {
            event = event.event(name);
        }
        Ok::<_, Infallible>(event)
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

/// Where a reader was when it lost the stream.
pub(super) fn last_event_id<T: std::str::FromStr>(headers: &HeaderMap) -> Result<Option<T>, Failed> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    value.to_str().ok().and_then(|text| text.parse().ok()).map(Some).ok_or_else(|| {
        Failed::new(longshore_model::wire::problem::ErrorCode::BadRequest, "the header `Last-Event-ID` is not an id of this stream")
    })
}
