//! `longshore dead-letter`: jobs whose attempts are used up, and what becomes of them.

use clap::{Args, Subcommand};
use jiff::Timestamp;
use longshore_client::{Client, DeadLetterCondition, DeadLetterFilter, DeadLetterList};

use super::job::{each, resolve};
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::render;

/// Jobs whose attempts are used up.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetter {
    /// List them, those of the newest jobs first.
    #[command(visible_alias = "ls")]
    List(List),
    /// One of them, with the executions that died.
    Show {
        /// The job's id, or a unique beginning or end of it.
        id: String,
    },
    /// Submit what died again, as a new job. Safe to repeat: it is submitted once.
    Redrive {
        /// The jobs' ids, or unique beginnings or ends of them.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
    /// Note that they need nothing more. The jobs stay.
    Discard {
        /// The jobs' ids, or unique beginnings or ends of them.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

/// List dead letters.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples\n  longshore dead-letter list\n  longshore dead-letter list -o name | xargs longshore dead-letter redrive"
)]
pub(crate) struct List {
    /// `open`, `redriven` or `discarded`. May be repeated; `open` unless given.
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = state)]
    state: Vec<DeadLetterCondition>,
    /// The most to list.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Go on where the page before ended.
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

fn state(word: &str) -> Result<DeadLetterCondition, String> {
    let words = || format!("the states are {}", DeadLetterCondition::ALL.map(DeadLetterCondition::as_str).join(", "));
    DeadLetterCondition::from_word(word).ok_or_else(words)
}

impl DeadLetter {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        match self {
            Self::List(list) => list.perform(app).await,
            Self::Show { id } => {
                let client = app.client()?;
                let letter = client.dead_letter(resolve(&client, &id).await?).await?;
                app.out.item(&letter, |_| render::dead_letter(&app.out, &letter, Timestamp::now()), || letter.id.to_string())?;
                Ok(Exit::Done)
            }
            Self::Redrive { ids } => {
                each(app, &ids, "redriven", async |client, id| {
                    let job = client.redrive(id).await?;
                    app.out.item(
                        &job,
                        |_| format!("{} does {} again: {}", job.id, id.short(), render::job_line(&job)),
                        || job.id.to_string(),
                    )
                })
                .await
            }
            Self::Discard { ids } => {
                each(app, &ids, "discarded", async |client, id| {
                    client.discard(id).await?;
                    let document = serde_json::json!({ "id": id, "discarded": true });
                    app.out.item(&document, |_| format!("{} discarded", id.short()), || id.to_string())
                })
                .await
            }
        }
    }
}

impl List {
    async fn perform(self, app: &App) -> Result<Exit, Failure> {
        let list = self.fetch(&app.client()?).await?;
        let now = Timestamp::now();
        app.out.list(&list, &list.items, |wide| render::dead_letters(&app.out, &list.items, wide, now), |letter| letter.id.to_string())?;
        if let Some(cursor) = &list.next_cursor {
            let states: String = self.state.iter().map(|state| format!(" --state {}", state.as_str())).collect();
            let command = format!("longshore dead-letter list{states} --limit {} --cursor {}", self.limit, render::shell_word(cursor));
            app.out.say(format!("{} shown, there are more:     {command}", list.items.len()));
        } else if list.items.is_empty() {
            app.out.say("There is no such dead letter.");
        }
        Ok(Exit::Done)
    }

    /// As many as were asked for: a page may have fewer and still be followed by another.
    async fn fetch(&self, client: &Client) -> Result<DeadLetterList, Failure> {
        let limit = usize::from(self.limit);
        let states: Vec<_> = self.state.iter().map(|state| state.as_str()).collect();
        let state = (!states.is_empty()).then(|| states.join(","));
        let mut filter = DeadLetterFilter { state, limit: Some(limit), cursor: self.cursor.clone() };
        let mut list = client.dead_letters(&filter).await?;
        while list.items.len() < limit && list.next_cursor.is_some() {
            filter.limit = Some(limit - list.items.len());
            filter.cursor = list.next_cursor;
            let page = client.dead_letters(&filter).await?;
            list.items.extend(page.items);
            list.next_cursor = page.next_cursor;
        }
        Ok(list)
    }
}
