//! `longshore run`: a command, or steps in a copy of a directory, followed to its end.

mod bounds;
mod collect;
mod end;
mod follow;
mod hosts;
mod progress;
mod upload;

use std::path::PathBuf;

use clap::Args;
pub(crate) use collect::{Layout, collect, is_usable};
use longshore_client::{Client, JobId, JobRequest, JobView, RetryRequest};
use longshore_model::unit::{ByteSize, Span};
use longshore_model::wire::args::{ExecArgs, StepArgs, WorkspaceArgs};
use longshore_model::wire::secret::Secrets;
use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

use super::job::{Audience, fresh_key, goes_on, in_our_words, interrupts, until};
use crate::app::App;
use crate::command::secret::SecretFlags;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::render;

const HELP: &str = "\
Examples
  longshore run -- uname -a                                         a command on any agent
  longshore run --target web-01 -- systemctl is-active nginx        on one host
  longshore run --target group:web --yes -- systemctl reload nginx  on every host of a group, each line with its host's name
  longshore run examples/hello-c -- 'make' './hello > greeting.txt' a directory: each word is a step
  longshore run --target _all --yes examples/hello-c -- make        the same on every host; results in results/HOST
  longshore run --target web-01 --source site -- make               a directory that the host has already; results in its results
  longshore run --secret TOKEN -- ./deploy                          with the value of $TOKEN, which nobody gets to see

Exit codes
  the command's own; with a directory the first failing step's; on several hosts the first failing one's; 127 it is not there; 125 anything of Longshore's own;
  141 whoever read the output has closed it

Ctrl-C detaches and says how to come back; a second one cancels.";

/// Run a command, or steps in a copy of a directory, and follow it.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
#[command(group = clap::ArgGroup::new("workspace").args(["dir", "source"]))]
pub(crate) struct Run {
    /// Uploaded, run in, and what changed is brought back.
    dir: Option<PathBuf>,
    /// Run in a copy of this directory of the agent's `agent.workspace.jobs_dir` instead; what changed is brought to its `results` there.
    #[arg(long, value_name = "NAME", conflicts_with = "dir")]
    source: Option<String>,
    /// The command and its words; with DIR or --source: one step a word, for the shell.
    #[arg(last = true, required = true, value_name = "CMD")]
    words: Vec<String>,
    #[command(flatten)]
    audience: Audience,
    #[command(flatten)]
    secrets: SecretFlags,
    /// Glob of what is not uploaded, as in a .gitignore. May be repeated.
    #[arg(long, value_name = "GLOB", requires = "dir")]
    exclude: Vec<String>,
    /// What all processes of the steps may use together: memory=SIZE, cpu=N, processes=N; any one file: file_size=SIZE; a step's kept output:
    /// output=SIZE. May be repeated.
    #[arg(long, value_name = "NAME=VALUE", requires = "workspace")]
    limit: Vec<bounds::Limit>,
    /// Leave out what `.gitignore` files name, and `.git`.
    #[arg(long, requires = "dir")]
    gitignore: bool,
    /// Glob of what is brought back, instead of all that was created or changed. May be repeated.
    #[arg(long, value_name = "GLOB", requires = "workspace")]
    artifacts: Vec<String>,
    /// Where results go; those of `_all` and of a group each into a directory below it that has the host's name.
    #[arg(long, value_name = "DIR", default_value = "results")]
    out: PathBuf,
    /// Stop it after this.
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Span>,
    /// Output kept in the answer of a command, at most 64MiB; 128KiB of stdout and as much of stderr unless given. The log has its own bound.
    #[arg(long, value_name = "SIZE", conflicts_with = "workspace")]
    max_output: Option<ByteSize>,
    /// The most attempts, for failures in passing.
    #[arg(long, value_name = "N")]
    retry: Option<u32>,
    /// Of all jobs with this key one runs at a time, anywhere; the others wait in the order of submission.
    #[arg(long, value_name = "KEY")]
    concurrency_key: Option<String>,
    /// Submit it and return at once.
    #[arg(long)]
    detach: bool,
}

