//! The flags and variables of the program whose place this one takes, and what was added.
//!
//! A variable that is empty counts as one that is not set, as in files for containers. None of the values of variables is in the help.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args};
use longshore_model::limits::TIMEOUT_MAX;
use longshore_model::unit::Span;

use crate::output::Format;

const EXAMPLES: &str = "\
Examples
  longshore workspace worker --stay                         serve jobs.pending of a broker on this host
  longshore workspace worker -u nats://nats:4222 -i pool    one job, then exit; others with `-i pool` share the work
  longshore workspace worker --dry-run                      run test-payload.json, without a broker

Exit codes
  0  the job was done, well or badly, or none came
  1  a bad request, a missing definition, a fault of this host, or no broker";

/// A worker's flags.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Worker {
    /// Address of the broker, several comma separated.
    #[arg(short, long, env = "NATS_URL", hide_env_values = true, default_value = "nats://localhost:4222", value_name = "URL")]
    url: String,
    /// User.
    #[arg(short = 'n', long, env = "NATS_USERNAME", hide_env_values = true, value_name = "NAME")]
    username: Option<String>,
    /// The user's password. Others on this host see command lines; the variable is better.
    #[arg(short, long, env = "NATS_PASSWORD", hide_env_values = true, value_name = "PASSWORD")]
    password: Option<String>,
    /// Token. Others on this host see command lines; the variable is better.
    #[arg(short, long, env = "NATS_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// Credentials file: a user JWT and its nkey seed.
    #[arg(long, env = "NATS_CREDS", hide_env_values = true, value_name = "FILE")]
    creds: Option<String>,
    /// Durable name: workers with the same one share the work.
    #[arg(short, long, env = "WORKER_ID", hide_env_values = true, default_value = "worker-01", value_name = "NAME")]
    id: String,
    /// Where the jobs' directories are, on the shared drive.
    #[arg(short, long, env = "NATS_JOBS_DIR", hide_env_values = true, default_value = "./jobs", value_name = "DIR")]
    jobs_dir: String,
    /// Where workspaces are made, on a disk of this host.
    #[arg(short, long, env = "NATS_WORKSPACES_DIR", hide_env_values = true, default_value = "./workspaces", value_name = "DIR")]
    workspaces_dir: String,
    /// Stream; made if it is missing.
    #[arg(short, long, env = "NATS_STREAM", hide_env_values = true, default_value = "JOBS", value_name = "NAME")]
    stream: String,
    /// What jobs are published to.
    #[arg(short = 'k', long, env = "NATS_INPUT_SUBJECT", hide_env_values = true, default_value = "jobs.pending", value_name = "SUBJECT")]
    input_subject: String,
    /// What responses are published to, and with `.ID` after it.
    #[arg(short = 'r', long, env = "NATS_OUTPUT_SUBJECT", hide_env_values = true, default_value = "jobs.results", value_name = "SUBJECT")]
    output_subject: String,
    /// How long a job may take that does not say so itself.
    #[arg(short = 'o', long, env = "JOB_TIMEOUT", hide_env_values = true, default_value = "30", value_name = "MINUTES", value_parser = minutes)]
    timeout: Minutes,
    /// Serve job after job, instead of one.
    #[arg(long, env = "WORKER_STAY", hide_env_values = true, action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    stay: bool,
    /// Jobs at once; more than one with --stay only.
    #[arg(long, env = "WORKER_MAX_JOBS", hide_env_values = true, default_value = "1", value_name = "N", value_parser = max_jobs)]
    max_jobs: u16,
    /// How long a running job gets when this is told to end.
    #[arg(long, default_value = "30s", value_name = "TIME")]
    drain_timeout: Span,
    /// Run test-payload.json of this directory without a broker, and print the response.
    #[arg(long)]
    dry_run: bool,
    /// How long a job is waited for without --stay.
    #[arg(long, default_value = "60s", value_name = "TIME", hide = true)]
    idle: Span,
    /// Form of the output; `-o` means `--timeout` here.
    #[arg(long = "output", value_enum, default_value_t, value_name = "FORM", hide = true)]
    // Its name keeps the global flag, and with it `-o`, away from here; its value arrives there.
    output: Format,
}

/// A time-out as it is written here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Minutes(Duration);

