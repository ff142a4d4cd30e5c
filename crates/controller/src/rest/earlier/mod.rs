//! The earlier form of the API, `/job`: the earlier paths, fields and words, on the same use cases, tokens and permissions.
//!
//! Nothing is decided here. Refusals are problem documents, as everywhere, and name the fields by their earlier places.

mod delete;
mod get;
mod list;
mod operation;
mod retry;
mod submit;
mod wire;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(submit::submit, list::list)).routes(routes!(get::get, delete::delete)).routes(routes!(retry::retry))
}
