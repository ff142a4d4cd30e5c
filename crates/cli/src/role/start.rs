//! `longshore start`: everything on this host, in one process beside the nats-server.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::broker::Broker;
use super::data::DataDir;
use super::shutdown::{DRAIN_WITHIN, Signals, Tokens};
use super::{RoleFlags, agent, broker_flags, controller, job_keys, keys, mapping};
use crate::app::App;
use crate::contexts::{Context, Contexts, Noted};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::settings::{Settings, without_credentials};

/// Run everything on this host: broker, controller, agent.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples\n  longshore start\n  longshore start --data /srv/longshore --listen 0.0.0.0:8080\n  longshore start --nats-url nats://nats.internal:4222   with a broker that runs elsewhere"
)]
pub(crate) struct Start {
    /// Address of the REST API; 127.0.0.1:8080 unless configured.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// The nats-server program.
    #[arg(long, value_name = "FILE")]
    nats_server: Option<PathBuf>,
    #[command(flatten)]
    role: RoleFlags,
}

/// Everything that runs.
struct Running {
    broker: Option<Broker>,
    controller: longshore_controller::Controller,
    agent: longshore_agent::Agent,
    agent_line: String,
    token_file: PathBuf,
}

impl Start {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        let began = Instant::now();
        let mut flags = self.role.flags()?;
        flags.extend(self.listen.map(|listen| ("controller.api.listen", "--listen", listen)));
        flags.extend(self.nats_server.map(|path| ("nats.server.binary", "--nats-server", path.display().to_string())));
        let settings = app.settings(flags)?.settings;
        let mut signals = Signals::catch()?;
        let data = DataDir::take(self.role.data)?;
        let running = tokio::select! {
            running = bring_up(&settings, data.path()) => running?,
            exit = signals.next() => return Ok(exit),
        };
        let Running { broker, controller, agent, agent_line, token_file } = running;
        let (url, secured) = (controller::url(controller.local_addr()), controller.secured_addr());
        let ready = controller.ready();
        let tokens = Tokens::default();
        let (exit, ended) = {
            let serving = signals.guide(&app.out, &tokens, serve(controller, agent, &tokens));
            tokio::pin!(serving);
            // Said when it is true: everything is known and served.
            tokio::select! {
                ended = &mut serving => ended,
                () = ready => {
                    let noted = write_context(app, &url, &token_file);
                    let ready = Ready { broker: broker.as_ref(), url: &url, secured, agent_line: &agent_line, token_file: &token_file, noted, began };
                    let told = announce(app, &settings, &data, &ready);
                    if told.is_err() {
                        tokens.drain.cancel();
                    }
                    let (exit, ended) = serving.await;
                    (exit, ended.and(told))
                }
            }
        };
        if let Some(broker) = broker {
            broker.stop().await;
        }
        ended.map(|()| exit)
    }
}

/// What is said when everything runs.
struct Ready<'a> {
    broker: Option<&'a Broker>,
    url: &'a str,
    /// Where it listens with TLS, if it does.
    secured: Option<std::net::SocketAddr>,
    agent_line: &'a str,
    token_file: &'a Path,
    noted: Option<Noted>,
    began: Instant,
}

async fn bring_up(settings: &Settings, data: &Path) -> Result<Running, Failure> {
    let broker = match settings.nats.url {
        Some(_) => None,
        None => Some(Broker::start(&settings.nats, data).await?),
    };
    match with_broker(settings, data, broker.as_ref()).await {
        Ok((controller, agent, agent_line, token_file)) => Ok(Running { broker, controller, agent, agent_line, token_file }),
        Err(failure) => {
            if let Some(broker) = broker {
                broker.stop().await;
            }
            Err(failure)
        }
    }
}

async fn with_broker(
    settings: &Settings,
    data: &Path,
    broker: Option<&Broker>,
) -> Result<(longshore_controller::Controller, longshore_agent::Agent, String, PathBuf), Failure> {
    let key = keys::signing_key(settings, data)?;
    let token_file = keys::admin_token(&key, data)?;
    // On a broker of somebody else there may be other controllers, and agents that know nothing of these keys.
    if broker.is_some() {
        job_keys::make_for(settings, data)?;
    }
    let durability = if broker.is_some() { "always" } else { "unknown" };
    let controller_config = mapping::controller(settings, data, key, durability)?;
    let agent_config = mapping::agent(settings, data)?;
    let agent_line = format!("agent {}, up to {} jobs at once", agent_config.hostname(), agent_config.max_jobs);
    let store = broker_flags::connect(&mapping::store(settings, broker.map(|broker| &broker.endpoint), "longshore")?).await?;
    let controller = controller::bind(controller_config, store.clone()).await?;
    let agent = agent::ready(agent_config, store).await?;
    Ok((controller, agent, agent_line, token_file))
}

