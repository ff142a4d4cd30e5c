//! Live output until the job has ended, or until the user has seen enough.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use longshore_client::{Client, JobId};
use tokio::signal::unix::Signal;

use crate::app::App;
use crate::command::job::{telling, write_log};
use crate::failure::Failure;

/// Why following ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Followed {
    /// The job ended.
    Ended,
    /// The user left, and may have cancelled it.
    Detached,
}

/// After the first Ctrl-C, how long a second one still cancels.
const SECOND_CHANCE: Duration = Duration::from_secs(3);

/// Follows the output of `id`.
pub(crate) async fn follow(app: &App, client: &Client, id: JobId, interrupts: &mut Signal) -> Result<Followed, Failure> {
    let writing = async {
        let mut output = pin!(client.logs(id, None, true));
        while let Some(piece) = output.next().await {
            write_log(&app.out, &piece?.item)?;
        }
        Ok(Followed::Ended)
    };
    tokio::select! {
        ended = telling(&app.out, client, writing) => return ended,
        _ = interrupts.recv() => {}
    }
    app.out.say(format!("\ndetached; the job goes on. Come back with     longshore job logs -f {}", id.short()));
    app.out.say(format!("Ctrl-C again within {} s cancels it.", SECOND_CHANCE.as_secs()));
    if tokio::time::timeout(SECOND_CHANCE, interrupts.recv()).await.is_ok() {
        let view = client.cancel(id).await?;
        app.out.say(format!("{}: {}", id.short(), view.message));
    }
    Ok(Followed::Detached)
}
