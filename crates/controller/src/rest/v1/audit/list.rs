//! `GET /api/v1/audit`.

use std::collections::BTreeSet;
use std::io;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use longshore_model::limits::PAGE_DEFAULT;
use longshore_model::wire::audit::AuditOutcome;
use longshore_model::wire::rest::AuditList;

use crate::app::{App, audit as app};
use crate::rest::auth::Authorized;
use crate::rest::extract::{Fields, FromQuery, Query, bad_query};
use crate::rest::problem::Failed;
use crate::rest::refusals::Refusals;
use crate::rest::sse;

/// What is asked for.
pub(crate) struct AuditQuery {
    filter: app::Filter,
    form: Form,
}

enum Form {
    Page { cursor: Option<String>, limit: usize },
    Export,
}

impl FromQuery for AuditQuery {
    fn from_fields(fields: &mut Fields) -> Result<Self, Failed> {
        let mut outcomes = BTreeSet::new();
        while let Some(some) = fields.read("outcome", read_outcomes)? {
            outcomes.extend(some);
        }
        let filter = app::Filter {
            who: fields.one("who"),
            since: fields.moment("since")?.map(|moment| moment.at),
            until: fields.moment("until")?.map(|moment| moment.at),
            action: fields.one("action"),
            outcomes,
        };
        let is_export = fields.read("format", |text| match text {
            "json" => Ok(false),
            "jsonl" => Ok(true),
            _ => Err("takes `json` or `jsonl`"),
        })?;
        let cursor = fields.one("cursor");
        let limit = fields.limit()?;
        let form = match (is_export.unwrap_or(false), cursor, limit) {
            (true, None, None) => Form::Export,
            (true, Some(_), _) => return Err(bad_query("cursor", "is for pages, and an export has none")),
            (true, None, Some(_)) => return Err(bad_query("limit", "is for pages, and an export has none")),
            (false, cursor, limit) => Form::Page { cursor, limit: limit.unwrap_or(PAGE_DEFAULT) },
        };
        Ok(Self { filter, form })
    }
}

fn read_outcomes(words: &str) -> Result<Vec<AuditOutcome>, String> {
    let known = || format!("takes {}", AuditOutcome::ALL.map(AuditOutcome::as_str).join(", "));
    words.split(',').map(|word| AuditOutcome::from_word(word).ok_or_else(known)).collect()
}

/// List calls that could change something and calls that were refused, newest first; or export them all.
///
/// A record says who called, from where, what and with which end; never arguments, tokens or results. A call appears a moment after its
/// answer. A page may have fewer items than its limit and still be followed by another: go on while `next_cursor` is there.
///
/// With `format=jsonl` everything that is stored, a record a line, oldest first. Needs the permission `audit:read`, which of the roles
/// that every controller has only `admin` has.
#[utoipa::path(
    get, path = "/api/v1/audit", tag = "audit", operation_id = "list_audit", security(("bearer" = ["audit:read"])),
    params(
        ("who" = Option<String>, Query, description = "Of this caller: the subject of its token."),
        ("since" = Option<String>, Query, description = "Answered at or after: RFC 3339, or how long ago such as `1h`."),
        ("until" = Option<String>, Query, description = "Answered before: RFC 3339, or how long ago."),
        ("action" = Option<String>, Query, description = "An operation such as `command.exec`, a method such as `DELETE`, or what begins with a slash for a part of the path, such as `/cancel`."),
        ("outcome" = Option<Vec<AuditOutcome>>, Query, description = "Any of these; comma-separated, repeatable, or both. `refused` is for want of a valid token or of a permission."),
        ("format" = Option<String>, Query, description = "`json` for pages, the default; `jsonl` for an export."),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 1000, description = "1 to 1000; 50 unless given."),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before, with the same filter.")
    ),
    responses((status = 200, content((AuditList = "application/json"), (String = "application/jsonl"))), Refusals)
)]
pub(super) async fn list(
    State(app): State<App>,
    Authorized(caller): Authorized,
    Query(AuditQuery { filter, form }): Query<AuditQuery>,
) -> Result<Response, Failed> {
    match form {
        Form::Page { cursor, limit } => Ok(Json(app::list(&app, &caller, &filter, cursor.as_deref(), limit).await?).into_response()),
        Form::Export => Ok(lines(sse::stream(app::export(&app, &caller, filter).await?))),
    }
}

/// What breaks off breaks the connection: a clean end is the end of the trail.
fn lines(pieces: impl futures::Stream<Item = app::Piece> + Send + 'static) -> Response {
    let bytes = futures::stream::unfold(Some(pieces.boxed()), async |pieces| {
        let mut pieces = pieces?;
        match pieces.next().await {
            Some(app::Piece::Lines(lines)) => Some((Ok(lines), Some(pieces))),
            Some(app::Piece::End) => None,
            None => Some((Err(io::Error::from(io::ErrorKind::UnexpectedEof)), None)),
        }
    });
    ([(header::CONTENT_TYPE, "application/jsonl")], Body::from_stream(bytes)).into_response()
}
