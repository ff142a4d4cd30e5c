//! `DELETE /api/v1/agents/{agent}`.

use axum::extract::State;
use axum::http::StatusCode;

use crate::app::{App, agents as app};
use crate::rest::auth::Authorized;
use crate::rest::extract::AgentPath;
use crate::rest::problem::Failed;
use crate::rest::refusals::LetterRefusals;

/// Remove what an agent that is gone left behind: its place in the list, its facts, whether it is drained, its inbox.
///
/// Refused while it runs. What it had not finished ends as it would have: what ran is called lost, what waited expires. If it comes back it
/// is a new agent with its old id, and not drained.
#[utoipa::path(
    delete, path = "/api/v1/agents/{agent}", tag = "agents", operation_id = "remove_agent", security(("bearer" = ["agent:write", "target"])),
    params(("agent" = String, Path, description = "An agent's id or its host's name.")),
    responses((status = 204, description = "Nothing is kept for it any more."), LetterRefusals)
)]
pub(super) async fn remove(
    State(app): State<App>,
    Authorized(caller): Authorized,
    AgentPath(agent): AgentPath,
) -> Result<StatusCode, Failed> {
    app::remove(&app, &caller, &agent).await?;
    Ok(StatusCode::NO_CONTENT)
}
