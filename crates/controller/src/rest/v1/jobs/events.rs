//! `GET /api/v1/jobs/events` and `GET /api/v1/jobs/{id}/events`.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use crate::app::{App, events};
use crate::hub::EventId;
use crate::rest::auth::Authorized;
use crate::rest::extract::JobPath;
use crate::rest::problem::Failed;
use crate::rest::refusals::{JobRefusals, Refusals};
use crate::rest::sse;

/// Follow every job, as server-sent events.
///
/// Begins now, or after `Last-Event-ID`. `gap` says that some before are no longer known, `lagged` that the reader was too slow and is
/// cut off.
#[utoipa::path(
    get, path = "/api/v1/jobs/events", tag = "jobs", operation_id = "follow_jobs", security(("bearer" = ["job:read"])),
    params(("Last-Event-ID" = Option<String>, Header, description = "Go on after this event.")),
    responses((status = 200, content_type = "text/event-stream", body = sse::TimelineEvent), Refusals)
)]
pub(super) async fn all(State(app): State<App>, Authorized(caller): Authorized, headers: HeaderMap) -> Result<Response, Failed> {
    let seen = sse::last_event_id::<EventId>(&headers)?;
    let frames = events::of_all(&app, &caller, seen.map(|EventId(position)| position))?;
    Ok(sse::respond(sse::stream(frames)))
}

/// Follow one job from its submission to its end, as server-sent events.
///
/// `end` is the last event; a stream that breaks off without it may be resumed with `Last-Event-ID`.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}/events", tag = "jobs", operation_id = "follow_job", security(("bearer" = ["job:read"])),
    params(
        ("id" = String, Path, description = "The job."),
        ("Last-Event-ID" = Option<String>, Header, description = "Go on after this event.")
    ),
    responses((status = 200, content_type = "text/event-stream", body = sse::TimelineEvent), JobRefusals)
)]
pub(super) async fn one(
    State(app): State<App>,
    Authorized(caller): Authorized,
    JobPath(id): JobPath,
    headers: HeaderMap,
) -> Result<Response, Failed> {
    let seen = sse::last_event_id::<EventId>(&headers)?;
    let frames = events::of_job(&app, &caller, id, seen.map(|EventId(position)| position)).await?;
    Ok(sse::respond(sse::stream(frames)))
}
