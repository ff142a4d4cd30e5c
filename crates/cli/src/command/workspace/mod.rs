//! `longshore workspace`: workspace jobs without a fleet.

mod environment;
mod flags;
mod worker;

use std::ffi::OsString;
use std::path::Path;

use clap::Subcommand;

pub(crate) use self::flags::Worker;
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;

/// What this program was called before, by those whose place it takes.
const EARLIER_NAME: &str = "nats-fs-worker";

/// Workspace jobs from directories on a shared drive.
#[derive(Debug, Subcommand)]
pub(crate) enum Workspace {
    /// Take jobs from a NATS stream and run them in clean copies of their directories, without a controller. Drop-in for nats-fs-worker.
    Worker(Worker),
}

impl Workspace {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        match self {
            Self::Worker(worker) => worker.perform(app).await,
        }
    }
}

/// The command line as it is meant: called by the earlier name, this program is that worker.
pub(crate) fn meant(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = words.into_iter().collect();
    let is_earlier = words.first().is_some_and(|program| Path::new(program).file_name().is_some_and(|name| name == EARLIER_NAME));
    let asks_for_version = words.len() == 2 && matches!(words[1].to_str(), Some("--version" | "-V"));
    if is_earlier && !asks_for_version {
        words.splice(..1, ["longshore", "workspace", "worker"].map(OsString::from));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_name_means_the_worker() {
        let check = |line: &str, expected: &str| {
            let words = meant(line.split(' ').map(OsString::from));
            assert_eq!(words, expected.split(' ').map(OsString::from).collect::<Vec<_>>());
        };
        check("/usr/bin/nats-fs-worker -o 5 --dry-run", "longshore workspace worker -o 5 --dry-run");
        check("nats-fs-worker --version", "nats-fs-worker --version");
        check("longshore -o json status", "longshore -o json status");
        check("longshore run nats-fs-worker", "longshore run nats-fs-worker");
    }
}
