//! `longshore key`: the keys of a fleet, which keep jobs safe from whoever can read or write the broker.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::role::job_keys::{self, FILES};

/// The keys that seal secrets and sign jobs.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Examples\n  longshore key generate --out keys     for a fleet of several hosts; `longshore start` makes its own\n  longshore key rotate --out keys       new ones, with the old ones kept for jobs that wait"
)]
pub(crate) enum Key {
    /// Make the keys of a fleet.
    Generate(Place),
    /// Make new keys beside the old ones, which go on opening and vouching for what waits.
    Rotate(Place),
}

/// Where the keys are.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Directory of the four files.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Key {
    pub(crate) fn perform(self, app: &App) -> Result<Exit, Failure> {
        let (dir, remark) = match self {
            Self::Generate(Place { out }) => {
                if let Some(taken) = FILES.into_iter().find(|name| out.join(name).exists()) {
                    return Err(Failure::new(Exit::Failed, format!("{} is there already", out.join(taken).display()))
                        .because("jobs that wait could not be opened any more")
                        .hint(format!("new keys beside the old ones:     longshore key rotate --out {}", out.display())));
                }
                job_keys::make(&out)?;
                (out, "")
            }
            Self::Rotate(Place { out }) => {
                job_keys::rotate(&out)?;
                (out, "\nFirst the agents, then the controllers: what is sealed or signed with a new key needs agents that have it.")
            }
        };
        let path = |name: &str| dir.join(name);
        let data = json!({
            "agent": { "opening_keys": path("secrets.key"), "trusted_keys": path("jobs.pub") },
            "controller": { "sealing_key": path("secrets.pub"), "signing_key": path("jobs.key") },
        });
        app.out.item(&data, |_| format!("{}{remark}", words(&dir)), || dir.display().to_string())?;
        Ok(Exit::Done)
    }
}

fn words(dir: &Path) -> String {
    format!(
        "keys in {}\n  to the data directory of every agent        secrets.key (secret: opens), jobs.pub\n  \
         to the data directory of every controller   jobs.key (secret: signs), secrets.pub",
        dir.display()
    )
}
