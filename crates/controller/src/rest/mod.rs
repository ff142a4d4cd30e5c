//! HTTP: routes, and what holds for every request. Handlers are thin: they parse, call one use case, and answer.

mod access;
mod audit;
mod auth;
mod cors;
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

pub use cors::is_origin;

#[cfg(test)]
pub(crate) use encode::base64;
pub(crate) use problem::Failed;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Longshore",
        description = "A job system for machines: submit an operation, the agent on the machine does it, read the answer.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(
        longshore_model::wire::audit::AuditOutcome,
        longshore_model::wire::problem::Problem,
        longshore_model::wire::rest::LogView,
        longshore_model::wire::rest::TimelineEntry
    ))
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

/// The routes, and their description as far as who may call what goes.
fn declared() -> (Router<App>, utoipa::openapi::OpenApi) {
    let (routes, mut description) = described().split_for_parts();
    access::declare_doors(&mut description);
    (routes, description)
}

/// The API's description, OpenAPI 3.1.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    let (_, mut description) = declared();
    // The router's mark for the rest of a path is not the description's.
    let paths = std::mem::take(&mut description.paths.paths);
    description.paths.paths = paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").description(Some(access::SCHEME)).build();
    description.components.get_or_insert_default().add_security_scheme("bearer", SecurityScheme::Http(scheme));
    description
}

/// Everything that is served.
pub(crate) fn router(app: App) -> Router {
    let (routes, description) = declared();
    let gate = access::Gate::new(app.clone(), &description);
    let origins = app.config.allow_origins.clone();
    let routes = routes
        // The extractors have bounds of their own; uploads are larger than the framework's.
        .layer(axum::extract::DefaultBodyLimit::disable())
        .layer(axum::middleware::from_fn_with_state(gate, access::check))
        .layer(observe::catch_panics())
        .layer(axum::middleware::from_fn_with_state(app.clone(), audit::record))
        .layer(axum::middleware::from_fn(observe::observe))
        .with_state(app);
    cors::on(routes, &origins)
}
