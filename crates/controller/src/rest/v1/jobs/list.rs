//! `GET /api/v1/jobs`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use longshore_model::JobStatus;
use longshore_model::limits::PAGE_DEFAULT;
use longshore_model::wire::rest::JobList;

use crate::app::{App, list as app};
use crate::index::Filter;
use crate::rest::auth::Authorized;
use crate::rest::extract::{Fields, FromQuery, Query};
use crate::rest::problem::Failed;
use crate::rest::refusals::Refusals;

/// What a list is asked for.
pub(crate) struct ListQuery {
    filter: Filter,
    cursor: Option<String>,
    limit: usize,
}

impl FromQuery for ListQuery {
    fn from_fields(fields: &mut Fields) -> Result<Self, Failed> {
        let mut filter = Filter::default();
        while let Some(some) = fields.read("status", statuses)? {
            filter.statuses.extend(some);
        }
        while let Some(pair) = fields.read("annotation", annotation)? {
            filter.annotations.push(pair);
        }
        filter.operation = fields.one("operation");
        filter.target = fields.one("target");
        filter.host = fields.one("host").or_else(|| fields.one("agent"));
        filter.submitter = fields.one("submitter");
        filter.since = fields.moment("since")?;
        filter.until = fields.moment("until")?;
        filter.text = fields.one("text");
        Ok(Self { filter, cursor: fields.one("cursor"), limit: fields.limit()?.unwrap_or(PAGE_DEFAULT) })
    }
}

fn statuses(words: &str) -> Result<Vec<JobStatus>, String> {
    let known = || format!("takes {}", JobStatus::ALL.map(JobStatus::as_str).join(", "));
    words.split(',').map(|word| JobStatus::from_word(word).ok_or_else(known)).collect()
}

fn annotation(text: &str) -> Result<(String, String), &'static str> {
    text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())).ok_or("takes KEY=VALUE")
}

/// List jobs, newest first.
///
/// Reads an index in memory. A page may have fewer items than its limit and still be followed by another: go on while `next_cursor`
/// is there.
#[utoipa::path(
    get, path = "/api/v1/jobs", tag = "jobs", operation_id = "list_jobs", security(("bearer" = ["job:read"])),
    params(
        ("status" = Option<Vec<JobStatus>>, Query, description = "Any of these; comma-separated, repeatable, or both."),
        ("operation" = Option<String>, Query, description = "Of this operation."),
        ("target" = Option<String>, Query, description = "With this target, as it was submitted."),
        ("host" = Option<String>, Query, description = "That this host name or agent id has or had; `agent` means the same."),
        ("submitter" = Option<String>, Query, description = "Submitted by."),
        ("annotation" = Option<Vec<String>>, Query, description = "With this annotation, `KEY=VALUE`; repeatable, all must hold."),
        ("since" = Option<String>, Query, description = "Submitted at or after: RFC 3339, or how long ago such as `1h`."),
        ("until" = Option<String>, Query, description = "Submitted before: RFC 3339, or how long ago."),
        ("text" = Option<String>, Query, description = "With this text in id, operation, target, host, submitter, annotations or error."),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 1000, description = "1 to 1000; 50 unless given."),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before, with the same filter.")
    ),
    responses((status = 200, body = JobList), Refusals)
)]
pub(super) async fn list(
    State(app): State<App>,
    Authorized(caller): Authorized,
    Query(query): Query<ListQuery>,
    uri: Uri,
) -> Result<(HeaderMap, Json<JobList>), Failed> {
    let list = app::list(&app, &caller, query.filter, query.cursor.as_deref(), query.limit)?;
    let mut headers = HeaderMap::new();
    if let Some(link) = list.next_cursor.as_deref().and_then(|cursor| next_page(&uri, cursor)) {
        headers.insert(header::LINK, link);
    }
    Ok((headers, Json(list)))
}

/// The same query with another cursor.
fn next_page(uri: &Uri, cursor: &str) -> Option<HeaderValue> {
    let kept = uri.query().unwrap_or_default().split('&').filter(|field| !field.is_empty() && !field.starts_with("cursor="));
    let query = kept.map(str::to_owned).chain([format!("cursor={cursor}")]).collect::<Vec<_>>().join("&");
    HeaderValue::from_str(&format!("<{}?{query}>; rel=\"next\"", uri.path())).ok()
}
