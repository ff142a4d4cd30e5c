//! `/api/v1/agents`.

mod drain;
mod facts;
mod list;
mod remove;
mod show;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list::list))
        .routes(routes!(show::show, remove::remove))
        .routes(routes!(facts::facts))
        .routes(routes!(drain::drain))
        .routes(routes!(drain::undrain))
}
