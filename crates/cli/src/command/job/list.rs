//! `longshore job list`.

use clap::Args;
use jiff::Timestamp;
use longshore_client::{Client, JobFilter, JobList};
use longshore_model::JobStatus;

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::render;

/// List jobs, newest first.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples\n  longshore job list --status failed --since 1h\n  longshore job list -o name --status running | xargs longshore job cancel"
)]
pub(crate) struct List {
    /// Statuses, such as `failed,expired`. May be repeated.
    #[arg(long, value_name = "STATUS", value_delimiter = ',', value_parser = status)]
    status: Vec<JobStatus>,
    /// An operation's name.
    #[arg(long, value_name = "NAME")]
    operation: Option<String>,
    /// A target as it was submitted: `_any`, `_all`, HOST, KEY:VALUE or `_any@KEY:VALUE`.
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
    /// A host name or agent id.
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,
    /// Who submitted it.
    #[arg(long, value_name = "NAME")]
    submitter: Option<String>,
    /// An annotation.
    #[arg(long, value_name = "KEY=VALUE")]
    annotation: Option<String>,
    /// Submitted since: RFC 3339, or a duration ago such as `1h`.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Submitted before.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Text anywhere in it.
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// The most jobs to list.
    #[arg(long, value_name = "N", default_value_t = LIMIT, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Go on where the page before ended.
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

const LIMIT: u16 = 50;

fn status(word: &str) -> Result<JobStatus, String> {
    JobStatus::from_word(word).ok_or_else(|| format!("the statuses are {}", JobStatus::ALL.map(JobStatus::as_str).join(", ")))
}

impl List {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        let list = self.fetch(&app.client()?).await?;
        let now = Timestamp::now();
        app.out.list(&list, &list.items, |wide| render::jobs(&app.out, &list, wide, now), |job| job.id.to_string())?;
        if let Some(cursor) = &list.next_cursor {
            app.out.say(format!("{} shown, there are more:     {}", list.items.len(), self.command(cursor)));
        } else if list.items.is_empty() {
            app.out.say("No jobs match.");
        }
        Ok(Exit::Done)
    }

    /// As many as were asked for: a page may have fewer and still be followed by another.
    async fn fetch(&self, client: &Client) -> Result<JobList, Failure> {
        let limit = usize::from(self.limit);
        let mut filter = self.filter();
        let mut list = client.jobs(&filter).await?;
        while list.items.len() < limit && list.next_cursor.is_some() {
            filter.limit = Some(limit - list.items.len());
            filter.cursor = list.next_cursor;
            let page = client.jobs(&filter).await?;
            list.items.extend(page.items);
            (list.next_cursor, list.counts) = (page.next_cursor, page.counts);
        }
        Ok(list)
    }

    fn filter(&self) -> JobFilter {
        let statuses: Vec<_> = self.status.iter().map(|status| status.as_str()).collect();
        JobFilter {
            status: (!statuses.is_empty()).then(|| statuses.join(",")),
            operation: self.operation.clone(),
            target: self.target.clone(),
            agent: self.agent.clone(),
            submitter: self.submitter.clone(),
            annotation: self.annotation.clone(),
            since: self.since.clone(),
            until: self.until.clone(),
            q: self.search.clone(),
            limit: Some(usize::from(self.limit)),
            cursor: self.cursor.clone(),
        }
    }

    /// What lists the jobs after `cursor`: the same filter, word for word.
    fn command(&self, cursor: &str) -> String {
        let JobFilter { status, operation, target, agent, submitter, annotation, since, until, q, .. } = self.filter();
        let filters = [
            ("--status", status),
            ("--operation", operation),
            ("--target", target),
            ("--agent", agent),
            ("--submitter", submitter),
            ("--annotation", annotation),
            ("--since", since),
            ("--until", until),
            ("--search", q),
            ("--limit", (self.limit != LIMIT).then(|| self.limit.to_string())),
            ("--cursor", Some(cursor.to_owned())),
        ];
        let words = filters.into_iter().filter_map(|(flag, value)| value.map(|value| format!(" {flag} {}", render::shell_word(&value))));
        format!("longshore job list{}", words.collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::command::job::Job;

    fn list(words: &[&str]) -> List {
        let cli = Cli::try_parse_from([&["longshore", "job", "list"], words].concat()).unwrap();
        let Command::Job(Job::List(list)) = cli.command else { panic!("{words:?}") };
        list
    }

    #[test]
    fn several_statuses_are_one_filter_and_an_unknown_one_is_wrong_usage() {
        assert_eq!(list(&["--status", "failed,expired", "--status", "running"]).filter().status.as_deref(), Some("failed,expired,running"));
        let error = Cli::try_parse_from(["longshore", "job", "list", "--status", "nope"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("partial_failure"), "{error}");
    }

    #[test]
    fn the_command_for_the_next_page_has_the_same_filter() {
        let first = list(&["--status", "failed", "--since", "1h", "--search", "it's here", "--limit", "3"]);
        let words = first.command("abc");
        assert_eq!(words, r"longshore job list --status failed --since 1h --search 'it'\''s here' --limit 3 --cursor abc");
        let next = list(&["--status", "failed", "--since", "1h", "--search", "it's here", "--limit", "3", "--cursor", "abc"]);
        assert_eq!(next.filter(), JobFilter { cursor: Some("abc".to_owned()), ..first.filter() });
    }
}
