//! Live output until the job has ended, or until the user has seen enough.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use longshore_client::{Client, JobView};
use tokio::signal::unix::Signal;

use crate::app::App;
use crate::command::job::{Writer, telling};
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

/// Follows the output of `job`.
pub(crate) async fn follow(app: &App, client: &Client, job: &JobView, interrupts: &mut Signal) -> Result<Followed, Failure> {
    let id = job.id;
    let mut writer = Writer::new(&app.out, client, job);
    let writing = async {
        let mut output = pin!(client.logs(id, None, true));
        while let Some(piece) = output.next().await {
            writer.write(&piece?.item).await?;
        }
        Ok::<_, Failure>(())
    };
    let written = tokio::select! {
        written = telling(&app.out, client, writing) => Some(written),
        _ = interrupts.recv() => None,
    };
    let rest = writer.end();
    if let Some(written) = written {
        return written.and(rest).map(|()| Followed::Ended);
    }
    app.out.say(format!("\ndetached; the job goes on. Come back with     longshore job logs -f {}", id.short()));
    app.out.say(format!("Ctrl-C again within {} s cancels it.", SECOND_CHANCE.as_secs()));
    if tokio::time::timeout(SECOND_CHANCE, interrupts.recv()).await.is_ok() {
        let view = client.cancel(id).await?;
        app.out.say(format!("{}: {}", id.short(), view.message));
    }
    Ok(Followed::Detached)
}
