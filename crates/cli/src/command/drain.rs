//! `longshore agent drain` and `undrain`.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use longshore_client::{AgentCondition, AgentView};
use longshore_model::HostName;
use tokio::time::Instant;

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::render;

/// Between looks at an agent that finishes what it has. It is looked at, since nothing tells: the streams tell of jobs, want a permission that
/// who may drain need not have, and say nothing of how many executions an agent still has. The agent itself tells with its heartbeats, of
/// which a look reads the newest, and of this agent alone.
const LOOK: Duration = Duration::from_millis(500);
/// Between two lines about what is still awaited.
const SAY: Duration = Duration::from_secs(10);

/// Tell an agent to take no new work, and wait until it has finished what it has.
#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// The agent's id or its host's name.
    agent: HostName,
    /// Why, for others to read.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Do not wait until nothing runs on it any more.
    #[arg(long)]
    no_wait: bool,
}

/// Tell an agent to take work again.
#[derive(Debug, Args)]
pub(crate) struct Undrain {
    /// The agent's id or its host's name.
    agent: HostName,
}

impl Drain {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        let client = app.client()?;
        let mut view = client.drain(&self.agent, self.reason).await?;
        // Not by its name, which another agent may have by then.
        let id = HostName::from(view.id);
        let mut say_at = Instant::now();
        while !self.no_wait && view.state == AgentCondition::Draining {
            if Instant::now() >= say_at {
                app.out.say(format!("{} takes no new work; {}. Ctrl-C ends the waiting, not the drain.", view.hostname, awaited(&view)));
                say_at = Instant::now() + SAY;
            }
            tokio::time::sleep(LOOK).await;
            view = client.agent(&id).await?.agent;
        }
        show(app, &view)
    }
}

impl Undrain {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        let view = app.client()?.undrain(&self.agent).await?;
        show(app, &view)
    }
}

fn awaited(view: &AgentView) -> String {
    match view.running {
        0 => "waiting for its word that nothing runs on it".to_owned(),
        1 => "waiting for 1 execution to end".to_owned(),
        n => format!("waiting for {n} executions to end"),
    }
}

fn show(app: &App, view: &AgentView) -> Result<Exit, Failure> {
    let agents = std::slice::from_ref(view);
    app.out.item(view, |wide| render::agents(&app.out, agents, wide, Timestamp::now()), || view.id.to_string())?;
    Ok(Exit::Done)
}
