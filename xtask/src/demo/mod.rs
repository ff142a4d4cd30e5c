//! `cargo xtask demo`: the main job on real input, then the proof that nothing is lost when things are killed.

mod http;
mod proof;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::{build_longshore, root, run as run_shown};
use crate::process::Scratch;
use crate::setup;

/// How long a role may take to be ready. On an idle machine it is under 2 s.
pub(crate) const READY_WITHIN: Duration = Duration::from_secs(60);

/// The program under demonstration, with an environment in which it finds nothing of the caller's.
pub(crate) struct Longshore {
    pub(crate) binary: PathBuf,
    pub(crate) nats_server: PathBuf,
    pub(crate) home: PathBuf,
}

impl Longshore {
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LONGSHORE_")) {
            command.env_remove(name);
        }
        for (name, dir) in [("XDG_CONFIG_HOME", "config"), ("XDG_DATA_HOME", "data"), ("XDG_STATE_HOME", "state")] {
            command.env(name, self.home.join(dir));
        }
        command.env("NATS_SERVER_BIN", &self.nats_server).args(args);
        command
    }
}

/// Runs it all.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let given = match args {
        [] => None,
        [flag, binary] if flag == "--binary" => Some(std::path::absolute(binary)?),
        _ => bail!("`demo` takes nothing, or `--binary FILE`"),
    };
    let nats_server = setup::nats_server()?;
    let binary = given.map_or_else(build_longshore, Ok)?;
    let scratch = Scratch::new()?;
    let longshore = Longshore { binary, nats_server, home: scratch.dir("home")? };

    println!("\n1. Everything on this host, in one process\n");
    main_job(&longshore, &scratch)?;
    println!("\n2. The three roles apart, killed while they work\n");
    proof::run(&longshore, &scratch)?;
    let dir = scratch.dir("")?;
    drop(scratch);
    ensure!(!dir.exists(), "{} is still there", dir.display());
    println!("\nAll stopped, nothing left behind.");
    Ok(())
}

fn main_job(longshore: &Longshore, scratch: &Scratch) -> Result<()> {
    let data = scratch.dir("all-in-one")?;
    let work = scratch.dir("work")?;
    println!("$ longshore start");
    let mut start = longshore.command(&["start", "--listen", "127.0.0.1:0", "-o", "json", "--data"]);
    start.arg(&data).current_dir(&work);
    let began = Instant::now();
    let mut start = scratch.spawn("start", start)?;
    let ready = start.ready(READY_WITHIN)?;
    println!("  broker, controller and agent are ready after {:.1} s", began.elapsed().as_secs_f64());
    println!("  controller {}, broker {}", ready["url"].as_str().unwrap_or("?"), ready["nats_url"].as_str().unwrap_or("?"));

    println!("\n$ longshore run examples/hello-c -- 'make' './hello > greeting.txt'");
    let mut example = longshore.command(&["run"]);
    example.arg(root().join("examples/hello-c")).args(["--", "make", "./hello > greeting.txt"]);
    run_shown(in_dir(example, &work))?;
    check_results(&work.join("results"))?;

    println!("\n$ longshore run -- uname -a");
    run_shown(in_dir(longshore.command(&["run", "--", "uname", "-a"]), &work))?;
    println!("\n$ longshore job list");
    run_shown(in_dir(longshore.command(&["job", "list"]), &work))?;

    let status = start.stop()?;
    println!("\n  asked to stop, it did ({status})");
    Ok(())
}

fn in_dir(mut command: Command, dir: &Path) -> Command {
    command.current_dir(dir);
    command
}

/// The program that was built on the agent came back and runs here, and says what it had said there.
fn check_results(results: &Path) -> Result<()> {
    let greeting = fs::read_to_string(results.join("greeting.txt")).context("results/greeting.txt did not come back")?;
    let hello = results.join("hello");
    let mode = fs::metadata(&hello).context("results/hello did not come back")?.permissions().mode();
    ensure!(mode & 0o100 != 0, "results/hello came back, but is not executable");
    let again = Command::new(&hello).output().context("results/hello does not run")?;
    ensure!(again.stdout == greeting.as_bytes(), "results/hello does not say what results/greeting.txt says");
    println!("\n  results/hello and results/greeting.txt came back; the greeting is:");
    println!("    {}", greeting.trim().replace('\n', "\n    "));
    Ok(())
}