/// What the flags and variables say.
#[derive(Debug, PartialEq)]
pub(super) struct Said {
    pub(super) url: String,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) token: Option<String>,
    pub(super) creds: Option<PathBuf>,
    pub(super) id: String,
    pub(super) jobs_dir: PathBuf,
    pub(super) workspaces_dir: PathBuf,
    pub(super) stream: String,
    pub(super) input_subject: String,
    pub(super) output_subject: String,
    pub(super) timeout: Duration,
    pub(super) stay: bool,
    pub(super) max_jobs: usize,
    pub(super) drain_within: Duration,
    pub(super) idle_max: Duration,
    pub(super) dry_run: bool,
}

// By hand: it may hold secrets.
impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Worker {
    pub(super) fn said(self) -> Said {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let or = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
        Said {
            url: or(self.url, "nats://localhost:4222"),
            username: given(self.username),
            password: given(self.password),
            token: given(self.token),
            creds: given(self.creds).map(PathBuf::from),
            id: or(self.id, "worker-01"),
            jobs_dir: or(self.jobs_dir, "./jobs").into(),
            workspaces_dir: or(self.workspaces_dir, "./workspaces").into(),
            stream: or(self.stream, "JOBS"),
            input_subject: or(self.input_subject, "jobs.pending"),
            output_subject: or(self.output_subject, "jobs.results"),
            timeout: self.timeout.0,
            stay: self.stay,
            max_jobs: self.max_jobs.into(),
            drain_within: self.drain_timeout.0,
            idle_max: self.idle.0,
            dry_run: self.dry_run,
        }
    }
}

fn minutes(text: &str) -> Result<Minutes, String> {
    let text = if text.is_empty() { "30" } else { text };
    let most = TIMEOUT_MAX.as_secs() / 60;
    let span = text.trim().parse::<f64>().ok().and_then(|minutes| Duration::try_from_secs_f64(minutes * 60.0).ok());
    span.filter(|span| !span.is_zero() && *span <= TIMEOUT_MAX)
        .map(Minutes)
        .ok_or_else(|| format!("minutes, more than 0 and at most {most}"))
}

fn max_jobs(text: &str) -> Result<u16, String> {
    let text = if text.is_empty() { "1" } else { text };
    text.parse().ok().filter(|n| (1..=1024).contains(n)).ok_or_else(|| "1 to 1024".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::command::workspace::Workspace;

    fn said(words: &str) -> Said {
        let line = format!("longshore workspace worker {words}");
        let cli = Cli::try_parse_from(line.split(' ').filter(|word| !word.is_empty())).unwrap();
        let Command::Workspace(Workspace::Worker(worker)) = cli.command else { panic!("{:?}", cli.command) };
        worker.said()
    }

    #[test]
    fn short_and_long_flags_say_the_same() {
        let short = said("-u nats://x:1 -n ann -p secret -t token -i pool -j /jobs -w /work -s S -k in.x -r out.x -o 5");
        let long = said(
            "--url nats://x:1 --username ann --password secret --token token --id pool --jobs-dir /jobs --workspaces-dir /work \
             --stream S --input-subject in.x --output-subject out.x --timeout 5",
        );
        assert_eq!(short, long);
        assert_eq!((short.timeout, short.url.as_str(), short.max_jobs), (Duration::from_secs(300), "nats://x:1", 1));
        assert_eq!((short.token.as_deref(), short.output_subject.as_str()), (Some("token"), "out.x"));
    }

    #[test]
    fn time_outs_are_minutes() {
        assert_eq!(minutes("0.5").unwrap().0, Duration::from_secs(30));
        assert_eq!(minutes("").unwrap().0, Duration::from_secs(1800));
        for text in ["0", "-1", "soon", "inf", "NaN", "99999999", "5m"] {
            assert!(minutes(text).is_err(), "{text}");
        }
        assert!(max_jobs("0").is_err() && max_jobs("x").is_err() && max_jobs("").is_ok_and(|n| n == 1));
    }

    #[test]
    fn globals_are_still_there() {
        let cli = Cli::try_parse_from(["longshore", "workspace", "worker", "-q", "-o", "7"]).unwrap();
        assert!(cli.global.quiet);
        assert!(matches!(&cli.command, Command::Workspace(Workspace::Worker(worker)) if worker.timeout.0 == Duration::from_secs(420)));
    }
}