impl Run {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        // Under `run` the numbers below 125 belong to the command.
        self.go(app).await.map_err(|failure| {
            let exit = if failure.is_quiet() { Exit::OutputClosed } else { Exit::RunFailed };
            failure.exit(exit)
        })
    }

    async fn go(self, app: &App) -> Result<Exit, Failure> {
        // Before anything is asked or sent.
        let secrets = self.secrets.read()?;
        if self.dir.is_some() && !self.detach {
            is_usable(&self.out)?;
        }
        let client = app.client()?;
        let operation = if self.is_steps() { "workspace.run" } else { "command.exec" };
        // Before signals are caught, so that Ctrl-C ends the question.
        self.audience.confirm(app, &client, operation).await?;
        let mut interrupts = interrupts()?;
        let job = tokio::select! {
            job = self.submit(app, &client, secrets) => job?,
            _ = interrupts.recv() => {
                app.out.say("\ninterrupted before it was accepted; if it was sent nevertheless, it is in     longshore job list");
                return Ok(Exit::Interrupted);
            }
        };
        self.accompany(app, &client, &job, &mut interrupts).await.inspect_err(|failure| {
            if failure.is_quiet() {
                app.out.say(format!("nobody reads the output any more; {}", goes_on(job.id)));
            }
        })
    }

    /// Whether its words are steps in a workspace.
    fn is_steps(&self) -> bool {
        self.dir.is_some() || self.source.is_some()
    }

    async fn submit(&self, app: &App, client: &Client, secrets: Secrets) -> Result<JobView, Failure> {
        let bundle = match &self.dir {
            Some(dir) => Some(upload::upload(app, client, dir, &self.exclude, self.gitignore).await?),
            None => None,
        };
        let submitted = client.submit(&self.request(bundle, secrets), None).await;
        submitted.map_err(|error| in_our_words(error.into(), &self.audience.target))
    }

    /// From its acceptance to the end of `run`.
    async fn accompany(&self, app: &App, client: &Client, job: &JobView, interrupts: &mut Signal) -> Result<Exit, Failure> {
        let id = job.id;
        if self.detach {
            app.out.item(job, |_| id.to_string(), || id.to_string())?;
            app.out.suggest(format!("follow it with     longshore job logs -f {}", id.short()));
            self.say_where_results_are(app, id);
            return Ok(Exit::Done);
        }
        let unfinished = |failure: Failure| failure.hint(goes_on(id));
        match follow::follow(app, client, job, interrupts).await.map_err(unfinished)? {
            follow::Followed::Ended => {}
            follow::Followed::Detached => {
                self.say_where_results_are(app, id);
                return Ok(Exit::Interrupted);
            }
        }
        let stop = CancellationToken::new();
        let finishing = async {
            let ended = stop.run_until_cancelled(until(app, client, id, None)).await;
            let Some(job) = ended.transpose().map_err(unfinished)? else { return Ok(Exit::Interrupted) };
            self.finish(app, client, &job, &stop).await.map_err(|failure| {
                let failure = failure.hint(format!("the job itself has ended:     longshore job show {id}"));
                if self.dir.is_some() { failure.hint(format!("fetch its results:     longshore job artifacts {id}")) } else { failure }
            })
        };
        let mut finishing = std::pin::pin!(finishing);
        tokio::select! {
            exit = &mut finishing => exit,
            _ = interrupts.recv() => {
                stop.cancel();
                // Removes what it had begun with.
                let _interrupted = finishing.await;
                app.out.say(format!("\ninterrupted; what became of it is in     longshore job show {id}"));
                self.say_where_results_are(app, id);
                Ok(Exit::Interrupted)
            }
        }
    }

    fn say_where_results_are(&self, app: &App, id: JobId) {
        if self.dir.is_some() {
            app.out.suggest(format!("its results, when it has ended:     longshore job artifacts {}", id.short()));
        }
    }

    async fn finish(&self, app: &App, client: &Client, job: &JobView, stop: &CancellationToken) -> Result<Exit, Failure> {
        let exit = end::exit(job);
        if self.dir.is_some() {
            // By who was asked, so that the same command always puts things into the same places.
            let layout = if self.audience.is_many() { Layout::ByHost } else { Layout::Flat };
            collect(app, client, job.id, (&self.out, layout), stop).await?;
        } else if let Some(source) = &self.source {
            app.out.say(format!("results are where the job ran, in {source}/results of the agent's jobs directory"));
        }
        let mark = if exit == Exit::Done { "\u{2714}" } else { "\u{2716}" };
        if job.executions.len() > 1 {
            app.out.say(render::outcome(&app.out, job));
        } else if app.out.stderr_is_terminal || exit != Exit::Done || self.dir.is_some() {
            app.out.say(format!("{mark} {}", render::job_line(job)));
        }
        Ok(exit)
    }

    fn request(&self, bundle: Option<String>, secrets: Secrets) -> JobRequest {
        let (operation, args) = if self.is_steps() {
            let steps = self.words.iter().cloned().map(StepArgs::Script).collect();
            let args = WorkspaceArgs {
                bundle,
                source: self.source.clone(),
                steps,
                env: std::collections::BTreeMap::new(),
                secrets,
                shell: None,
                artifacts: (!self.artifacts.is_empty()).then(|| self.artifacts.clone()),
                limits: bounds::together(&self.limit).map(Box::new),
            };
            ("workspace.run", serde_json::to_value(args))
        } else {
            let max_output = self.max_output.map(|max| max.to_string());
            let env = std::collections::BTreeMap::new();
            let args = ExecArgs { command: self.words.clone(), cwd: None, env, max_output, secrets };
            ("command.exec", serde_json::to_value(args))
        };
        JobRequest {
            timeout: self.timeout.map(|span| span.to_string()),
            retry: self.retry.map(|max_attempts| RetryRequest { max_attempts, backoff: None }),
            idempotency_key: Some(fresh_key()),
            concurrency_key: self.concurrency_key.clone(),
            ..self.audience.of(Client::request(operation, args.expect("arguments are text and lists of it")))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn run(line: &[&str]) -> Run {
        let Command::Run(run) = Cli::try_parse_from([&["longshore", "run"], line].concat()).unwrap().command else { panic!("{line:?}") };
        run
    }

    #[test]
    fn without_a_directory_the_words_are_the_command() {
        let request = run(&["--target", "web-01", "--timeout", "5s", "--", "ls", "-l", "--", "x y"]).request(None, Secrets::new());
        assert_eq!((request.operation.as_str(), request.target.as_str()), ("command.exec", "web-01"));
        assert_eq!(request.args, serde_json::json!({"command": ["ls", "-l", "--", "x y"]}));
        assert_eq!(request.timeout.as_deref(), Some("5s"));
        assert!(request.idempotency_key.is_some());
    }

    #[test]
    fn with_a_directory_each_word_is_a_step() {
        let run = run(&["examples/hello-c", "--exclude", "*.o", "--", "make", "./hello > greeting.txt"]);
        assert_eq!(run.dir, Some(PathBuf::from("examples/hello-c")));
        let request = run.request(Some("ab".repeat(32)), Secrets::new());
        assert_eq!(request.operation, "workspace.run");
        assert_eq!(request.args["steps"], serde_json::json!(["make", "./hello > greeting.txt"]));
        assert_eq!((run.gitignore, &request.args["artifacts"]), (false, &serde_json::Value::Null));
    }

    #[test]
    fn a_command_is_required() {
        for line in [&["longshore", "run"][..], &["longshore", "run", "dir"], &["longshore", "run", "--"]] {
            assert!(Cli::try_parse_from(line).is_err(), "{line:?}");
        }
    }
}
