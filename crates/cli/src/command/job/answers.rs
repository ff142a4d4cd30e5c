//! How many of a job's hosts have answered, as a bar on a terminal. The controller tells as it happens; nobody polls.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::pin;

use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use longshore_client::{Client, ExecutionId, JobId, TimelineEntry};
use longshore_model::wire::record::Outcome;

use crate::app::App;

/// Draws the bar while something else waits for the job, if there is a terminal to draw on and the job is for several. Never ends; cancel it.
pub(super) async fn draw(app: &App, client: &Client, id: JobId) -> Infallible {
    if app.out.draws_progress() {
        follow(client, id).await;
    }
    std::future::pending().await
}

/// What cannot be told is not drawn; whoever waits says why.
async fn follow(client: &Client, id: JobId) {
    let Ok(job) = client.job(id, None).await else { return };
    if job.executions.len() < 2 {
        return;
    }
    let bar = Bar::new(job.executions.len());
    let (mut answers, mut changes) = (Answers::default(), pin!(client.events(id, None)));
    while let Some(Ok(change)) = changes.next().await {
        answers.note(&change.item);
        bar.0.set_position(answers.0.len() as u64);
        bar.0.set_message(answers.failed());
    }
}

/// Gone from the terminal when it is dropped.
struct Bar(ProgressBar);

impl Bar {
    fn new(n_hosts: usize) -> Self {
        let style = ProgressStyle::with_template("[{bar:30}] {pos}/{len} answered{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        Self(ProgressBar::new(n_hosts as u64).with_style(style.progress_chars("=> ")))
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Who has answered, and whether it came to nothing.
#[derive(Default)]
struct Answers(BTreeMap<ExecutionId, bool>);

impl Answers {
    fn note(&mut self, entry: &TimelineEntry) {
        let Some(execution) = entry.execution else { return };
        match (entry.event.as_str(), entry.outcome) {
            ("answered", outcome) => drop(self.0.insert(execution, outcome == Some(Outcome::Failed))),
            // A late answer replaces this.
            ("lost", _) => drop(self.0.insert(execution, true)),
            _ => {}
        }
    }

    fn failed(&self) -> String {
        match self.0.values().filter(|failed| **failed).count() {
            0 => String::new(),
            n => format!(", {n} failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_host_counts_once_and_a_late_answer_replaces_a_loss() {
        let mut answers = Answers::default();
        let mut tell = |agent: u128, event: &str, outcome: Option<&str>| {
            let entry = json!({
                "job": JobId::from_bits(1), "execution": longshore_client::AgentId::from_bits(agent), "at": "2026-07-27T10:00:00Z",
                "event": event, "outcome": outcome,
            });
            answers.note(&serde_json::from_value(entry).unwrap());
            (answers.0.len(), answers.failed())
        };
        assert_eq!(tell(1, "started", None), (0, String::new()));
        assert_eq!(tell(1, "answered", Some("completed")), (1, String::new()));
        assert_eq!(tell(2, "answered", Some("failed")), (2, ", 1 failed".to_owned()));
        assert_eq!(tell(3, "lost", None), (3, ", 2 failed".to_owned()));
        assert_eq!(tell(3, "answered", Some("completed")), (3, ", 1 failed".to_owned()));
        assert_eq!(tell(3, "answered", Some("completed")), (3, ", 1 failed".to_owned()), "told again by a resumed stream");
    }
}
