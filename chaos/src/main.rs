//! Chaos: real processes and a real broker under one misfortune after another, `cargo xtask chaos`.
//!
//! ```text
//!   keeper ─ a directory and namespaces that go with it ─► run, for each cell:
//!
//!     set up ── load ─────────────────────────────────────────────── drain ── read again ── check
//!                warm │ rate before │ strike … heal │ settle │ rate after
//! ```
//!
//! A *cell* is how a misfortune is made and healed ([`cell`], one file each); everything else is common: the fleet, the load (through the
//! REST API, as a client that repeats what it does not know the outcome of), the history of what was answered, and the checker. The truth
//! about what ran is what the jobs themselves wrote down ([`longshore_testkit::witness`]), and the checker shares no rule with the product.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the report is the program's output, and what it is doing is shown beside it"
)]

mod cell;
mod check;
mod evidence;
mod fleet;
mod history;
mod host;
mod keeper;
mod load;
mod options;
mod report;
mod run;

use std::process::ExitCode;

use options::{Options, Wish};

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let stage = keeper::stage(&mut args);
    let options = match Options::parse(args.iter().cloned()) {
        Ok(Wish::Run(options)) => options,
        Ok(Wish::Help) => {
            println!("{}", options::usage());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("error: {error:#}\n\n{}", options::usage());
            return ExitCode::from(2);
        }
    };
    let done = match stage {
        keeper::Stage::Outside => keeper::run_inside(&args),
        keeper::Stage::Inside(powers) => run::all(&options, powers),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
