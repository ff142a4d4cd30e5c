//! Speed, measured against a floor in the same run: `cargo xtask bench jobs|fanout|list|workspace|worker`.
//!
//! The floor is the least that any job system on this broker must do: the same durable writes, sent and received with async-nats directly,
//! no HTTP, no checks, no state. Figures are medians over rounds that alternate between the two, so that a machine whose speed drifts
//! slows both.
#![expect(clippy::print_stdout, reason = "the report is the program's output")]

mod fanout;
mod floor;
mod jobs;
mod list;
mod system;
mod tasks;
mod worker;
mod workspace;

use anyhow::{Context, bail};

const NAMES: &str = "jobs, fanout, list, workspace, worker";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("jobs") => {
            jobs::run(&jobs::Settings::parse(args).context("usage: bench jobs [--quick] [--sync-always | --sync-default]")?).await
        }
        Some("fanout") => fanout::run(&fanout::Settings::parse(args).context("usage: bench fanout [AGENTS…]")?).await,
        Some("list") => list::run(&list::Settings::parse(args).context("usage: bench list [JOBS…]")?).await,
        Some("workspace") => {
            let settings = workspace::Settings::parse(args).context("usage: bench workspace [--quick] [--worker] [DIR]")?;
            workspace::run(&settings)?;
            worker::run(&settings).await
        }
        Some("worker") => tasks::run(&tasks::Settings::parse(args).context("usage: bench worker [--quick] [--existing COMMAND]")?).await,
        Some(other) => bail!("there is no benchmark {other:?}; there are: {NAMES}"),
        None => bail!("say which benchmark: {NAMES}"),
    }
}