/// Runs the two until they are asked to end, the agent first: its last answers are served by the controller.
async fn serve(controller: longshore_controller::Controller, agent: longshore_agent::Agent, tokens: &Tokens) -> Result<(), Failure> {
    let controller_drain = CancellationToken::new();
    let mut parts: JoinSet<Result<Part, Failure>> = JoinSet::new();
    let (drain, stop) = (tokens.drain.clone(), tokens.stop.clone());
    parts.spawn(async move { ended(Part::Agent, agent.run(drain, stop).await) });
    let drain = controller_drain.clone();
    parts.spawn(async move { ended(Part::Controller, controller.run(drain).await) });

    let mut result = Ok(());
    while let Some(part) = parts.join_next().await {
        let unasked = !tokens.drain.is_cancelled();
        match part {
            Ok(Ok(part)) if unasked => result = result.and(Err(Failure::new(Exit::Failed, format!("the {} ended unasked", part.name())))),
            Ok(Ok(_)) => {}
            Ok(Err(failure)) => result = result.and(Err(failure)),
            Err(error) => result = result.and(Err(Failure::new(Exit::Failed, "a part of the program ended").caused_by(&error))),
        }
        // Whichever it was, the other has no business without it.
        tokens.drain.cancel();
        controller_drain.cancel();
    }
    result
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Agent,
    Controller,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Controller => "controller",
        }
    }
}

fn ended<E: std::error::Error + 'static>(part: Part, result: Result<(), E>) -> Result<Part, Failure> {
    result.map(|()| part).map_err(|error| Failure::new(Exit::Failed, format!("the {} ended", part.name())).caused_by(&error))
}

/// Makes this host's controller known to commands. Whoever has no place for that gives `--url`.
fn write_context(app: &App, url: &str, token_file: &Path) -> Option<Noted> {
    let write = || {
        let path = Contexts::path()?;
        let mut contexts = Contexts::load(&path)?;
        let noted = contexts.note_local(Context { url: url.to_owned(), token_file: Some(token_file.to_owned()) });
        contexts.save(&path)?;
        Ok(noted)
    };
    match write() {
        Ok(noted) => {
            if let Some(before) = &noted.replaced {
                app.out.say(format!("context `{}` was {}, whose token file is gone; it is replaced", noted.name, before.url));
            }
            Some(noted)
        }
        Err(failure) => {
            app.out.say("no context could be written; commands need --url and --token-file");
            app.out.fail(&failure);
            None
        }
    }
}

/// How commands find this controller: a remark, and an example.
fn way_here(noted: Option<&Noted>, url: &str, token_file: &Path) -> (String, String) {
    match noted {
        Some(Noted { name, current: None, .. }) => (format!("context \"{name}\" is current"), "longshore run -- echo hello".to_owned()),
        Some(Noted { name, current: Some(current), .. }) => (
            format!("context \"{name}\"; \"{current}\" stays current (longshore context use {name} changes that)"),
            format!("LONGSHORE_CONTEXT={name} longshore run -- echo hello"),
        ),
        None => ("no context".to_owned(), format!("longshore --url {url} --token-file {} run -- echo hello", token_file.display())),
    }
}

fn announce(app: &App, settings: &Settings, data: &DataDir, ready: &Ready<'_>) -> Result<(), Failure> {
    let pid = std::process::id();
    let Ready { broker, url, secured, agent_line, token_file, noted, began } = ready;
    let nats_url =
        broker.map(|broker| broker.endpoint.url()).or_else(|| settings.nats.url.as_deref().map(|url| without_credentials(url).0));
    let mut document = json!({
        "url": url, "nats_url": nats_url, "nats_token_file": broker.map(|broker| &broker.endpoint.token_file),
        "nats_pid": broker.map(Broker::pid), "pid": pid, "data": data.path(), "token_file": token_file,
        "context": noted.as_ref().map(|noted| &noted.name),
    });
    if let Some(address) = secured {
        document["tls_address"] = address.to_string().into();
    }
    let broker_line = broker.map_or_else(
        || format!("broker        {}, not ours", nats_url.as_deref().unwrap_or_default()),
        |broker| format!("nats-server {} {}, JetStream, our child (pid {})", broker.version, broker.endpoint.url(), broker.pid()),
    );
    let age = if data.is_new { ", new" } else { "" };
    let (context, example) = way_here(noted.as_ref(), url, token_file);
    tell(app, &document, || {
        format!(
            "longshore {}, everything on this host (data in {}{age})\n  \u{2714} {broker_line}\n  \u{2714} controller {url}, {context}\n  \
             \u{2714} {}\nReady in {:.1} s. Ctrl-C stops it; running jobs get {} s.      Try:  {example}",
            env!("CARGO_PKG_VERSION"),
            data.path().display(),
            agent_line,
            began.elapsed().as_secs_f64(),
            DRAIN_WITHIN.as_secs(),
        )
    })
}

/// Says that a role is ready: one line of JSON on standard output where a machine asked for it, words on standard error else.
pub(crate) fn tell(app: &App, document: &serde_json::Value, words: impl FnOnce() -> String) -> Result<(), Failure> {
    if app.out.is_for_machines() {
        return app.out.lines(document);
    }
    app.out.say(words());
    Ok(())
}
