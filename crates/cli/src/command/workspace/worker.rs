//! Runs the worker: from what the flags say to its exit code.

use longshore_agent::workspace_worker::{Config, DryRun, Ended, Error, dry_run, serve};
use longshore_exec::SupervisorCommand;
use longshore_exec::workspace::Runner;
use longshore_model::limits::{KILL_GRACE, REQUEST_BYTES_MAX};
use longshore_store::jetstream::stand_alone::{Requests, RequestsConfig};
use longshore_store::jetstream::{Auth, ConnectError, Tls};

use super::environment::inherited;
use super::flags::{Said, Worker};
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::to_json;
use crate::role::{Signals, Tokens, supervisor};

/// What a dry run reads.
const PAYLOAD: &str = "test-payload.json";

impl Worker {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        let said = self.said();
        if said.max_jobs > 1 && !said.stay {
            return Err(Failure::new(Exit::Usage, "--max-jobs is for workers that stay").hint("add --stay, or take --max-jobs away"));
        }
        let config = config(&said, supervisor()?);
        keep_private();
        let mut signals = Signals::catch()?;
        if said.dry_run {
            return dry(app, &config, signals).await;
        }
        // Loaded while the broker is connected to.
        config.runner.prepare();
        let requests = tokio::select! {
            requests = Requests::open(queue(&said)) => requests.map_err(|error| not_connected(&error))?,
            exit = signals.next() => return Ok(exit),
        };
        let tokens = Tokens::default();
        let serving = serve(config, requests, tokens.drain.clone(), tokens.stop.clone());
        let (exit, ended) = signals.guide_within(&app.out, &tokens, said.drain_within, serving).await;
        match ended {
            Ok(Ended::Done | Ended::NoJob) => Ok(exit),
            Ok(Ended::Refused(reason)) => Err(Failure::new(Exit::Failed, "the request was refused").because(reason)),
            Ok(Ended::Failed(reason)) => Err(Failure::new(Exit::Failed, "the job could not be done here").because(reason)),
            Err(error @ Error::Broker(_)) => Err(Failure::new(Exit::Failed, "the broker was lost").caused_by(&error).code("broker")),
            Err(error @ Error::Workspaces(_)) => Err(Failure::new(Exit::Failed, "the worker cannot start").caused_by(&error)),
        }
    }
}

async fn dry(app: &App, config: &Config, signals: Signals) -> Result<Exit, Failure> {
    let payload = read_payload()?;
    let tokens = Tokens::default();
    let (exit, ended) = signals.guide(&app.out, &tokens, dry_run(config, &payload, tokens.drain.clone())).await;
    let (response, failure) = match ended {
        DryRun::Done(response) => (Some(response), None),
        DryRun::Refused(response, reason) => (response, Some(Failure::new(Exit::Failed, "the request was refused").because(reason))),
        DryRun::Failed(reason) => (None, Some(Failure::new(Exit::Failed, "the job could not be done here").because(reason))),
    };
    if let Some(response) = response {
        app.out.lines(to_json(&response))?;
    }
    failure.map_or(Ok(exit), Err)
}

fn read_payload() -> Result<Vec<u8>, Failure> {
    use std::io::Read as _;
    let mut payload = Vec::new();
    let read = std::fs::File::open(PAYLOAD).and_then(|file| file.take(REQUEST_BYTES_MAX as u64).read_to_end(&mut payload));
    read.map(|_| payload).map_err(|error| {
        Failure::new(Exit::Failed, format!("{PAYLOAD} cannot be read"))
            .caused_by(&error)
            .hint(format!("a dry run takes the payload of a job from {PAYLOAD} in the current directory:"))
            .hint("    {\"id\": \"dry-run-test\", \"steps\": [\"echo hello\"]}")
    })
}

fn config(said: &Said, supervisor: SupervisorCommand) -> Config {
    let environment = inherited(std::env::vars_os(), said);
    Config {
        worker: said.id.clone(),
        jobs_dir: said.jobs_dir.clone(),
        workspaces_dir: said.workspaces_dir.clone(),
        output_subject: said.output_subject.clone(),
        timeout: said.timeout,
        max_jobs: said.max_jobs,
        stay: said.stay,
        idle_max: said.idle_max,
        runner: Runner::new(supervisor, KILL_GRACE, environment),
    }
}

fn queue(said: &Said) -> RequestsConfig {
    let auth = match said {
        Said { creds: Some(creds), .. } => Auth::Creds(creds.clone()),
        Said { token: Some(token), .. } => Auth::Token(token.clone()),
        Said { username: Some(user), password, .. } => {
            Auth::UserPassword { user: user.clone(), password: password.clone().unwrap_or_default() }
        }
        Said { .. } => Auth::None,
    };
    RequestsConfig {
        url: said.url.clone(),
        auth,
        tls: Tls::default(),
        client_name: said.id.clone(),
        stream: said.stream.clone(),
        consumer: said.id.clone(),
        subject: said.input_subject.clone(),
        ack_wait: said.timeout,
    }
}

fn not_connected(error: &ConnectError) -> Failure {
    let (what, hint) = match error {
        ConnectError::Connect { .. } => ("the broker could not be reached", "say where it is:     --url nats://HOST:4222"),
        ConnectError::NotLetIn { .. } | ConnectError::Credentials(_) => {
            ("the broker does not let us in", "say who we are:     NATS_USERNAME and NATS_PASSWORD, NATS_TOKEN, or NATS_CREDS")
        }
        ConnectError::Tls { .. } => ("there is no secure connection to the broker", "use an address that its certificate is for"),
        ConnectError::TooOld { .. } | ConnectError::Name(_) | ConnectError::Setup(_) => {
            ("the broker cannot be used", "choose others with --stream, --id, --input-subject and --output-subject")
        }
    };
    Failure::new(Exit::Failed, what).caused_by(error).hint(hint).code("broker")
}

/// Keeps the environment, which may hold credentials, from processes of the same user such as the steps.
fn keep_private() {
    let kept = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    if let Err(error) = kept {
        tracing::debug!(%error, "the environment of this process cannot be kept from others of the same user");
    }
}
