//! `longshore status`: is the system healthy?

use std::fmt::Write as _;

use jiff::Timestamp;
use longshore_client::StatusView;

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::render;

pub(crate) async fn perform(app: &App) -> Result<Exit, Failure> {
    // What is not running is what was asked about, not a failure to ask.
    let not_running = |failure: Failure| if failure.exit == Exit::Unreachable { failure.exit(Exit::NotFound) } else { failure };
    let client = app.client().map_err(not_running)?;
    let status = client.status().await.map_err(|error| not_running(error.into()))?;
    let name = || if status.healthy { "healthy".to_owned() } else { "degraded".to_owned() };
    app.out.item(&status, |_| text(app, client.url(), &status), name)?;
    Ok(if status.healthy { Exit::Done } else { Exit::Failed })
}

fn text(app: &App, url: &str, status: &StatusView) -> String {
    let mut text = format!("longshore {} at {url}: {}\n", status.version, if status.healthy { "healthy" } else { "degraded" });
    let broker = if status.broker.connected { "connected" } else { "not connected" };
    let version = status.broker.version.as_deref().unwrap_or("of unknown version");
    let _ = writeln!(text, "  broker   nats-server {version}, {broker}, durability {}", status.broker.durability);
    let jobs: Vec<_> = status.jobs.iter().filter(|(_, count)| **count > 0).map(|(status, count)| format!("{count} {status}")).collect();
    let _ = writeln!(text, "  jobs     {}", if jobs.is_empty() { "none".to_owned() } else { jobs.join(", ") });
    if status.agents.is_empty() {
        text.push_str("  agents   none: start one with `longshore agent start`");
        return text;
    }
    let now = Timestamp::now();
    text + &render::alarms(&app.out, &status.alarms, now) + "\n" + &render::agents(&app.out, &status.agents, false, now)
}
