//! `longshore completion SHELL`.

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::{Shell, generate};

use crate::app::App;
use crate::args::Cli;
use crate::exit::Exit;
use crate::failure::Failure;

/// Print a completion script.
#[derive(Debug, Args)]
#[command(after_help = "Examples\n  longshore completion bash > /etc/bash_completion.d/longshore")]
pub(crate) struct Completion {
    /// Which shell.
    shell: Supported,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Supported {
    Bash,
    Zsh,
    Fish,
}

impl Completion {
    pub(crate) fn perform(self, app: &App) -> Result<Exit, Failure> {
        let shell = match self.shell {
            Supported::Bash => Shell::Bash,
            Supported::Zsh => Shell::Zsh,
            Supported::Fish => Shell::Fish,
        };
        let mut script = Vec::new();
        generate(shell, &mut Cli::command(), "longshore", &mut script);
        app.out.bytes(&script)?;
        Ok(Exit::Done)
    }
}
