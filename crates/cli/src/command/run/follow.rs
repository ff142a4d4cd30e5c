//! Live output until the job has ended, or until the user has seen enough.

use std::pin::pin;

use futures::StreamExt;
use longshore_client::{Client, JobView};
use tokio::signal::unix::Signal;

use crate::app::App;
use crate::command::job::{Writer, leave, telling};
use crate::failure::Failure;

/// Why following ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Followed {
    /// The job ended.
    Ended,
    /// The user left, and may have cancelled it.
    Detached,
}

/// Follows the output of `job`.
pub(crate) async fn follow(app: &App, client: &Client, job: &JobView, interrupts: &mut Signal) -> Result<Followed, Failure> {
    let id = job.id;
    let mut writer = Writer::new(&app.out, client, job);
    let writing = async {
        let mut output = pin!(client.logs(id, None, 0, true));
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
    leave(app, client, &[id], format_args!("longshore job logs -f {}", id.short()), interrupts).await?;
    Ok(Followed::Detached)
}
