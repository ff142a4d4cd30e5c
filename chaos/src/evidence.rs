//! What is kept of a cell in which a promise was broken: the history of each job, what the jobs wrote down, and every process's log.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use longshore_testkit::witness::Witness;

use crate::fleet::Fleet;
use crate::history::JobHistory;

/// Writes it beside the program, below `chaos`, in the place of what was kept of this cell before. Gives where.
pub(crate) fn keep(cell: &str, jobs: &[JobHistory], witness: &Witness, fleet: &Fleet) -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2).context("the program lies in a build directory")?;
    let dir = target.join("chaos").join(cell);
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    let mut lines = String::new();
    for job in jobs {
        writeln!(lines, "{}", serde_json::to_string(job)?)?;
    }
    fs::write(dir.join("history.jsonl"), lines)?;
    fs::copy(witness.path(), dir.join("witness.log"))?;
    for (name, log) in fleet.logs() {
        fs::write(dir.join(format!("{name}.log")), log)?;
    }
    Ok(dir)
}
