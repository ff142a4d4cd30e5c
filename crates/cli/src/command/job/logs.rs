//! `longshore job logs`: output as it was written, to the stream it was written to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::pin;

use clap::Args;
use futures::StreamExt;
use longshore_client::{Client, ExecutionId, JobId, JobView, LogView, log_bytes};
use longshore_model::wire::log::LogStream;

use super::detach::unless_left;
use super::id::resolve;
use super::{only_lines, telling};
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Format, Output, to_json};
use crate::render::{Lines, Written, printable};

/// A job's output.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples\n  longshore job logs -f j-7k2mab\n  longshore job logs j-7k2mab 2>/dev/null | sort\n  longshore job logs -f j-7k2mab --from 120 -o jsonl\n\nA line that begins with `--` is Longshore's own; one that says that output is missing stands where it is missing."
)]
pub(crate) struct Logs {
    /// Its id, or a unique beginning or end of it.
    id: String,
    /// Go on until the job has ended.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only records with this number or a higher one, of every attempt: `seq` in `-o jsonl`.
    #[arg(long, value_name = "SEQ", default_value_t = 0, hide_default_value = true)]
    from: u64,
    /// Settings file; `-f` means `--follow` here.
    #[arg(long, value_name = "FILE", hide = true)]
    config: Option<PathBuf>,
}

impl Logs {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        if self.follow {
            only_lines(app)?;
        }
        let client = app.client()?;
        let id = resolve(&client, &self.id).await?;
        let mut writer = match app.out.format {
            Format::Table | Format::Wide | Format::Name => Some(Writer::new(&app.out, &client, &client.job(id, None).await?)),
            Format::Jsonl | Format::Json | Format::Yaml => None,
        };
        let mut stream = pin!(client.logs(id, None, self.from, self.follow));
        let mut pieces = Vec::new();
        let reading = async {
            while let Some(piece) = stream.next().await {
                let piece = piece?.item;
                match &mut writer {
                    Some(writer) => writer.write(&piece).await?,
                    None if app.out.format == Format::Jsonl => app.out.lines(to_json(&piece))?,
                    None => pieces.push(piece),
                }
            }
            Ok::<_, Failure>(())
        };
        let reading = telling(&app.out, &client, reading);
        let read = match self.follow {
            true => unless_left(app, &client, &[id], format_args!("longshore job logs -f {}", id.short()), reading).await?,
            false => Some(reading.await),
        };
        if let Some(writer) = &mut writer {
            writer.end()?;
        }
        let Some(read) = read else { return Ok(Exit::Interrupted) };
        read?;
        match app.out.format {
            Format::Json | Format::Yaml => {
                app.out.list(&serde_json::json!({ "items": pieces }), &pieces, |_| String::new(), |_| String::new())?
            }
            Format::Table | Format::Wide | Format::Name | Format::Jsonl => {}
        }
        Ok(Exit::Done)
    }
}

/// Writes output to where the job wrote it: as it was for one execution, in whole lines with the host's name before them for several.
pub(crate) struct Writer {
    out: Output,
    client: Client,
    job: JobId,
    hosts: BTreeMap<ExecutionId, String>,
    lines: Option<Lines>,
}

impl Writer {
    /// For the output of `job`.
    pub(crate) fn new(out: &Output, client: &Client, job: &JobView) -> Self {
        let lines = (job.executions.len() > 1).then(Lines::default);
        let mut writer = Self { out: *out, client: client.clone(), job: job.id, hosts: BTreeMap::new(), lines };
        writer.note(job);
        writer
    }

    fn note(&mut self, job: &JobView) {
        self.hosts.extend(job.executions.iter().filter_map(|execution| Some((execution.id, execution.hostname.clone()?))));
    }

    /// Writes one piece, or keeps what has no line end yet.
    pub(crate) async fn write(&mut self, piece: &LogView) -> Result<(), Failure> {
        if let Some(gap) = piece.gap {
            match self.lines {
                None => self.out.say(format_args!("-- {gap}")),
                Some(_) => {
                    let host = self.host(piece).await;
                    self.out.say(format_args!("-- {}: {gap}", printable(&host)));
                }
            }
        }
        if self.lines.is_none() {
            return self.put(piece.stream, &log_bytes(piece));
        }
        let host = self.host(piece).await;
        let Some(lines) = &mut self.lines else { return Ok(()) };
        let written = lines.take(&host, piece);
        self.put(written.stream, &written.bytes)
    }

    /// Writes what was kept. Nothing follows.
    pub(crate) fn end(&mut self) -> Result<(), Failure> {
        let rest = self.lines.as_mut().map(Lines::rest).unwrap_or_default();
        rest.iter().try_for_each(|Written { stream, bytes }| self.put(*stream, bytes))
    }

    /// A job tells the name of a host once its agent has begun.
    async fn host(&mut self, piece: &LogView) -> String {
        if !self.hosts.contains_key(&piece.execution) {
            if let Ok(job) = self.client.job(self.job, None).await {
                self.note(&job);
            }
            self.hosts.entry(piece.execution).or_insert_with(|| piece.agent.to_string());
        }
        self.hosts.get(&piece.execution).cloned().unwrap_or_default()
    }

    fn put(&self, stream: LogStream, bytes: &[u8]) -> Result<(), Failure> {
        match stream {
            LogStream::Stdout => self.out.bytes(bytes)?,
            LogStream::Stderr => self.out.say_bytes(bytes),
            LogStream::System => String::from_utf8_lossy(bytes).lines().for_each(|line| self.out.say(format_args!("-- {line}"))),
        }
        Ok(())
    }
}
