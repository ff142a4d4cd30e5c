//! Ctrl-C while a job is followed: the first one leaves it and says how to come back, a second one cancels it.

use std::fmt::Display;
use std::time::Duration;

use longshore_client::{Client, JobId};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;

/// After the first Ctrl-C, how long a second one still cancels.
const SECOND_CHANCE: Duration = Duration::from_secs(3);

/// Hears Ctrl-C from now on, in place of being ended by it.
pub(crate) fn interrupts() -> Result<Signal, Failure> {
    signal(SignalKind::interrupt()).map_err(|error| Failure::new(Exit::Failed, "signals cannot be caught").caused_by(&error))
}

/// Does `work` for people who follow these jobs, until it ends or they leave; gives nothing then. `back` is the command to come back with.
pub(crate) async fn unless_left<T>(
    app: &App,
    client: &Client,
    jobs: &[JobId],
    back: impl Display,
    work: impl Future<Output = T>,
) -> Result<Option<T>, Failure> {
    let mut interrupts = interrupts()?;
    tokio::select! {
        done = work => return Ok(Some(done)),
        _ = interrupts.recv() => {}
    }
    leave(app, client, jobs, back, &mut interrupts).await.map(|()| None)
}

/// After a first Ctrl-C: says how to come back, and cancels if there is a second one.
pub(crate) async fn leave(app: &App, client: &Client, jobs: &[JobId], back: impl Display, interrupts: &mut Signal) -> Result<(), Failure> {
    let (go, them) = if let [_] = jobs { ("the job goes", "it") } else { ("the jobs go", "them") };
    app.out.say(format!("\ndetached; {go} on. Come back with     {back}"));
    app.out.say(format!("Ctrl-C again within {} s cancels {them}.", SECOND_CHANCE.as_secs()));
    if tokio::time::timeout(SECOND_CHANCE, interrupts.recv()).await.is_ok() {
        let mut failed: Option<Failure> = None;
        for id in jobs {
            match client.cancel(*id).await {
                Ok(view) => app.out.say(format!("{}: {}", id.short(), view.message)),
                // One that is refused does not keep the others from it.
                Err(error) => {
                    let failure = Failure::from(error).doing(&format!("job {} was not cancelled", id.short()));
                    if let Some(earlier) = failed.replace(failure) {
                        app.out.fail(&earlier);
                    }
                }
            }
        }
        return failed.map_or(Ok(()), Err);
    }
    Ok(())
}
