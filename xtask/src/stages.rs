//! Tests, continuous integration and benchmark: cargo, with a nats-server at hand.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cargo::{build_longshore, cargo, root, run, target_dir};
use crate::setup;

/// `cargo xtask test`: builds the program that tests start, then runs all tests, or those that `args` choose.
pub(crate) fn test(args: &[String]) -> Result<()> {
    let nats_server = setup::nats_server()?;
    build_longshore()?;
    run(tests(&nats_server, args))?;
    if args.is_empty() { run(wasm("test", &[])) } else { Ok(()) }
}

/// The tests of the feature that is off by default. Features are resolved for the whole workspace, so that nothing else is compiled anew.
fn wasm(command: &str, args: &[&str]) -> Command {
    let mut command = cargo(&[command, "--workspace", "--features", "longshore-cli/wasm", "--test", "wasm", "--locked"]);
    command.args(args);
    command
}

fn tests(nats_server: &Path, args: &[String]) -> Command {
    let chooses_packages = args.iter().take_while(|arg| *arg != "--").any(|arg| arg.starts_with("-p") || arg.starts_with("--package"));
    let mut command = cargo(&["test", "--locked"]);
    if !chooses_packages {
        command.arg("--workspace");
    }
    command.args(args).env("NATS_SERVER_BIN", nats_server);
    command
}

/// `cargo xtask bench`: the program and the benchmark in release, in one build. That of workers has every runtime in it; the others measure the
/// program as it is built without asking for more.
pub(crate) fn bench(args: &[String]) -> Result<()> {
    let nats_server = setup::nats_server()?;
    let mut build = cargo(&["build", "--release", "--locked", "-p", "longshore-cli", "-p", "longshore-bench"]);
    if args.first().is_some_and(|name| name == "worker") {
        build.args(["--features", "longshore-cli/wasm"]);
    }
    run(build)?;
    let mut command = Command::new(target_dir().join("release/longshore-bench"));
    if args.is_empty() {
        command.arg("jobs");
    }
    command.args(args).current_dir(root()).env("NATS_SERVER_BIN", nats_server);
    run(command)
}

/// `cargo xtask chaos`: the program that tests start, and the harness.
pub(crate) fn chaos(args: &[String]) -> Result<()> {
    let nats_server = setup::nats_server()?;
    let longshore = build_longshore()?;
    run(cargo(&["build", "--workspace", "--bin", "longshore-chaos", "--locked"]))?;
    let mut command = Command::new(longshore.with_file_name("longshore-chaos"));
    command.args(args).env("NATS_SERVER_BIN", nats_server);
    run(command)
}

/// `cargo xtask ci`: every stage, also after one that failed, and a summary.
pub(crate) fn ci() -> Result<()> {
    for (tool, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let found = cargo(&[tool, "--version"]).output().is_ok_and(|output| output.status.success());
        if !found {
            bail!("`cargo {tool}` is missing: `rustup component add {component}`");
        }
    }
    let mut stages = Stages::default();
    let mut nats_server = PathBuf::new();
    stages.run("setup", || {
        nats_server = setup::nats_server()?;
        Ok(())
    });
    stages.run("formatting", || run(cargo(&["fmt", "--all", "--check"])));
    stages.run("clippy", || run(cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])));
    stages.run("tests", || {
        build_longshore()?;
        run(tests(&nats_server, &[]))
    });
    // After the others, which need none of it; its own code is looked at here too.
    stages.run("wasm", || {
        run(wasm("clippy", &["--bin", "longshore", "--", "-D", "warnings"]))?;
        run(wasm("test", &[]))
    });
    stages.run("documentation", || {
        let mut command = cargo(&["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"]);
        command.env("RUSTDOCFLAGS", "-D warnings");
        run(command)
    });
    stages.summary()
}

#[derive(Default)]
struct Stages(Vec<(&'static str, Duration, bool)>);

impl Stages {
    fn run(&mut self, name: &'static str, stage: impl FnOnce() -> Result<()>) {
        println!("ci: {name} ...");
        let began = Instant::now();
        let outcome = stage();
        if let Err(error) = &outcome {
            eprintln!("ci: {name} failed: {error:#}");
        }
        println!("ci: {name} took {:.1} s", began.elapsed().as_secs_f64());
        self.0.push((name, began.elapsed(), outcome.is_ok()));
    }

    fn summary(self) -> Result<()> {
        println!("\nci: summary");
        for (name, took, passed) in &self.0 {
            println!("  {:<6} {name:<14} {:>7.1} s", if *passed { "ok" } else { "FAILED" }, took.as_secs_f64());
        }
        let failed: Vec<_> = self.0.iter().filter(|(.., passed)| !passed).map(|(name, ..)| *name).collect();
        if failed.is_empty() {
            return Ok(());
        }
        bail!("failed: {}", failed.join(", "))
    }
}
