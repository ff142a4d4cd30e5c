//! `longshore job logs`: output as it was written, to the stream it was written to.

use std::path::PathBuf;
use std::pin::pin;

use clap::Args;
use futures::StreamExt;
use longshore_client::{LogView, log_bytes};
use longshore_model::wire::log::LogStream;

use super::id::resolve;
use super::telling;
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Format, Output, to_json};

/// A job's output.
#[derive(Debug, Args)]
#[command(after_help = "Examples\n  longshore job logs -f j-7k2mab\n  longshore job logs j-7k2mab 2>/dev/null | sort")]
pub(crate) struct Logs {
    /// Its id, or a unique beginning or end of it.
    id: String,
    /// Go on until the job has ended.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Settings file; `-f` means `--follow` here.
    #[arg(long, value_name = "FILE", hide = true)]
    config: Option<PathBuf>,
}

impl Logs {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        if self.follow && matches!(app.out.format, Format::Json | Format::Yaml) {
            return Err(Failure::new(Exit::Usage, "a stream that goes on is not one document").hint("use -o jsonl"));
        }
        let client = app.client()?;
        let id = resolve(&client, &self.id).await?;
        let mut stream = pin!(client.logs(id, None, self.follow));
        let mut pieces = Vec::new();
        let reading = async {
            while let Some(piece) = stream.next().await {
                let piece = piece?.item;
                match app.out.format {
                    Format::Table | Format::Wide | Format::Name => write(&app.out, &piece)?,
                    Format::Jsonl => app.out.lines(to_json(&piece))?,
                    Format::Json | Format::Yaml => pieces.push(piece),
                }
            }
            Ok::<_, Failure>(())
        };
        telling(&app.out, &client, reading).await?;
        match app.out.format {
            Format::Json | Format::Yaml => {
                app.out.list(&serde_json::json!({ "items": pieces }), &pieces, |_| String::new(), |_| String::new())?
            }
            Format::Table | Format::Wide | Format::Name | Format::Jsonl => {}
        }
        Ok(Exit::Done)
    }
}

/// Writes one piece to where the job wrote it.
pub(crate) fn write(out: &Output, piece: &LogView) -> Result<(), Failure> {
    let bytes = log_bytes(piece);
    match piece.stream {
        LogStream::Stdout => out.bytes(&bytes)?,
        LogStream::Stderr => out.say_bytes(&bytes),
        LogStream::System => out.say(format_args!("-- {}", String::from_utf8_lossy(&bytes).trim_end())),
    }
    Ok(())
}
