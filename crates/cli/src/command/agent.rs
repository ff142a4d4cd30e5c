//! `longshore agent list|show|facts|doctor|remove`.

use clap::Args;
use jiff::Timestamp;
use longshore_model::HostName;
use longshore_model::fact::FactValues;

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::render;
use crate::role::mapping;

/// One agent.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The agent's id or its host's name.
    agent: HostName,
}

/// The agents, sorted by host name.
pub(crate) async fn list(app: &App) -> Result<Exit, Failure> {
    let agents = app.client()?.agents().await?;
    let table = |wide| render::agents(&app.out, &agents.items, wide, Timestamp::now());
    app.out.list(&agents, &agents.items, table, |agent| agent.id.to_string())?;
    if agents.items.is_empty() {
        app.out.say("There is no agent.");
    }
    Ok(Exit::Done)
}

/// One agent, with the history of its drains.
pub(crate) async fn show(app: &App, Which { agent }: Which) -> Result<Exit, Failure> {
    let detail = app.client()?.agent(&agent).await?;
    app.out.item(&detail, |_| render::agent(&app.out, &detail, Timestamp::now()), || detail.agent.id.to_string())?;
    Ok(Exit::Done)
}

/// What an agent knows of its host, by the paths that arguments name it by.
pub(crate) async fn facts(app: &App, Which { agent }: Which) -> Result<Exit, Failure> {
    let view = app.client()?.agent_facts(&agent).await?;
    let values = FactValues::of(&view.facts);
    let table = || {
        let mut table = render::Table::new(&app.out, &["FACT", "VALUE"]);
        values.iter().for_each(|(path, value)| table.row([format!("@fact.{path}"), value.to_owned()]));
        format!("{}\ngathered {}", table.text(), render::ago(&app.out, view.gathered_at, Timestamp::now()))
    };
    app.out.item(&view, |_| table(), || view.agent.to_string())?;
    Ok(Exit::Done)
}

/// What this host has to keep jobs within, tried out as the user who asks. Needs no controller.
pub(crate) async fn doctor(app: &App) -> Result<Exit, Failure> {
    let facilities = longshore_exec::facilities(mapping::supervisor()?).await;
    let table = |_| {
        let mut table = render::Table::new(&app.out, &["FACILITY", "USED", "HOW, OR WHY NOT"]);
        facilities.iter().for_each(|facility| table.row([facility.name.to_owned(), word(facility.used).to_owned(), facility.why.clone()]));
        table.text()
    };
    let document = serde_json::json!({ "facilities": facilities });
    app.out.item(&document, table, || {
        facilities.iter().filter(|facility| facility.used).map(|facility| facility.name).collect::<Vec<_>>().join("\n")
    })?;
    Ok(Exit::Done)
}

fn word(used: bool) -> &'static str {
    if used { "yes" } else { "no" }
}

/// Removes what an agent that is gone left behind.
pub(crate) async fn remove(app: &App, Which { agent }: Which) -> Result<Exit, Failure> {
    app.client()?.remove_agent(&agent).await?;
    let document = serde_json::json!({ "agent": agent, "removed": true });
    app.out.item(&document, |_| format!("{agent} removed; what it had not finished ends as lost, or expires"), || agent.to_string())?;
    Ok(Exit::Done)
}
