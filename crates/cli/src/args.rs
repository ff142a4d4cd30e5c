//! The command line: what exists, in groups by task, with examples before flags.

use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand};

use crate::command::{audit, completion, config, context, dead_letter, explain, job, key, node, operation, package, run, token, workspace};
use crate::output::{Color, Format};
use crate::render::shell_word;
use crate::role;

const EXAMPLES: &str = "\
Examples
  longshore start                                 everything, here
  longshore run -- uname -a                       an ad-hoc command, followed
  longshore run examples/hello-c -- make          a directory: uploaded, run, results brought back
  longshore job list --status failed --since 1h   what went wrong lately

Run `longshore help COMMAND`, or `longshore explain exit-codes`.";

/// Run jobs on this machine or on a fleet of them.
#[derive(Debug, Parser)]
#[command(name = "longshore", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Form of the output. `table` is for people and may change.
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORM")]
    pub(crate) output: Format,
    /// Settings file, over the system's and the user's.
    #[arg(short = 'f', long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Address of the controller.
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// File with the token to send.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// File of NAME=value lines, read like the environment.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) env_file: Option<PathBuf>,
    /// When to use colours.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub(crate) color: Color,
    /// Say nothing but data and errors.
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything on this host: broker, controller, agent.
    Start(role::start::Start),
    /// Run a command, or steps in a copy of a directory, and follow it.
    Run(run::Run),
    /// Is the system healthy?
    Status,
    /// Submit, follow and manage jobs.
    #[command(subcommand)]
    Job(job::Job),
    /// Ask hosts, or change them, and see the answers as a table.
    #[command(subcommand)]
    Node(node::Node),
    /// The catalogue of what jobs can do.
    #[command(subcommand)]
    Operation(operation::Operation),
    /// Jobs whose attempts are used up.
    #[command(subcommand)]
    DeadLetter(dead_letter::DeadLetter),
    /// Who changed what, and who was refused.
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Packages of handlers on this host.
    #[command(subcommand)]
    Package(package::Package),
    /// The agents of the fleet; run one here.
    #[command(subcommand)]
    Agent(role::agent::Agent),
    /// Workspace jobs from a shared drive, without a fleet.
    #[command(subcommand)]
    Workspace(workspace::Workspace),
    /// Run a worker of a scheduler, or one of its nodes by itself.
    #[command(subcommand)]
    Worker(role::worker::Worker),
    /// Run the controller alone.
    #[command(subcommand)]
    Controller(role::controller::Controller),
    /// Run the broker alone.
    #[command(subcommand)]
    Nats(role::nats::Nats),
    /// Tokens for people and programs.
    #[command(subcommand)]
    Token(token::Token),
    /// Keys that seal secrets and sign jobs.
    #[command(subcommand)]
    Key(key::Key),
    /// Which controller commands talk to.
    #[command(subcommand)]
    Context(context::Context),
    /// Look at the settings and where they come from.
    #[command(subcommand)]
    Config(config::Config),
    /// What an error code, a setting or an exit code means.
    Explain(explain::Explain),
    /// Completions for a shell.
    Completion(completion::Completion),
    /// This program's version.
    Version,
}

/// Ends the program as clap does, with a better tip where clap's own would mislead.
pub(crate) fn refuse(mut error: clap::Error) -> ! {
    let words: Vec<_> = std::env::args().skip(1).collect();
    if let Some(tip) = tip(&error, &words) {
        error.remove(ContextKind::SuggestedArg);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error.exit()
}

/// For `run uname -a`: clap would put the dashes before `-a`.
fn tip(error: &clap::Error, words: &[String]) -> Option<String> {
    let is_run = words.first().is_some_and(|word| word == "run") && !words.iter().any(|word| word == "--");
    if !is_run || !matches!(error.kind(), ErrorKind::UnknownArgument | ErrorKind::MissingRequiredArgument) {
        return None;
    }
    let command = words[1..].iter().map(|word| shell_word(word)).collect::<Vec<_>>().join(" ");
    if words.get(1).is_some_and(|word| Path::new(word).is_dir()) && words.len() == 2 {
        return Some(format!("put `--` between the directory and its steps: longshore run {command} -- make"));
    }
    let example = if command.is_empty() || command.starts_with('-') { "uname -a".to_owned() } else { command };
    Some(format!("put `--` before the command: longshore run -- {example}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn following_logs_and_naming_a_settings_file_share_a_letter_in_peace() {
        for line in ["longshore -f x.yaml job logs -f j-abcd", "longshore job logs -f --config x.yaml j-abcd"] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.global.config, Some(PathBuf::from("x.yaml")), "{line}");
            assert!(matches!(cli.command, Command::Job(job::Job::Logs(logs)) if logs.follow), "{line}");
        }
        let cli = Cli::try_parse_from(["longshore", "config", "show", "-f", "x.yaml"]).unwrap();
        assert_eq!(cli.global.config, Some(PathBuf::from("x.yaml")));
    }

    #[test]
    fn global_flags_may_stand_anywhere() {
        for line in ["longshore -o json job list", "longshore job list -o json", "longshore job -o json list"] {
            assert_eq!(Cli::try_parse_from(line.split(' ')).unwrap().global.output, Format::Json, "{line}");
        }
    }

    #[test]
    fn the_short_help_fits_a_screen() {
        let help = Cli::command().render_help().to_string();
        assert!(help.lines().count() <= 50, "{} lines", help.lines().count());
    }
}
