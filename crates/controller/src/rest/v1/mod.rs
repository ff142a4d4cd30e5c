//! Version 1 of the API, `rest/v1/NOUN/VERB.rs`.

mod agents;
mod artifacts;
mod audit;
mod bundles;
mod dead_letters;
mod jobs;
pub(super) mod nodes;
mod operations;
mod queue;
mod status;

use utoipa_axum::router::OpenApiRouter;

use crate::app::App;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(agents::router())
        .merge(artifacts::router())
        .merge(audit::router())
        .merge(bundles::router())
        .merge(dead_letters::router())
        .merge(jobs::router())
        .merge(nodes::router())
        .merge(operations::router())
        .merge(queue::router())
        .merge(status::router())
}
