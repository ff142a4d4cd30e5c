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
mod metrics;
mod observe;
mod problem;
mod refusals;
mod shown;
mod sse;
mod v1;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use futures::future::BoxFuture;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use utoipa::OpenApi as _;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::gateway;

pub use cors::is_origin;
pub(crate) use cors::layer as cors;

#[cfg(test)]
pub(crate) use encode::base64;
pub(crate) use extract::content;
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
        .routes(routes!(metrics::metrics))
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

/// Everything that is served. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api(Arc<Served>);

struct Served {
    app: App,
    gate: access::Gate,
    routes: TowerToHyperService<Router>,
}

impl Api {
    pub(crate) fn new(app: App) -> Self {
        let (routes, description) = declared();
        let gate = access::Gate::new(app.clone(), &description);
        let routes = TowerToHyperService::new(routes.with_state(app.clone()));
        Self(Arc::new(Served { app, gate, routes }))
    }
}

impl tower::Service<Request> for Api {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let served = self.0.clone();
        Box::pin(async move { Ok(served.serve(request).await) })
    }
}

impl Served {
    /// What surrounds every request, in its order. Here and not as layers: the framework would copy each layer of a route, with all
    /// that is inside it, for each request.
    async fn serve(&self, request: Request) -> Response {
        if request.uri().path() == gateway::PATH {
            // Not a part of the API: who comes says so in a first frame, and is judged there.
            return observe::observe(request, async |request| gateway::open(&self.app, request)).await;
        }
        if gateway::is_transfer(request.uri().path()) {
            // For who was let in there, with a pass for one attempt.
            return observe::observe(request, |request| observe::catch_panics(gateway::transfer(&self.app, request))).await;
        }
        let recorded = |request| audit::record(self.app.clone(), request, |request| observe::catch_panics(self.answer(request)));
        let response = observe::observe(request, recorded).await;
        self.app.metrics.answered(response.status().as_u16());
        response
    }

    async fn answer(&self, mut request: Request) -> Response {
        if let Err(refusal) = self.gate.check(&mut request) {
            return *refusal;
        }
        let Ok(response) = self.routes.call(request).await;
        response
    }
}
