//! What every command has at hand: the output, the settings, the client.

use std::path::Path;
use std::time::Duration;

use longshore_client::{Client, ClientConfig};

use crate::args::Global;
use crate::contexts::Contexts;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::{Loaded, Sources};
use crate::target::{self, Named, Target};

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

    /// The settings file that the command line names, and its file of variables.
    pub(crate) fn named_files(&self) -> (Option<&Path>, Option<&Path>) {
        (self.global.config.as_deref(), self.global.env_file.as_deref())
    }

    /// The settings, with what the command's own flags say of them.
    pub(crate) fn settings(&self, flags: Vec<Flag>) -> Result<Loaded, Failure> {
        let mut sources = Sources::of_this_process(self.global.config.clone(), self.global.env_file.clone());
        sources.flags = flags;
        Ok(sources.load()?)
    }

    /// The controller that the command line names.
    pub(crate) fn named(&self) -> Named {
        Named { url: self.global.url.clone(), token_file: self.global.token_file.clone() }
    }

    /// Which controller commands talk to, by the flags, the environment, the settings and the contexts.
    pub(crate) fn target(&self, loaded: &Loaded) -> Result<Target, Failure> {
        target::choose(&self.named(), loaded, Contexts::path().and_then(|path| Contexts::load(&path)))
    }

    /// A client for that controller.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let Target { url, token, withheld } = self.target(&self.settings(Vec::new())?)?;
        let Some((url, _)) = url else {
            return Err(Failure::new(Exit::Unreachable, "no controller is known")
                .hint("start one here:     longshore start")
                .hint("or name one:        longshore --url http://HOST:PORT --token-file FILE …")
                .code("no_controller"));
        };
        if let Some(origin) = withheld {
            self.out.say(format!("the token of {origin} is for another controller and not sent to {url}; give one with --token-file FILE"));
        }
        let token = match token {
            Some((secret, _)) => Some(secret.read().map_err(|error| {
                Failure::new(Exit::NotAllowed, "the token cannot be read").caused_by(&error).hint("name another with --token-file FILE")
            })?),
            None => None,
        };
        Ok(Client::new(ClientConfig { url, token })?.with_retry_budget(RETRY_BUDGET))
    }
}
