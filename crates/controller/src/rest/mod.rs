//! HTTP: routes, and what holds for every request. Handlers are thin: they parse, call one use case, and answer.

mod audit;
mod auth;
mod earlier;
mod encode;
mod explain;
mod extract;
mod health;
mod idempotency;
mod observe;
mod problem;
mod refusals;
mod shown;
mod sse;
mod v1;

use axum::Router;
use utoipa::OpenApi as _;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Longshore",
        description = "A job system for machines: submit an operation, the agent on the machine does it, read the answer.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(longshore_model::wire::problem::Problem)),
    security(("bearer" = []))
)]
struct Description;

fn described() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(explain::explain))
        .routes(routes!(explain::document))
        .merge(earlier::router())
        .merge(v1::router())
}

/// The API's description, OpenAPI 3.1.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    let (_, mut description) = described().split_for_parts();
    // The router's mark for the rest of a path is not the description's.
    let paths = std::mem::take(&mut description.paths.paths);
    description.paths.paths = paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    description.components.get_or_insert_default().add_security_scheme("bearer", SecurityScheme::Http(scheme));
    description
}

/// Everything that is served.
pub(crate) fn router(app: App) -> Router {
    let (routes, _) = described().split_for_parts();
    routes
        // The extractors have bounds of their own; uploads are larger than the framework's.
        .layer(axum::extract::DefaultBodyLimit::disable())
        .layer(observe::catch_panics())
        .layer(axum::middleware::from_fn_with_state(app.clone(), audit::record))
        .layer(axum::middleware::from_fn(observe::observe))
        .with_state(app)
}
