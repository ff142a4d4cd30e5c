//! `GET /api/v1/dead-letters`.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use longshore_model::limits::PAGE_DEFAULT;
use longshore_model::wire::rest::{DeadLetterCondition, DeadLetterList};

use crate::app::{App, dead_letters as app};
use crate::rest::auth::Authorized;
use crate::rest::extract::{Fields, FromQuery, Query};
use crate::rest::problem::Failed;
use crate::rest::refusals::Refusals;

/// What a list is asked for.
pub(crate) struct ListQuery {
    states: BTreeSet<DeadLetterCondition>,
    cursor: Option<String>,
    limit: usize,
}

impl FromQuery for ListQuery {
    fn from_fields(fields: &mut Fields) -> Result<Self, Failed> {
        let mut states = BTreeSet::new();
        while let Some(some) = fields.read("state", conditions)? {
            states.extend(some);
        }
        if states.is_empty() {
            states.insert(DeadLetterCondition::Open);
        }
        Ok(Self { states, cursor: fields.one("cursor"), limit: fields.limit()?.unwrap_or(PAGE_DEFAULT) })
    }
}

fn conditions(words: &str) -> Result<Vec<DeadLetterCondition>, String> {
    let known = || format!("takes {}", DeadLetterCondition::ALL.map(DeadLetterCondition::as_str).join(", "));
    words.split(',').map(|word| DeadLetterCondition::from_word(word).ok_or_else(known)).collect()
}

/// List jobs whose attempts are used up, those of the newest jobs first.
///
/// Reads memory. Each says who had the execution that died last, its attempts and its error; the executions themselves are in
/// `GET /api/v1/dead-letters/{id}`.
#[utoipa::path(
    get, path = "/api/v1/dead-letters", tag = "dead letters", operation_id = "list_dead_letters", security(("bearer" = ["job:read"])),
    params(
        ("state" = Option<Vec<DeadLetterCondition>>, Query, description = "Any of these, `open` unless given; comma-separated, repeatable, or both."),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 1000, description = "1 to 1000; 50 unless given."),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before, with the same `state`.")
    ),
    responses((status = 200, body = DeadLetterList), Refusals)
)]
pub(super) async fn list(
    State(app): State<App>,
    Authorized(caller): Authorized,
    Query(ListQuery { states, cursor, limit }): Query<ListQuery>,
) -> Result<Json<DeadLetterList>, Failed> {
    Ok(Json(app::list(&app, &caller, &states, cursor.as_deref(), limit)?))
}
