//! `GET /api/v1/operations`.

use axum::Json;
use longshore_model::wire::rest::OperationList;

use crate::app::status;
use crate::rest::auth::Authorized;
use crate::rest::problem::Failed;
use crate::rest::refusals::Refusals;

/// The catalogue, with the JSON Schemas of arguments and results.
#[utoipa::path(get, path = "/api/v1/operations", tag = "operations", operation_id = "list_operations", security(("bearer" = ["job:read"])), responses((status = 200, body = OperationList), Refusals))]
pub(super) async fn list(Authorized(caller): Authorized) -> Result<Json<OperationList>, Failed> {
    Ok(Json(OperationList { items: status::operations(&caller)? }))
}
