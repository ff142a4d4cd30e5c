//! `longshore audit`: who changed what, and who was refused.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::{Args, Subcommand};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use longshore_client::{AuditFilter, AuditList, AuditOutcome, AuditRecord, Client};
use longshore_model::chain::Verifier;
use serde::Serialize;
use tokio_util::io::ReaderStream;

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::render;

/// Who changed what, and who was refused.
#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// List calls that could change something and calls that were refused, newest first.
    #[command(visible_alias = "ls", after_help = LIST_EXAMPLES)]
    List(List),
    /// Write all of them as lines of JSON, oldest first.
    #[command(after_help = "Examples\n  longshore audit export --out audit.jsonl\n  longshore audit export --since 24h | jq -r .path")]
    Export(Export),
    /// Look whether records were altered, removed or put in since they were written.
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(Verify),
}

const LIST_EXAMPLES: &str = "\
Examples
  longshore audit list --outcome refused --since 1h       who was not let in lately
  longshore audit list --actor ada --action command.exec  which commands she ran
  longshore audit list --action /cancel -o jsonl          what was cancelled, for programs";

const VERIFY_EXAMPLES: &str = "\
Examples
  longshore audit verify              the whole trail, as the controller has it
  longshore audit verify audit.jsonl  what `longshore audit export --out audit.jsonl` has written

Each controller chains its records: a record carries a digest over itself and the one before it. Who can write to the broker could write
a whole new trail; keep exports elsewhere and compare. What does not show: records missing at the end of a run or at its beginning, where
age removes them too; a run that is gone as a whole; records put in outside of every chain, which are counted.";

/// Which of them.
#[derive(Debug, Args)]
struct Which {
    /// Of this caller: the subject of its token.
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// An operation such as `command.exec`, a method such as `DELETE`, or a part of the path such as `/cancel`.
    #[arg(long, value_name = "WHAT")]
    action: Option<String>,
    /// `done`, `refused`, `failed` or `unknown`. May be repeated.
    #[arg(long, value_name = "END", value_delimiter = ',', value_parser = outcome)]
    outcome: Vec<AuditOutcome>,
    /// Answered at or after this time, or so long ago, such as `1h`.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Answered before this time, or longer ago than this.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

/// List the audit trail.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    which: Which,
    /// The most to list.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Go on where the page before ended.
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

/// Export the audit trail.
#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    which: Which,
    /// Write to this file, in one step once everything has come, for its owner alone. Standard output unless given.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Verify the audit trail.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// An export, from its beginning and with nothing left out. The controller's trail unless given.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Verdict {
    is_whole: bool,
    n_records: u64,
    /// Records that are in no chain.
    n_without: u64,
    n_writers: usize,
    /// Runs whose first records are gone.
    n_begin_late: usize,
    breaks: Vec<String>,
}

fn outcome(word: &str) -> Result<AuditOutcome, String> {
    let words = || format!("the ends are {}", AuditOutcome::ALL.map(AuditOutcome::as_str).join(", "));
    AuditOutcome::from_word(word).ok_or_else(words)
}

impl Audit {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        match self {
            Self::List(list) => list.perform(app).await,
            Self::Export(export) => export.perform(app).await,
            Self::Verify(verify) => verify.perform(app).await,
        }
    }
}

impl Which {
    fn filter(&self) -> AuditFilter {
        let outcomes: Vec<_> = self.outcome.iter().map(|outcome| outcome.as_str()).collect();
        AuditFilter {
            who: self.actor.clone(),
            action: self.action.clone(),
            outcome: (!outcomes.is_empty()).then(|| outcomes.join(",")),
            since: self.since.clone(),
            until: self.until.clone(),
            ..AuditFilter::default()
        }
    }

    /// The same, as it was typed.
    fn words(&self) -> String {
        let filter = self.filter();
        let given = [
            ("--actor", filter.who),
            ("--action", filter.action),
            ("--outcome", filter.outcome),
            ("--since", filter.since),
            ("--until", filter.until),
        ];
        let word = |(flag, value): (&str, Option<String>)| value.map(|value| format!(" {flag} {}", render::shell_word(&value)));
        given.into_iter().filter_map(word).collect()
    }
}

