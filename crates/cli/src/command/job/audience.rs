//! Who a job is for, as a command line says it. The invariant guarded here: what changes many hosts was meant for many hosts.

use std::io::{BufRead, IsTerminal, Write};

use clap::Args;
use longshore_client::{Client, JobRequest};
use longshore_model::Target;
use longshore_model::operation::{Kind, Operation};
use longshore_model::unit::Span;

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;

/// Who a job is for.
#[derive(Debug, Clone, Args)]
pub(crate) struct Audience {
    /// Who does it: `_any` (one agent), `_all`, HOST (a host's name or an agent's id), KEY:VALUE (every agent with such a label, such as
    /// group:web), or `_any@KEY:VALUE` (one of them).
    #[arg(long, default_value = "_any", value_name = "TARGET")]
    pub(crate) target: Target,
    /// Accept it although its agents are offline or drained, and let it wait for them for so long.
    #[arg(long, value_name = "DURATION")]
    pub(crate) wait_for_agents: Option<Span>,
    /// Do not ask before many hosts are changed.
    #[arg(short, long)]
    pub(crate) yes: bool,
}

impl Audience {
    /// Whether it may be more than one host.
    pub(crate) fn is_many(&self) -> bool {
        match self.target {
            Target::All | Target::Group(_) => true,
            Target::Any | Target::Host(_) | Target::AnyOf(_) => false,
        }
    }

    /// The same request for these agents.
    pub(crate) fn of(&self, request: JobRequest) -> JobRequest {
        JobRequest { target: self.target.to_string(), wait_for_agents: self.wait_for_agents.map(|span| span.to_string()), ..request }
    }

    /// Asks, on a terminal, whether many hosts shall be changed; elsewhere it wants `--yes`.
    pub(crate) async fn confirm(&self, app: &App, client: &Client, operation: &str) -> Result<(), Failure> {
        if self.yes || !self.is_many() || !changes_state(client, operation).await {
            return Ok(());
        }
        let what = format!("{operation} changes state, and {} may be many hosts", self.target);
        if !app.out.stderr_is_terminal || !std::io::stdin().is_terminal() {
            return Err(Failure::new(Exit::Usage, what).because("nobody can be asked here").hint("say --yes if that is meant"));
        }
        let _ = write!(anstream::stderr(), "{what}. Go on? [y/N] ");
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
            return Ok(());
        }
        Err(Failure::new(Exit::Failed, "nothing was submitted").because("it was not confirmed"))
    }
}

/// What the catalogue says; the controller's own for an operation that this program does not know. One that nobody knows is refused later.
async fn changes_state(client: &Client, name: &str) -> bool {
    if let Some(operation) = Operation::by_name(name) {
        return operation.spec().kind == Kind::Modify;
    }
    match client.operations().await {
        Ok(catalogue) => catalogue.items.iter().any(|operation| operation.name == name && operation.kind != Kind::Query.as_str()),
        Err(_) => true,
    }
}

/// What the API suggests, in this program's own words.
pub(crate) fn in_our_words(failure: Failure, target: &Target) -> Failure {
    use longshore_client::ErrorCode::AgentOffline;
    let undrain = match target {
        Target::Host(host) => format!("\nif it is drained:     longshore agent undrain {host}"),
        Target::Any | Target::All | Target::Group(_) | Target::AnyOf(_) => String::new(),
    };
    failure.hint_instead(AgentOffline, format!("let the job wait for it:     --wait-for-agents DURATION{undrain}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::args::{Cli, Command};
    use crate::command::job::Job;

    #[test]
    fn who_is_meant_is_parsed_at_once() {
        for (target, is_many) in
            [("", false), ("_any", false), ("_all", true), ("web-01", false), ("group:web", true), ("_any@group:web", false)]
        {
            let words = ["longshore", "job", "submit", "x", "--target", target];
            // Who says nothing means one agent.
            let (words, target) = if target.is_empty() { (&words[..4], "_any") } else { (&words[..], target) };
            let cli = Cli::try_parse_from(words).unwrap();
            let Command::Job(Job::Submit(submit)) = cli.command else { panic!("{target}") };
            assert_eq!((submit.audience.is_many(), submit.audience.target.to_string().as_str()), (is_many, target));
        }
        let error = Cli::try_parse_from(["longshore", "job", "submit", "x", "--target", "a b"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }
}
