//! What may be said on the command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::cell::{CELLS, Kind};

/// How long a cell is under load unless said otherwise, in seconds.
const SECONDS: u64 = 45;
/// A cell that did fewer jobs a second before its misfortune says nothing.
const RATE_MIN: f64 = 50.0;
/// The part of the rate before that is to be back after the heal. The aim is higher; below this it has not recovered, whatever the machine does.
const RECOVERY_MIN: f64 = 0.5;
/// Jobs on their way at once unless said otherwise.
const IN_FLIGHT: usize = 64;

/// What is to be done.
pub(crate) enum Wish {
    Run(Options),
    Help,
}

/// How much is tried.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Under load, for each cell; more if healing takes long.
    pub(crate) length: Duration,
    pub(crate) cells: Vec<&'static Kind>,
    /// Whether the cells were chosen by name: then one that cannot be made here is a failure.
    pub(crate) is_chosen: bool,
    pub(crate) as_json: bool,
    /// Whether histories and logs are kept of cells that held, too.
    pub(crate) keeps: bool,
    pub(crate) rate_min: f64,
    pub(crate) recovery_min: f64,
    pub(crate) in_flight: usize,
    pub(crate) seed: u64,
    /// The program that is tried.
    pub(crate) binary: PathBuf,
}

pub(crate) fn usage() -> String {
    let cells: String = CELLS.iter().map(|kind| format!("  {:<16} {}\n", kind.name, kind.what)).collect();
    format!(
        "chaos [--cell NAME]… [--seconds N] [--json] [--keep] [--rate-min N] [--recovery-min N] [--in-flight N] [--seed N] [--binary FILE]\n\n\
         Each cell is a fleet of its own under load for N seconds ({SECONDS}). One with fewer than --rate-min ({RATE_MIN:.0}) jobs a second\n\
         before its misfortune does not count; one with less than --recovery-min ({RECOVERY_MIN}) of that afterwards is broken. Ends with 0 if every promise held, 1 if one was broken, 2 if a cell did not count.\n\
         Of a broken cell, and with --keep of each, the history of every job, the witness file and all logs stay in target/chaos/CELL.\n\n\
         Cells:\n{cells}"
    )
}

impl Options {
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> anyhow::Result<Wish> {
        let mut options = Self {
            length: Duration::from_secs(SECONDS),
            cells: Vec::new(),
            is_chosen: true,
            as_json: false,
            keeps: false,
            rate_min: RATE_MIN,
            recovery_min: RECOVERY_MIN,
            in_flight: IN_FLIGHT,
            seed: u64::from(std::process::id()),
            binary: PathBuf::new(),
        };
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} wants a value"));
            match arg.as_str() {
                "--cell" => {
                    let name = value()?;
                    let kind = CELLS.iter().find(|kind| kind.name == name).with_context(|| format!("there is no cell {name:?}"))?;
                    options.cells.push(kind);
                }
                "--seconds" => {
                    let seconds = value()?.parse().ok().filter(|n| (3..=86_400).contains(n)).context("--seconds wants 3 to 86400")?;
                    options.length = Duration::from_secs(seconds);
                }
                "--rate-min" => options.rate_min = fraction(&value()?).context("--rate-min wants a number")?,
                "--recovery-min" => options.recovery_min = fraction(&value()?).context("--recovery-min wants a number")?,
                "--in-flight" => {
                    options.in_flight = value()?.parse().ok().filter(|n| (1..=4096).contains(n)).context("--in-flight wants 1 to 4096")?;
                }
                "--seed" => options.seed = value()?.parse().context("--seed wants a number")?,
                "--binary" => options.binary = PathBuf::from(value()?),
                "--json" => options.as_json = true,
                "--keep" => options.keeps = true,
                "--help" | "-h" => return Ok(Wish::Help),
                _ => anyhow::bail!("unknown option {arg:?}"),
            }
        }
        if options.cells.is_empty() {
            (options.cells, options.is_chosen) = (CELLS.iter().collect(), false);
        }
        if options.binary.as_os_str().is_empty() {
            options.binary = std::env::current_exe().context("the system does not tell where this program is")?.with_file_name("longshore");
        }
        options.binary = std::path::absolute(&options.binary).context("the working directory is gone")?;
        ensure!(options.binary.is_file(), "{} is not built: use `cargo xtask chaos`", options.binary.display());
        Ok(Wish::Run(options))
    }
}

/// A number that is not negative.
fn fraction(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| *number >= 0.0)
}
