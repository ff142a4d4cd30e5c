//! `longshore job show`.

use clap::Args;
use jiff::Timestamp;

use super::id::resolve;
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::render;

/// Everything of one job.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Its id, or a unique beginning or end of it.
    id: String,
}

impl Show {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        let client = app.client()?;
        let job = client.job(resolve(&client, &self.id).await?, None).await?;
        app.out.item(&job, |wide| render::job(&app.out, &job, wide, Timestamp::now()), || job.id.to_string())?;
        Ok(Exit::Done)
    }
}
