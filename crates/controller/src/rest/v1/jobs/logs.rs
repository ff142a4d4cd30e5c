//! `GET /api/v1/jobs/{id}/logs`.

use std::io;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::StreamExt as _;
use longshore_model::wire::rest::LogView;
use longshore_store::{Revision, StoredLog};

use crate::app::stream::Frame;
use crate::app::{App, logs as app};
use crate::rest::auth::Authorized;
use crate::rest::extract::{Fields, FromQuery, JobPath, Query};
use crate::rest::problem::Failed;
use crate::rest::refusals::JobRefusals;
use crate::rest::{encode, sse};

/// Where to begin and to stop.
pub(crate) struct LogsQuery {
    from: u64,
    until: app::Until,
}

impl FromQuery for LogsQuery {
    fn from_fields(fields: &mut Fields) -> Result<Self, Failed> {
        let follows = fields.flag("follow")?.unwrap_or(true);
        let from = fields.read("from", |text| text.parse().map_err(|_| "takes the number of a record"))?.unwrap_or(0);
        Ok(Self { from, until: if follows { app::Until::JobEnded } else { app::Until::Now } })
    }
}

/// Follow a job's output until it has ended.
///
/// Server-sent events with `LogView` data, or with `Accept: text/plain` the bytes alone. `end` is the last event; a stream that breaks
/// off without it may be resumed with `Last-Event-ID`. Bytes that break off end with an error of the connection. Where output is missing,
/// the next record has a `gap`; among bytes it is a line of its own.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}/logs", tag = "jobs", operation_id = "follow_job_logs", security(("bearer" = ["job:read"])),
    params(
        ("id" = String, Path, description = "The job."),
        ("follow" = Option<bool>, Query, description = "`false` stops at what is stored now."),
        ("from" = Option<u64>, Query, description = "Only records whose `seq` is this or higher, of every attempt."),
        ("Last-Event-ID" = Option<String>, Header, description = "Go on after this event.")
    ),
    responses((status = 200, content((sse::LogEvent = "text/event-stream"), (String = "text/plain"))), JobRefusals)
)]
pub(super) async fn logs(
    State(app): State<App>,
    Authorized(caller): Authorized,
    JobPath(id): JobPath,
    Query(LogsQuery { from, until }): Query<LogsQuery>,
    headers: HeaderMap,
) -> Result<Response, Failed> {
    let after = sse::last_event_id::<Revision>(&headers)?.unwrap_or_default();
    let pieces = sse::stream(app::logs(&app, &caller, id, app::Wanted { after, from, until }).await?);
    let wants_text = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|text| text.starts_with("text/plain"));
    if wants_text {
        return Ok(text(pieces));
    }
    Ok(sse::respond(pieces.map(|piece| match piece {
        app::Piece::Log(log) => Frame::new(log.place, &view(*log)),
        app::Piece::End => Frame::named("end", &serde_json::json!({})),
    })))
}

fn text(pieces: impl futures::Stream<Item = app::Piece> + Send + 'static) -> Response {
    // Bytes have no last word, so what breaks off breaks the connection: a clean end is the end of the output.
    let bytes = futures::stream::unfold(Some(pieces.boxed()), async |pieces| {
        let mut pieces = pieces?;
        match pieces.next().await {
            Some(app::Piece::Log(log)) => {
                let bytes = match log.record.gap {
                    None => log.record.bytes,
                    Some(gap) => [format!("\n[longshore] {gap}\n").as_bytes(), &log.record.bytes].concat(),
                };
                Some((Ok(Bytes::from(bytes)), Some(pieces)))
            }
            Some(app::Piece::End) => None,
            None => Some((Err(io::Error::from(io::ErrorKind::UnexpectedEof)), None)),
        }
    });
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(bytes)).into_response()
}

fn view(StoredLog { place: _, record }: StoredLog) -> LogView {
    let (text, base64) = match String::from_utf8(record.bytes) {
        Ok(text) => (Some(text), None),
        Err(error) => (None, Some(encode::base64(error.as_bytes()))),
    };
    LogView {
        execution: record.execution,
        agent: record.agent,
        attempt: record.attempt,
        step: record.step,
        seq: record.seq,
        time: record.time,
        stream: record.stream,
        gap: record.gap,
        text,
        base64,
    }
}
