//! `/api/v1/jobs`.

mod cancel;
mod delete;
mod events;
mod get;
mod list;
mod logs;
pub(super) mod query;
mod result;
mod retry;
mod submit;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(submit::submit, list::list))
        .routes(routes!(events::all))
        .routes(routes!(get::get, delete::delete))
        .routes(routes!(cancel::cancel))
        .routes(routes!(retry::retry))
        .routes(routes!(events::one))
        .routes(routes!(logs::logs))
        .routes(routes!(result::get))
}
