//! `/api/v1/dead-letters`.

mod discard;
mod get;
mod list;
mod redrive;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list::list)).routes(routes!(get::get, discard::discard)).routes(routes!(redrive::redrive))
}