impl List {
    async fn perform(self, app: &App) -> Result<Exit, Failure> {
        let list = self.fetch(&app.client()?).await?;
        let now = Timestamp::now();
        app.out.list(&list, &list.items, |wide| render::audit_records(&app.out, &list.items, wide, now), |record| record.id.clone())?;
        if let Some(cursor) = &list.next_cursor {
            let command =
                format!("longshore audit list{} --limit {} --cursor {}", self.which.words(), self.limit, render::shell_word(cursor));
            app.out.say(format!("{} shown, there are more:     {command}", list.items.len()));
        } else if list.items.is_empty() {
            app.out.say("There is no such record.");
        }
        Ok(Exit::Done)
    }

    /// As many as were asked for: a page may have fewer and still be followed by another.
    async fn fetch(&self, client: &Client) -> Result<AuditList, Failure> {
        let limit = usize::from(self.limit);
        let mut filter = AuditFilter { limit: Some(limit), cursor: self.cursor.clone(), ..self.which.filter() };
        let mut list = client.audit(&filter).await?;
        while list.items.len() < limit && list.next_cursor.is_some() {
            filter.limit = Some(limit - list.items.len());
            filter.cursor = list.next_cursor;
            let page = client.audit(&filter).await?;
            list.items.extend(page.items);
            list.next_cursor = page.next_cursor;
        }
        Ok(list)
    }
}

impl Export {
    async fn perform(self, app: &App) -> Result<Exit, Failure> {
        let client = app.client()?;
        let mut lines = std::pin::pin!(client.audit_export(&self.which.filter()).await?);
        let Some(path) = &self.out else {
            while let Some(chunk) = lines.next().await {
                app.out.bytes(&chunk?)?;
            }
            return Ok(Exit::Done);
        };
        let failed = |error: std::io::Error| Failure::new(Exit::Failed, format!("{} cannot be written", path.display())).caused_by(&error);
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
        let mut n_records = 0;
        while let Some(chunk) = lines.next().await {
            let chunk = chunk?;
            n_records += chunk.iter().filter(|byte| **byte == b'\n').count();
            file.write_all(&chunk).map_err(failed)?;
        }
        file.as_file().sync_all().map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        app.out.say(format!("{n_records} records in {}", path.display()));
        Ok(Exit::Done)
    }
}

impl Verify {
    async fn perform(self, app: &App) -> Result<Exit, Failure> {
        let mut lines: BoxStream<'_, Result<Bytes, Failure>> = match &self.file {
            Some(path) => {
                let failed =
                    |error: std::io::Error| Failure::new(Exit::Failed, format!("{} cannot be read", path.display())).caused_by(&error);
                let file = tokio::fs::File::open(path).await.map_err(failed)?;
                ReaderStream::new(file).map_err(failed).boxed()
            }
            None => app.client()?.audit_export(&AuditFilter::default()).await?.map_err(Failure::from).boxed(),
        };
        let (mut verifier, mut breaks) = (Verifier::default(), Vec::new());
        let mut rest = Vec::new();
        while let Some(chunk) = lines.next().await {
            rest.extend_from_slice(&chunk?);
            let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
            for line in rest[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                breaks.extend(verifier.take(read(line)?));
            }
            rest.drain(..whole);
        }
        if !rest.is_empty() {
            breaks.extend(verifier.take(read(&rest)?));
        }
        breaks.extend(verifier.finish());
        let (n_records, n_without, n_writers) = (verifier.n_records(), verifier.n_without(), verifier.n_writers());
        let n_begin_late = verifier.n_begin_late();
        let breaks: Vec<_> = breaks.iter().map(ToString::to_string).collect();
        let verdict = Verdict { is_whole: breaks.is_empty(), n_records, n_without, n_writers, n_begin_late, breaks };
        let word = if verdict.is_whole { "whole" } else { "broken" };
        let table = |_| {
            let without = if n_without == 0 { String::new() } else { format!(", {n_without} of them in no chain") };
            let late =
                if n_begin_late == 0 { String::new() } else { format!(" {n_begin_late} of the runs begin after their first record.") };
            let end = format!("The trail is {word}: {n_records} records of {n_writers} runs of controllers{without}.{late}");
            verdict.breaks.iter().chain([&end]).map(String::as_str).collect::<Vec<_>>().join("\n")
        };
        app.out.item(&verdict, table, || word.to_owned())?;
        Ok(if verdict.is_whole { Exit::Done } else { Exit::Failed })
    }
}

fn read(line: &[u8]) -> Result<AuditRecord, Failure> {
    serde_json::from_slice(line).map_err(|error| Failure::new(Exit::Failed, "a line is no audit record".to_owned()).caused_by(&error))
}
