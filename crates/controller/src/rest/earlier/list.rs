//! `GET /job`.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use longshore_model::JobStatus;
use longshore_model::limits::PAGE_MAX;

use super::wire::{JobList, Status};
use crate::app::{App, list as app};
use crate::index::Filter;
use crate::rest::auth::Authorized;
use crate::rest::extract::{Fields, FromQuery, Query};
use crate::rest::problem::Failed;
use crate::rest::refusals::Refusals;

/// What the list is asked for.
pub(crate) struct ListQuery {
    statuses: BTreeSet<JobStatus>,
    cursor: Option<String>,
    limit: usize,
}

impl FromQuery for ListQuery {
    fn from_fields(fields: &mut Fields) -> Result<Self, Failed> {
        let statuses = fields.read("status", |word| {
            let known = || format!("takes {}", Status::ALL.map(Status::as_str).join(", "));
            Status::from_word(word).map(|status| status.covers().collect()).ok_or_else(known)
        })?;
        let limit = fields.limit()?.unwrap_or(PAGE_MAX);
        Ok(Self { statuses: statuses.unwrap_or_default(), cursor: fields.one("cursor"), limit })
    }
}

/// List jobs, newest first, in the earlier form.
///
/// Items have no `data`, `result` and `responses`: read one job for those.
#[utoipa::path(
    get, path = "/job", tag = "earlier", operation_id = "earlier_list_jobs", security(("bearer" = ["job:read"])),
    params(
        ("status" = Option<Status>, Query, description = "In this status."),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 1000, description = "1 to 1000; 1000 unless given."),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before, with the same `status`.")
    ),
    responses((status = 200, body = JobList), Refusals)
)]
pub(super) async fn list(
    State(app): State<App>,
    Authorized(caller): Authorized,
    Query(query): Query<ListQuery>,
) -> Result<Json<JobList>, Failed> {
    let ListQuery { statuses, cursor, limit } = query;
    let is_asked = |status: &JobStatus| statuses.is_empty() || statuses.contains(status);
    let filter = Filter { statuses: statuses.clone(), ..Filter::default() };
    let list = app::list(&app, &caller, filter, cursor.as_deref(), limit)?;
    let total_items = JobStatus::ALL.iter().filter(|status| is_asked(status)).filter_map(|status| list.counts.get(status.as_str())).sum();
    Ok(Json(JobList { total_items, items: list.items.into_iter().map(Into::into).collect(), next_cursor: list.next_cursor }))
}
