//! What every command has at hand: the output, the settings, the client.

use std::time::Duration;

use longshore_client::{Client, ClientConfig};

use crate::args::Global;
use crate::contexts::Contexts;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::{Loaded, Secret, Sources};

/// A flag that says something of a setting: the key, the flag's name, the value.
pub(crate) type Flag = (&'static str, &'static str, String);

/// What every command has at hand.
#[derive(Debug, Clone)]
pub(crate) struct App {
    /// Where it writes.
    pub(crate) out: Output,
    global: Global,
}

/// How long a command repeats what fails in passing before it tells.
const RETRY_BUDGET: Duration = Duration::from_secs(3);

impl App {
    /// From the command line.
    pub(crate) fn new(global: Global) -> Self {
        Self { out: Output::new(global.output, global.color, global.quiet), global }
    }

    /// The settings, with what the command's own flags say of them.
    pub(crate) fn settings(&self, flags: Vec<Flag>) -> Result<Loaded, Failure> {
        let mut sources = Sources::of_this_process(self.global.config.clone(), self.global.env_file.clone());
        sources.flags = flags;
        Ok(sources.load()?)
    }

    /// A client for the controller that the flags, the environment, the settings or the current context name, in this order.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let side = self.settings(Vec::new())?.settings.controller.client;
        let url = self.global.url.clone().or_else(|| variable("LONGSHORE_URL")).or(side.url);
        let token_file = self.global.token_file.clone().or_else(|| variable("LONGSHORE_TOKEN_FILE").map(Into::into));
        let secret = token_file.map(Secret::File).or(side.security.bearer_token);

        let contexts = Contexts::path().and_then(|path| Contexts::load(&path));
        let name = variable("LONGSHORE_CONTEXT");
        // A context that is broken or missing matters only to those who need it.
        let context = match (&url, &secret) {
            (Some(_), Some(_)) => None,
            (Some(_), None) => contexts.ok().and_then(|contexts| contexts.get(name.as_deref()).ok().flatten().cloned()),
            (None, Some(_) | None) => contexts?.get(name.as_deref())?.cloned(),
        };
        let Some(url) = url.clone().or_else(|| context.as_ref().map(|context| context.url.clone())) else {
            return Err(Failure::new(Exit::Unreachable, "no controller is known")
                .hint("start one here:     longshore start")
                .hint("or name one:        longshore --url http://HOST:PORT --token-file FILE …")
                .code("no_controller"));
        };
        // A context's token is for that context's controller and nobody else.
        let of_context = context.filter(|context| context.url == url).and_then(|context| context.token_file).map(Secret::File);
        let token = match secret.or(of_context) {
            Some(secret) => Some(secret.read().map_err(|error| {
                Failure::new(Exit::NotAllowed, "the token cannot be read").caused_by(&error).hint("name another with --token-file FILE")
            })?),
            None => None,
        };
        Ok(Client::new(ClientConfig { url, token })?.with_retry_budget(RETRY_BUDGET))
    }
}
